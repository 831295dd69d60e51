"""What does a retried, a cleared and a resumed training read? Each of the three kinds of training,
through real Airflow and Ray.

Airflow on Postgres with the LocalExecutor, a Ray head with its Jobs API, the real stages on the ad
world with a few steps each. Of each training:

1. the first attempt is killed after its first checkpoint, and Airflow tries again: it must go on
   from that checkpoint;
2. the task, which has finished, is cleared: it must train from the start; it then fails;
3. the task, which has failed, is cleared: it must train from the start; it fails again;
4. `boig resume` is asked, and the task is cleared: it must go on from the third's checkpoint.

What is kept is the head of each attempt's log, and what the manifests of the finished ones say.
Inputs and finished kinds stay in ``--home``, so a run that was broken off goes on. It takes about
ten minutes on two cores.

    python -m infra.evidence.orchestration.retry_and_clear [--home FOLDER] [--json FILE]

Exit code 1: an attempt has read something else.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

from boig_core import environment
from boig_core.config import load_recipe
from boig_core.demo.processes import choose_ports
from boig_core.demo.services import start_ray
from boig_core.storage import commit, manifest, runs, store
from infra.evidence import published
from infra.evidence.orchestration.airflow_on_postgres import SERVERS, AirflowOnPostgres, until
from infra.evidence.stages import Stages, export

FOLDER: Final = Path(__file__).resolve().parent
KINDS: Final = ("finetune_sd", "ddpo", "finetune_llm")
WAIT_S: Final = 1800.0
OVER: Final = ("success", "failed")
SETTINGS: Final = (
    "data.percentiles=[40, 60]",
    "data.floors=[-1, -1, -1]",
    "llm.workers=1",
    "llm.at_once=1",
    "llm.layers=1",
    "llm.steps=8",
    "llm.checkpoint_every=4",
    "llm.eval_posts=12",
    "reward.posts=60",
    "reward.min_auc=null",
    "sd.workers=1",
    "sd.steps=8",
    "sd.batch=4",
    "sd.checkpoint_every=4",
    "ddpo.epochs=2",
    "ddpo.checkpoint_every=1",
    "ddpo.prompts=4",
    "ddpo.images_per_prompt=2",
    "ddpo.sampling_steps=5",
    "ddpo.window=2",
    "ddpo.chunk=4",
    "ddpo.micro_batch=4",
    "ddpo.updates=2",
    "ddpo.rollout_actors=1",
    "ddpo.probe_every=null",
    "reward.actors=1",
)
"""The demo's recipe, as short as it trains. Nothing is learned: what is read is the question."""
CASES: Final = {
    2: "killed, and tried again by Airflow",
    3: "cleared after it had finished",
    4: "cleared after it had failed",
    5: "`boig resume`, then cleared after it had failed",
}
GOES_ON: Final = {2: 1, 5: 4}
"""The attempt that each of these must go on from; the others from none."""


def main() -> int:
    """Click, read, print, and say by the exit code whether each attempt has read what it must."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--home", type=Path, default=Path(".boig/evidence/retry-and-clear"))
    parser.add_argument("--json", type=Path, help="file for all that was read")
    args = parser.parse_args()
    home = args.home.resolve()
    home.mkdir(parents=True, exist_ok=True)
    # So few steps teach a reward nothing, which the strict policy would refuse.
    (home / "policy.yaml").write_text("gates: {min_auc: null}\n", "utf-8")
    os.environ[environment.POLICY.name] = str(home / "policy.yaml")
    inputs = make_inputs(home)
    done = {kind: home / f"{kind}.json" for kind in KINDS}
    missing = [kind for kind in KINDS if not done[kind].exists()]
    if missing:
        measure(home, inputs, missing)
    results = {kind: json.loads(done[kind].read_text("utf-8")) for kind in KINDS}
    wrong = [
        f"{kind}, attempt {number}: {reading}"
        for kind, attempts in results.items()
        for number, reading in attempts.items()
        if not reads_what_it_must(int(number), reading)
    ]
    rows = [
        (kind, CASES[int(number)], "<br>".join(reading["head"]))
        for kind, attempts in results.items()
        for number, reading in attempts.items()
    ]
    table = published.PublishedTable(
        columns=("training", "what happened to it", "head of the next attempt's log"),
        rows=tuple(rows),
    )
    print(table.markdown(), *wrong, sep="\n")
    if args.json:
        published.save(args.json, results, table)
    return 1 if wrong else 0


def make_inputs(home: Path) -> dict[str, dict[str, str]]:
    """Inputs of each training by name, as places in the store below ``home``; made once."""
    stages = Stages(str(home / "store"), "sunlit", settings=SETTINGS)
    posts = str(export(home, "sunlit", 240))
    dataset = stages.run("ingest", "inputs", 0, {"posts": posts})
    dataset = stages.run("perceive", "inputs", 0, dataset)
    models = stages.run("finetune_llm", "inputs", 0, dataset)
    read = {**dataset, "boigllm": models["boigllm"]}
    calibrated = stages.run("calibrate", "inputs", 0, read)
    needs = {"finetune_llm": dataset, "finetune_sd": dataset, "ddpo": {**read, **calibrated}}
    root = f"{stages.root}/"
    return {
        kind: {name: uri.removeprefix(root) for name, uri in inputs.items()}
        for kind, inputs in needs.items()
    }


def measure(home: Path, inputs: dict[str, dict[str, str]], kinds: list[str]) -> None:
    """Start all services, and keep below ``home`` what the attempts of trainings have read."""
    place = Path(tempfile.mkdtemp(prefix="boig-clear-"))
    # `mkdtemp` lets only this user in, but Postgres runs as another one.
    place.chmod(0o755)
    # MLflow's port is the database's: nothing answers as MLflow there, and nobody shall wait.
    more = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "BOIG_RAY_PYTHON": str(place / "python")}
    dag = FOLDER / "retry_and_clear_dag.py"
    machine = AirflowOnPostgres(place, [dag], choose_ports(), more)
    try:
        machine.prepare()
        shutil.copytree(home / "store", machine.store, dirs_exist_ok=True)
        recipe = load_recipe("tiny", SETTINGS).model_dump_json()
        (machine.store / "recipe.json").write_text(recipe, "utf-8")
        located = {
            kind: {name: f"{machine.store}/{at}" for name, at in each.items()}
            for kind, each in inputs.items()
        }
        (machine.store / "inputs.json").write_text(json.dumps(located), "utf-8")
        python, job = place / "python", FOLDER / "retry_and_clear_job.py"
        python.write_text(f'#!/bin/sh\nexec {sys.executable} {job} "$@"\n')
        python.chmod(0o755)
        start_ray(machine, machine.env, machine.ports)
        machine.start_airflow(*SERVERS)
        until("the DAGs are known", lambda: machine.airflow.has_dags(list(inputs)))
        for kind in kinds:
            readings = {number: reading_of(uri) for number, uri in click(machine, kind).items()}
            (home / f"{kind}.json").write_text(json.dumps(readings, indent=1), "utf-8")
    finally:
        machine.kill_all()
        shutil.rmtree(place, ignore_errors=True)


def click(machine: AirflowOnPostgres, kind: str) -> dict[int, str]:
    """Let a training live through all cases; returns the attempts' folders by number."""
    airflow, run = machine.airflow, machine.airflow.start(kind)
    task = store.join(str(machine.store), "runs", run.dag, run.folder, "stage")

    def ends(number: int, state: str) -> None:
        until(
            f"{kind}: attempt {number} ends",
            lambda: commit.attempts(task)[-1:] == [number] and airflow.state(run) in OVER,
            WAIT_S,
        )
        assert airflow.state(run) == state, f"{kind}: {airflow.state(run)}"
        # A click before Airflow has ended the run is lost.
        until(f"{run} ends", lambda: airflow.run_state(run) == state, WAIT_S)

    ends(2, "success")
    for number in (3, 4):
        airflow.clear(run)
        ends(number, "failed")
    command = ["resume", f"{run.dag}/{run.folder}", "stage", "--store", str(machine.store)]
    subprocess.run([sys.executable, "-m", "boig_core.cli", *command], check=True, env=machine.env)
    airflow.clear(run)
    ends(5, "success")
    return {number: commit.attempt_uri(task, number) for number in CASES}


def reading_of(attempt: str) -> dict[str, Any]:
    """The head of each training's log in an attempt, and what its manifests say; without the
    store's place."""
    log = "".join(text for _, text in runs.read_log(attempt))
    root = attempt.split("/runs/", 1)[0]
    lines = re.findall(r"\w+: (?:attempt \d+ \(|goes on from|trains from the start).*", log)
    done = commit.read_commit(attempt)
    outputs = {} if done is None else done["outputs"]
    return {
        "head": [line.replace(f"{root}/", "") for line in lines],
        "went_on_from": {
            name: [hop.model_dump() for hop in manifest.read_manifest(uri).went_on_from or ()]
            for name, uri in outputs.items()
        },
    }


def reads_what_it_must(number: int, reading: dict[str, Any]) -> bool:
    """Whether the first training of an attempt goes on from the attempt that it must, or from none,
    by its log and by its manifest."""
    begins = reading["head"][1] if len(reading["head"]) > 1 else ""
    source = GOES_ON.get(number)
    if source is None:
        return "trains from the start" in begins
    first: list[dict[str, Any]] = next(iter(reading["went_on_from"].values()), [])
    place = f"/attempt-{source}/checkpoints/"
    asked = number == max(GOES_ON)
    return (
        "goes on from" in begins
        and place in begins
        and len(first) > 0
        and place in first[-1]["checkpoint"]
        and (first[-1]["asked_by"] is not None) == asked
    )


if __name__ == "__main__":
    sys.exit(main())
