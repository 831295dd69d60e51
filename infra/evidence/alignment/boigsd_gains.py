"""Is BoigSD better? Against the base, high-KPI fine-tuning, prompt rewriting and best-of-N, on both
laws and three training seeds.

Runs ``calibrate``, ``finetune_sd``, ``ddpo`` and ``evaluate_sd`` on the models of `knows_kpi.py`
and shares its stages: give the same home, posts and settings. What is finished is never done again,
so the script can be stopped and started. The high-KPI baseline trains on as many passes of the UNet
as the alignment takes, a forward pass as 1 and a backward pass as 2. Every difference is between
images of the same prompt and noise, its 95 % interval clustered by prompt, on each seed and over
all seeds; the judge is the law, which no training reads.

On each seed and over all of them the interval of BoigSD over the base must lie above 0. Over all
seeds BoigSD must be at least level with high-KPI fine-tuning, and BoigSD with rewriting with the
same rewriting alone: their intervals must not lie below 0. Whichever way the others fall, they are
shown. Prints one table per law. Exit code 1: something that must hold does not. One seed takes some
eight minutes on two cores, beside those of BoigLLM.

    python -m infra.evidence.alignment.boigsd_gains --home .boig/evidence [--laws sunlit nordic]
        [--seeds 0 1 2] [--set llm.steps=1000 ...] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from typing import Any, Final

from boig_core.config import load_recipe
from boig_core.storage import store
from infra.evidence import published
from infra.evidence.alignment.reward_per_cost import cost
from infra.evidence.published import PublishedTable
from infra.evidence.stages import LONGER, RECIPE, WORLD_SEED, Stages, arguments, export

ROWS: Final = (
    "evaluation.rewrite=[retrieval,boigllm]",
    "evaluation.best_of_n=4",
    "evaluation.unguided=true",
    "evaluation.images_per_prompt=4",
)
PAIRS: Final = {
    "boigsd-base": "above",
    "boigsd-high_kpi": "level",
    "boigsd_prompt_rewrite-prompt_rewrite": "level",
    "boigsd_description_rewrite-description_rewrite": "level",
    "boigsd-best_of_n": None,
    "boigsd_best_of_n-best_of_n": None,
    "high_kpi-base": None,
    "prompt_rewrite-base": None,
    "description_rewrite-base": None,
    "boigsd_unguided-base_unguided": None,
}
"""What is compared, and what must hold of the judge's difference."""
MEASURES: Final = ("judge", "reward")

Span = Mapping[str, float]


def main() -> int:
    """Run what is missing, print, and write the numbers."""
    args = arguments(__doc__).parse_args()
    result = {}
    for law in args.laws:
        result[law] = law_rows(args, law)
        print("\n".join(table(law, result[law])), flush=True)
    if args.json:
        numbers = {"posts": args.posts, "laws": result}
        published.save(args.json, numbers, published_table(result))
    return (
        0
        if all(verdict(pair, rows) is not False for rows in result.values() for pair in PAIRS)
        else 1
    )


def law_rows(args: argparse.Namespace, law: str) -> dict[str, dict[str, Any]]:
    """``generation.json`` of each seed."""
    world = export(args.home, law, args.posts)
    stages = Stages(str(args.home / "store"), law, settings=(*LONGER, *args.settings, *ROWS))
    raw = stages.run("ingest", "data", WORLD_SEED, {"posts": str(world / "posts.jsonl")})
    dataset = {"dataset": stages.run("perceive", "data", WORLD_SEED, raw)["dataset"]}
    return {f"seed {seed}": seed_row(stages, seed, dataset) for seed in args.seeds}


def seed_row(stages: Stages, seed: int, dataset: dict[str, str]) -> dict[str, Any]:
    """``generation.json`` of one training seed."""
    run = f"seed-{seed}"
    models = stages.run("finetune_llm", run, seed, dataset)
    inputs = dataset | {
        name: uri for name, uri in models.items() if name in ("boigllm", "predictor")
    }
    inputs |= stages.run("calibrate", run, seed, inputs)
    boigsd = stages.run("ddpo", run, seed, inputs)
    # Both trainings spend the same compute, or the longer one would win for its length.
    high_kpi = stages.run(
        "finetune_sd", run, seed, dataset, [f"sd.steps={equal_steps(stages.overrides(seed))}"]
    )
    generated = stages.run("evaluate_sd", run, seed, {**inputs, **high_kpi, **boigsd})
    return dict(
        json.loads(store.read_bytes(store.join(generated["generation"], "generation.json")))
    )


def equal_steps(overrides: list[str]) -> int:
    """Steps of the high-KPI fine-tuning that take as many passes of the UNet as the alignment: an
    image of a step takes 3."""
    # A step of fine-tuning is a forward pass of each image, and a backward one that counts as 2.
    recipe = load_recipe(RECIPE, overrides)
    return round(recipe.ddpo.epochs * cost(recipe.ddpo) / (3 * recipe.sd.batch))


def spans(pair: str, measure: str, rows: Mapping[str, Mapping[str, Any]]) -> dict[str, Span]:
    """Difference of a pair by seed, and over all: the mean over seeds, between the means of the
    intervals' ends."""
    result: dict[str, Span] = {seed: row["paired"][pair][measure] for seed, row in rows.items()}
    # Seeds share a part of their prompts: as if they shared all of them, which is never too narrow.
    over_all = {
        end: sum(span[end] for span in result.values()) / len(result)
        for end in ("mean", "low", "high")
    }
    return {**result, "all": over_all}


def verdict(pair: str, rows: Mapping[str, Mapping[str, Any]]) -> bool | None:
    """Whether the judge's difference is what it must be; none: nothing is asked."""
    result = spans(pair, "judge", rows)
    # `spans` has ``all`` beside the seeds, so this asks for both.
    if PAIRS[pair] == "above":
        return all(span["low"] > 0 for span in result.values())
    return None if PAIRS[pair] is None else result["all"]["high"] >= 0


def table(law: str, rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """One line per pair and measure, then what each seed's BoigSD kept of the base."""
    verdicts = {True: "holds", False: "DOES NOT HOLD", None: "-"}
    lines = [
        f"{law}: difference [95 % interval]; the judge in log-likes, the reward in its own unit"
    ]
    lines.append(f"{'':48} {'':7} " + "  ".join(f"{seed:24}" for seed in (*rows, "all")))
    for pair in PAIRS:
        for measure in MEASURES:
            cells = [
                f"{span['mean']:+.2f} [{span['low']:+.2f}, {span['high']:+.2f}]"
                for span in spans(pair, measure, rows).values()
            ]
            answers = verdicts[verdict(pair, rows)] if measure == "judge" else ""
            lines.append(
                f"{pair:48} {measure:7} "
                + "  ".join(f"{cell:24}" for cell in cells)
                + f"  {answers}"
            )
    for name in ("clip_margin", "diversity"):
        kept = {
            model: [
                row["generation"][model][name] / row["generation"]["base"][name]
                for row in rows.values()
            ]
            for model in ("boigsd", "high_kpi", "best_of_n")
            # Of best-of-N one image per prompt is kept, which has no diversity.
            if all(row["generation"][model][name] is not None for row in rows.values())
        }
        lines.append(
            f"{name} kept: "
            + "; ".join(
                f"{model} {' '.join(f'{share:.0%}' for share in of)}" for model, of in kept.items()
            )
        )
    return lines


def published_table(result: Mapping[str, Mapping[str, Any]]) -> PublishedTable:
    """One row per law and seed: what BoigSD gains, by the judge and by its reward, and what it
    keeps of the base."""
    columns = ("over the base", "over high-KPI fine-tuning", "over best of 4")
    pairs = ("boigsd-base", "boigsd-high_kpi", "boigsd-best_of_n")

    def cell(row: Mapping[str, Any], pair: str, measure: str) -> str:
        span = row["paired"][pair][measure]
        return f"{span['mean']:+.2f} [{span['low']:+.2f}, {span['high']:+.2f}]"

    def kept(row: Mapping[str, Any], name: str) -> str:
        return f"{row['generation']['boigsd'][name] / row['generation']['base'][name]:.0%}"

    return PublishedTable(
        columns=(
            "law, seed",
            f"BoigSD {columns[0]}",
            *columns[1:],
            "reward over the base",
            "CLIP margin, diversity kept",
        ),
        rows=tuple(
            (
                f"{law}, {seed.removeprefix('seed ')}",
                *(cell(row, pair, "judge") for pair in pairs),
                cell(row, "boigsd-base", "reward"),
                f"{kept(row, 'clip_margin')}, {kept(row, 'diversity')}".replace("%", " %"),
            )
            for law, rows in result.items()
            for seed, row in rows.items()
        ),
    )


if __name__ == "__main__":
    sys.exit(main())
