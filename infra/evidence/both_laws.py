"""Does it work beyond one seed and one audience? Both laws, three training seeds each, every seed shown.

Runs the real stages one after the other with ``boig_core.demo.stage`` on the Ray cluster of ``RAY_ADDRESS`` (or one of its own):
per law the ad world, ingest and perceive once; per training seed BoigLLM with its twin, calibration, alignment and evaluation.
What is finished is never done again, so the script can be stopped and started. Prints one table and writes ``evidence.json``.

    python infra/evidence/both_laws.py --home .boig/evidence [--laws sunlit nordic] [--seeds 0 1 2] [--parts llm sd]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from boig_core.adworld.ceiling import ceilings
from boig_core.adworld.export import write_world
from boig_core.adworld.law import Law
from boig_core.demo.stage import run_one_stage
from boig_core.storage import commit, store

RECIPE = Path(__file__).parent / "evidence.yaml"
WORLD_SEED = 0


def main() -> None:
    """Run what is missing, then print every seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, default=Path(".boig/evidence"))
    parser.add_argument("--laws", nargs="+", default=["sunlit", "nordic"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--parts", nargs="+", choices=["llm", "sd"], default=["llm", "sd"])
    parser.add_argument("--posts", type=int, default=24_000)
    args = parser.parse_args()
    results = {law: law_results(args, law) for law in args.laws}
    (args.home / "evidence.json").write_text(json.dumps(results, indent=1))
    show(results)


def law_results(args: argparse.Namespace, law: str) -> dict[str, Any]:
    """Ceiling and per-seed results of one law."""
    world = args.home / "worlds" / law
    if not world.exists():
        write_world(args.posts, WORLD_SEED, Law.load(law), world)
    stages = Stages(str(args.home / "store"), law)
    raw = stages.run("ingest", "data", WORLD_SEED, {"posts": str(world.resolve() / "posts.jsonl")})
    dataset = {"dataset": stages.run("perceive", "data", WORLD_SEED, raw["outputs"])["outputs"]["dataset"]}
    ceiling = {bucket: round(found.gain, 4) for bucket, found in ceilings(Law.load(law)).items()}
    seeds = {}
    for seed in args.seeds:
        found: dict[str, Any] = {}
        models = stages.run("finetune_llm", f"seed-{seed}", seed, dataset)["outputs"]
        if "llm" in args.parts:
            found["description"] = stages.run("evaluate_llm", f"seed-{seed}", seed, {**dataset, **models})["metrics"]
        if "sd" in args.parts:
            inputs = {**dataset, "boigllm": models["boigllm"]}
            calibrated = stages.run("calibrate", f"seed-{seed}", seed, inputs)
            inputs |= calibrated["outputs"]
            high_kpi = stages.run("finetune_sd", f"seed-{seed}", seed, dataset)["outputs"]
            boigsd = stages.run("ddpo", f"seed-{seed}", seed, inputs)["outputs"]
            found["calibration"] = calibrated["metrics"]
            found["generation"] = stages.run("evaluate_sd", f"seed-{seed}", seed, {**inputs, **high_kpi, **boigsd})["metrics"]
        seeds[seed] = found
        print(law, seed, json.dumps(found), flush=True)
    return {"ceiling": ceiling, "seeds": seeds}


class Stages:
    """Runs stages of one law, each once: a committed attempt is used again."""

    def __init__(self, root: str, law: str) -> None:
        self.root, self.law = store.normalize(root), law

    def run(self, stage: str, run: str, seed: int, inputs: dict[str, str]) -> dict[str, Any]:
        """Outputs and metrics of a stage."""
        task = store.join(self.root, "runs", "manual", f"{self.law}-{run}", stage)
        for number in reversed(commit.attempts(task)):
            done = commit.read_commit(commit.attempt_uri(task, number))
            if done is not None:
                return done
        overrides = [f"seed={seed}", f"data.name={self.law}", f"evaluation.judge=adworld:{self.law}"]
        return run_one_stage(stage, str(RECIPE), overrides, inputs, self.root, f"{self.law}-{run}")


def show(results: dict[str, Any]) -> None:
    """Every law and seed, one line each."""
    for law, found in results.items():
        print(f"\n{law}: ceiling of the colors IOU gain {found['ceiling']}")
        for seed, parts in found["seeds"].items():
            for part, metrics in parts.items():
                print(f"  seed {seed} {part}: {json.dumps(metrics.get('paired', metrics))}")


if __name__ == "__main__":
    main()
