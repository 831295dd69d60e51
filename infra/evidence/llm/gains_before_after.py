"""Does a faster way of training that changes its last bits change what BoigLLM learns? Its gains
over its twin, before and after, by seed.

For what makes the demo faster but sums in another order. Each arm is the demo's recipe with some
settings, on posts as the demo's; a gain is that of `evaluate_llm`, BoigLLM minus its no-KPI twin on
the same test posts, with its 95 % interval. What is finished is never done again. Some five minutes
a seed and arm on two cores.

    python -m infra.evidence.llm.gains_before_after --home .boig/evidence --before llm.workers=2
        --after llm.workers=1 [--laws sunlit] [--seeds 0 1 2] [--posts 4000] [--set
        section.field=value ...] [--json FILE]
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from boig_core.storage import store
from infra.evidence import published
from infra.evidence.stages import WORLD_SEED, Stages, arguments, export

METRICS: Final = ("colors_iou", "objects_iou", "tones_coverage_rmse")
BUCKETS: Final = ("all", "high")


@dataclass(frozen=True)
class ArmGain:
    """A gain of one arm with one seed.

    Attributes:
        law: of the posts.
        seed: of the recipe.
        arm: ``before`` or ``after``.
        metric: of `METRICS`.
        bucket: of `BUCKETS`.
        mean: the gain.
        low: lower end of its 95 % interval.
        high: upper end.
        loss: BoigLLM's best validation loss, in nats per token.
    """

    law: str
    seed: int
    arm: str
    metric: str
    bucket: str
    mean: float
    low: float
    high: float
    loss: float


def main() -> int:
    """Run what has not been run, and print the gains."""
    parser = arguments(__doc__)
    parser.set_defaults(posts=4000, laws=["sunlit"])
    for arm in ("before", "after"):
        parser.add_argument(f"--{arm}", nargs="+", required=True, help="settings of this arm")
    args = parser.parse_args()
    rows = []
    for law in args.laws:
        # Without the settings of an arm: both learn from one dataset.
        data = Stages(str(args.home / "store"), law, settings=args.settings)
        world = {"posts": str(export(args.home, law, args.posts))}
        dataset = data.run(
            "perceive", "data", WORLD_SEED, data.run("ingest", "data", WORLD_SEED, world)
        )
        for seed in args.seeds:
            for arm in ("before", "after"):
                stages = Stages(
                    str(args.home / "store"), law, settings=[*args.settings, *getattr(args, arm)]
                )
                rows += arm_rows(stages, dataset, law, seed, arm)
                print("\n".join(table(rows)[-len(METRICS) * len(BUCKETS) :]), flush=True)
    print("\n".join(["", *table(rows)]))
    if args.json:
        published.save(args.json, [asdict(row) for row in rows])
    return 0


def arm_rows(
    stages: Stages, dataset: dict[str, str], law: str, seed: int, arm: str
) -> list[ArmGain]:
    """Train and evaluate one arm with one seed."""
    run = f"{arm}-{seed}"
    models = stages.run("finetune_llm", run, seed, dataset)
    asked = {**dataset, **{name: models[name] for name in ("boigllm", "no_kpi")}}
    result = json.loads(
        Path(
            store.join(
                stages.run("evaluate_llm", run, seed, asked)["description"], "description.json"
            )
        ).read_text()
    )
    loss = float(stages.metrics("finetune_llm", run)["boigllm"]["best_val_loss"])
    paired = result["paired"]["boigllm-no_kpi"]
    cells = [(metric, bucket, paired[metric][bucket]) for metric in METRICS for bucket in BUCKETS]
    return [
        ArmGain(law, seed, arm, metric, bucket, cell["mean"], cell["low"], cell["high"], loss)
        for metric, bucket, cell in cells
    ]


def table(rows: list[ArmGain]) -> list[str]:
    """A line for each gain."""
    return [
        f"{row.law} seed {row.seed} {row.arm:<6} {row.metric:<19} {row.bucket:<4} {row.mean:+.3f} [{row.low:+.3f}, {row.high:+.3f}]"
        f"  loss {row.loss:.4f}"
        for row in rows
    ]


if __name__ == "__main__":
    sys.exit(main())
