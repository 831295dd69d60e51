"""Do the tests see what they are there for? Faults that stood behind tests which were merged or cut
are planted one after the other, and the tests that remain must fail.

Works in a copy of the checkout, never in it. A fault that was found is not planted again as long as
``--json`` names the same file: the script can be stopped and started. One that is missed ends in
exit code 1. Some 20 minutes on two cores.

    python -m infra.evidence.suite.planted_faults --json infra/evidence/results/planted_faults.json
        [--only WORD ...]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from infra.evidence import published

_TELL: Final = 'alerts.tell(alerts.Alert(f"{dag}: {run} is late", tuple(body), (dag, run, "late")))'


@dataclass(frozen=True)
class PlantedFault:
    """A fault, and the tests that must see it.

    Attributes:
        name: what goes wrong.
        file: where it is planted.
        old: text that stands there once.
        new: what takes its place.
        tests: file of the tests.
        which: as pytest's ``-k`` takes it.
    """

    name: str
    file: str
    old: str
    new: str
    tests: str
    which: str


FAULTS: Final = (
    PlantedFault(
        "rewards are not checked",
        "boig_core/cluster/rollouts.py",
        "[(trajectory, checked(rewards, len(trajectory))) for trajectory, rewards in results]",
        "list(results)",
        "tests/distributed/test_rollouts.py",
        "fails_ends",
    ),
    PlantedFault(
        "a wrong reward is tried again",
        "boig_core/cluster/train.py",
        "isinstance(error, (UserError, ScorerError))",
        "isinstance(error, UserError)",
        "tests/distributed/test_relay.py",
        "killed_rank",
    ),
    PlantedFault(
        "a lost rank ends the training",
        "boig_core/cluster/train.py",
        "if failures > max_failures or",
        "if failures > 0 or",
        "tests/distributed/test_relay.py",
        "killed_rank",
    ),
    PlantedFault(
        "a bench does not use the pools",
        "boig_core/diffusion/bench.py",
        "rollouts or LocalRollouts(sampler, scorer)",
        "LocalRollouts(sampler, scorer)",
        "tests/distributed/test_bench.py",
        "pools",
    ),
    PlantedFault(
        "evaluate_sd measures only at the end",
        "ray_jobs/evaluate_sd.py",
        "images = sample_draws(actors, draws, plan.seeds, recipe.ddpo.chunk, drawn)",
        "images = sample_draws(actors, draws, plan.seeds, recipe.ddpo.chunk)\n"
        "        [drawn(*item) for item in images.items()]",
        "tests/distributed/test_evaluate_sd.py",
        "every_row",
    ),
    PlantedFault(
        "sampled images are handed over only at the end",
        "boig_core/cluster/evaluation.py",
        "            drawn(name, images_of_draw[name])\n",
        "        for name in order:\n            drawn(name, images_of_draw[name])\n",
        "tests/distributed/test_evaluation.py",
        "actors_give",
    ),
    PlantedFault(
        "a late run is told twice",
        "boig_core/orchestration/signals/deadlines.py",
        _TELL,
        _TELL + "\n    " + _TELL.replace('"late"', '"later"'),
        "tests/faults/test_deadlines.py",
        "late",
    ),
    PlantedFault(
        "what is staged is fetched again",
        "boig_core/data/staging.py",
        "    if not store.exists(uri):\n",
        "    if True:\n",
        "tests/faults/test_ingest_faults.py",
        "killed_driver",
    ),
    PlantedFault(
        "no run waits for its turn",
        "boig_core/orchestration/planning/intervals.py",
        "if (holder is not None and is_running(holder)) or is_preceded():",
        "if False:",
        "tests/faults/test_ingest_by_interval.py",
        "quiet or backfill",
    ),
    PlantedFault(
        "a stage prints its environment",
        "boig_core/storage/stage.py",
        "    configure_logging()\n    args = ",
        '    configure_logging()\n    print(dict(__import__("os").environ))\n    args = ',
        "tests/faults/test_orchestration_faults.py",
        "no_secret",
    ),
    PlantedFault(
        "a node that is left in time counts as a failure",
        "boig_core/cluster/train.py",
        "failures += not (isinstance(exc, PreemptionError) or isinstance(error, PreemptedError))",
        "failures += 1",
        "tests/faults/test_ddpo_nodes.py",
        "go_in_every_phase",
    ),
    PlantedFault(
        "tiny models draw scenes by no seed",
        "boig_core/adworld/tiny_models/clip.py",
        "rng = np.random.default_rng(seed)",
        "rng = np.random.default_rng()",
        "tests/unit/adworld/test_tiny_models.py",
        "same_bits",
    ),
)


def main() -> int:
    """Plant what has not been found yet; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, required=True, help="file of what was found")
    parser.add_argument("--only", nargs="+", default=[], help="faults whose names hold a word")
    args = parser.parse_args()
    outcomes: dict[str, Any] = {}
    if args.json.exists():
        outcomes = published.PublishedResult.model_validate_json(args.json.read_text()).numbers
    for fault in FAULTS:
        chosen = not args.only or any(word in fault.name for word in args.only)
        if chosen and not outcomes.get(fault.name, {}).get("found"):
            outcomes[fault.name] = plant(fault)
            print(fault.name, outcomes[fault.name], sep=": ", flush=True)
            published.save(args.json, outcomes)
    missed = [name for name, outcome in outcomes.items() if not outcome["found"]]
    print(f"{len(outcomes) - len(missed)} found, missed: {', '.join(missed) or 'none'}")
    return 1 if missed else 0


def plant(fault: PlantedFault) -> dict[str, Any]:
    """Run the tests with a fault; whether one failed, and the first line that says how."""
    with tempfile.TemporaryDirectory(prefix="boig-planted-") as folder:
        copy = Path(folder, "boig")
        # What is committed, so that a change under way in the checkout decides nothing.
        subprocess.run(
            ["git", "clone", "--quiet", str(published.REPOSITORY), str(copy)], check=True
        )
        file = copy / fault.file
        text = file.read_text("utf-8")
        # A fault that no longer fits would plant nothing, and look like tests that see nothing.
        if text.count(fault.old) != 1:
            raise ValueError(f"{fault.name}: stands {text.count(fault.old)} times in {fault.file}")
        file.write_text(text.replace(fault.old, fault.new), "utf-8")
        # One process, and the first failure ends it: it is all that is asked.
        options = ["-n", "0", "-q", "-x", "-p", "no:cacheprovider", "-k", fault.which]
        started = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *options, fault.tests],
            cwd=copy,
            # The copy's code comes before that of the checkout, which may be installed.
            env={**os.environ, "PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
        )
    messages = [
        line.removeprefix("E").strip() for line in done.stdout.splitlines() if line[:2] == "E "
    ]
    about = {
        "seconds": round(time.monotonic() - started),
        "says": messages[0][:200] if messages else "",
    }
    # 1 says that tests failed. Others say that none ran, such as 5 where none was chosen.
    return {"found": done.returncode == 1, **about, "fault": asdict(fault)["file"]}


if __name__ == "__main__":
    sys.exit(main())
