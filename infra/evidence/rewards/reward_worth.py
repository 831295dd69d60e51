"""Is the reward worth maximizing? Each formulation on held-out real images beside the law's own
oracle, on both laws and three seeds.

Runs ``calibrate`` on the models of `knows_kpi.py` and shares its stages: give the same home, posts
and settings. For each formulation: the AUC of high against low within an account, the correlation
with the KPI and with the answer's length in tokens, and which share of the oracle's AUC above
chance it has on the same test images. With ``--set llm.predictor=head`` the engagement predictor
stands beside the others, with its error in points of 100 beside that of the mean KPI. The chosen
formulation must have at least 0.7 of the oracle's AUC above chance, and a predictor's rank
correlation must be clear of zero and its error below that of the mean; else the exit code is 1.

    python -m infra.evidence.rewards.reward_worth --home .boig/evidence [--laws sunlit nordic]
        [--seeds 0 1 2] [--set llm.steps=1000 ...] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any, Final

import numpy as np

from boig_core.config import load_recipe
from boig_core.data.dataset import read_images, read_samples
from boig_core.evaluation.measure.validity import validity
from boig_core.storage import store
from infra.evidence import published
from infra.evidence.stages import LONGER, RECIPE, WORLD_SEED, Stages, arguments, export
from ray_jobs.calibrate import pick
from ray_jobs.judge import AdworldJudge

SHARE: Final = 0.7
"""Of the oracle's AUC above chance."""
PREDICTOR: Final = "engagement"


def main() -> int:
    """Run what is missing, print, and write the numbers."""
    args = arguments(__doc__).parse_args()
    result = {}
    for law in args.laws:
        result[law] = {f"seed {seed}": row for seed, row in law_rows(args, law).items()}
        print("\n".join(table(law, result[law])), flush=True)
    if args.json:
        published.save(args.json, {"posts": args.posts, "laws": result})
    return 0 if all(holds(row) for rows in result.values() for row in rows.values()) else 1


def law_rows(args: argparse.Namespace, law: str) -> dict[int, dict[str, Any]]:
    """What `seed_row` finds for each seed of a law."""
    world = export(args.home, law, args.posts)
    stages = Stages(str(args.home / "store"), law, settings=(*LONGER, *args.settings))
    raw = stages.run("ingest", "data", WORLD_SEED, {"posts": str(world / "posts.jsonl")})
    dataset = {"dataset": stages.run("perceive", "data", WORLD_SEED, raw)["dataset"]}
    return {seed: seed_row(stages, seed, dataset) for seed in args.seeds}


def seed_row(stages: Stages, seed: int, dataset: dict[str, str]) -> dict[str, Any]:
    """``calibrate``'s test rows of one training seed, and the oracle's on the same images."""
    run = f"seed-{seed}"
    models = stages.run("finetune_llm", run, seed, dataset)
    inputs = dataset | {
        name: uri for name, uri in models.items() if name in ("boigllm", "predictor")
    }
    calibration = stages.run("calibrate", run, seed, inputs)["calibration"]
    result = json.loads(store.read_bytes(store.join(calibration, "calibration.json")))
    rows = result["splits"]["test"]
    row = {"chosen": result["reward"], "recommended": result["recommended"], "formulations": rows}
    row |= {
        "rmse": {
            name: value
            for name, value in stages.metrics("calibrate", run).items()
            if name.endswith("_rmse_test")
        }
    }
    row |= {"oracle": oracle_row(stages.law, dataset["dataset"], stages.overrides(seed))}
    # 0.5 is chance. The oracle knows the law, and not the noise in likes: nobody can come above it
    # but by luck.
    above = row["oracle"]["auc_high_vs_low"] - 0.5
    row["share_of_oracle"] = {
        name: (each["auc_high_vs_low"] - 0.5) / above for name, each in rows.items()
    }
    return row


def oracle_row(law: str, dataset: str, overrides: list[str]) -> dict[str, Any]:
    """Validity of the law's oracle on the test images that ``calibrate`` looks at."""
    recipe = load_recipe(RECIPE, overrides)
    samples = pick(read_samples(dataset), "test", recipe)
    images = read_images(dataset, {sample.image for sample in samples})
    judged_N = AdworldJudge(law).judge([images[sample.image] for sample in samples], samples)
    # The oracle writes no answer, so there is no length to correlate with.
    return validity(
        judged_N,
        np.zeros(len(samples)),
        samples,
        resamples=recipe.evaluation.bootstrap,
        seed=recipe.seed,
    ).as_json()


def holds(row: dict[str, Any]) -> bool:
    """Whether the chosen formulation comes near the oracle, and the predictor, if there is one,
    knows something."""
    predictor = row["formulations"].get(PREDICTOR)
    knows = predictor is None or (
        predictor["spearman_interval"][0] > 0
        and row["rmse"]["engagement_rmse_test"] < row["rmse"]["mean_kpi_rmse_test"]
    )
    return bool(row["share_of_oracle"][row["chosen"]] >= SHARE and knows)


def table(law: str, rows: dict[str, dict[str, Any]]) -> list[str]:
    """One line per seed and formulation, beside the oracle's."""
    lines = [
        f"{law}: test images, within account",
        f"{'':8} {'formulation':21} {'AUC high against low':22} {'Spearman with the KPI':25} {'with length':11} {'share of oracle':>15}",
    ]
    for seed, row in rows.items():
        for name, each in {**row["formulations"], "oracle": row["oracle"]}.items():
            low, high = each["auc_interval"]
            span = "{:+.3f} [{:+.3f}, {:+.3f}]".format(each["spearman"], *each["spearman_interval"])
            length = (
                "-" if each["length_correlation"] is None else f"{each['length_correlation']:+.3f}"
            )
            share = f"{row['share_of_oracle'][name]:.2f}" if name in row["share_of_oracle"] else "-"
            marked = f"{name}*" if name == row["chosen"] else name
            lines.append(
                f"{seed:8} {marked:21} {each['auc_high_vs_low']:.3f} [{low:.3f}, {high:.3f}]   {span:25} {length:>11} {share:>15}"
            )
        errors = ", ".join(
            f"{name.removesuffix('_test')} {value:.1f}" for name, value in row["rmse"].items()
        )
        verdict = "holds" if holds(row) else "DOES NOT HOLD"
        lines.append(f"{seed:8} n = {row['oracle']['n']}{', ' * bool(errors)}{errors}: {verdict}")
    return [*lines, "* the chosen formulation"]


if __name__ == "__main__":
    sys.exit(main())
