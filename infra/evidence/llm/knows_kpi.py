"""Does BoigLLM know what a KPI changes? Against its twin and two baselines, on both laws and three
seeds, beside what the laws allow.

Runs ingest, perceive, finetune_llm and evaluate_llm. What is finished is never done again, so give
other posts or settings another home. A gain is BoigLLM minus a baseline on the same test posts, on
each seed and over all, with a 95 % interval by paired bootstrap over posts; for the tones it is the
error saved. Its ceiling is the gain of the best describer that knows law and bucket, over the best
without the bucket or over the same baseline, on the same posts (`knows_kpi_ceiling.py`). For high
posts the interval must lie above 0 on every seed and over all wherever the ceiling exceeds 0.02,
and 99 % of the constrained answers must parse. A gain may pass its ceiling: a twin that falls
shorter of its own best than BoigLLM does adds to it.

``--shuffled`` tests the test: likes change places within each account before ingestion, so a KPI
says nothing about an image, and the gain over the twin must be gone over all seeds; one seed may
keep some, since two trainings differ by more than posts tell. Prints one table per law. Exit code
1: something that must hold does not. One seed of 1,000 steps and 500 test posts per bucket takes
some ten minutes on two cores, and the ceiling of its law one.

    python -m infra.evidence.llm.knows_kpi --home .boig/evidence [--laws sunlit nordic] [--seeds 0 1
        2] [--set llm.steps=1000 ...] [--shuffled] [--json FILE] [--smoke]
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from boig_core.adworld.law import Law
from boig_core.adworld.scene import Scene, Thing
from boig_core.data.dataset import read_samples
from boig_core.evaluation.measure.description import evaluate
from boig_core.llm.metrics import HashedNgrams
from boig_core.storage import store
from boig_core.verbalization.answer import from_answer
from boig_core.vocabulary import Description, Sample
from infra.evidence import published
from infra.evidence.llm.knows_kpi_ceiling import best_answers
from infra.evidence.published import PublishedTable
from infra.evidence.stages import LONGER, WORLD_SEED, Stages, arguments, export

METRICS: Final = {
    "colors_iou": ("colors IOU", 1),
    "objects_iou": ("objects IOU", 1),
    "tones_coverage_rmse": ("tones RMSE", -1),
}
"""Name of each, and whether more is better."""
BASES: Final = {"no_kpi": "no-KPI twin", "retrieval": "retrieval", "most_frequent": "most frequent"}
BUCKETS: Final = ("high", "low")
WORTH: Final = 0.02
"""Ceiling above which a gain must be seen."""
MARGIN: Final = 0.01
"""A gain below this is none: of the dozens of intervals that shuffled labels give, some miss 0 by
chance."""
PARSED: Final = 0.99
ALL: Final = "all"
SMOKE: Final = ("llm.steps=20", "llm.samples=2", "llm.eval_posts=20", "llm.unconstrained_posts=0")

Said = Mapping[str, Mapping[str, Description | None]]
Key = tuple[str, str, str]


@dataclass(frozen=True)
class Gain:
    """How much better BoigLLM is, with its 95 % interval; NaN where nothing could be compared."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class GainLine:
    """One metric against one baseline in one bucket.

    Attributes:
        metric: of `METRICS`.
        base: of `BASES`.
        bucket: of `BUCKETS`.
        gains: by seed, and over `ALL`.
        ceiling: what the law allows; none where likes were shuffled.
    """

    metric: str
    base: str
    bucket: str
    gains: Mapping[str, Gain]
    ceiling: float | None

    @property
    def holds(self) -> bool | None:
        """Whether it shows what it must; none: nothing must be shown here."""
        if self.ceiling is None:
            # Likes were shuffled, so the gain over the twin must be gone. The other baselines
            # differ from BoigLLM in more than the KPI.
            over_all = self.gains[ALL]
            return (over_all.low <= 0 or over_all.mean < MARGIN) if self.base == "no_kpi" else None
        if self.bucket != "high" or self.ceiling <= WORTH:
            return None
        return all(gain.low > 0 for gain in self.gains.values())


def main() -> int:
    """Run what is missing, print, and write the numbers."""
    parser = arguments(__doc__)
    parser.add_argument(
        "--shuffled",
        action="store_true",
        help="likes change places within each account: the gain over the twin must be gone",
    )
    parser.add_argument(
        "--smoke",
        action="store_true",
        help="1,000 posts of one law, 20 steps, one seed: does the script work?",
    )
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="boig-knows-") as scratch:
        if args.smoke:
            # In a folder of its own, since finished stages are found by name and would be taken for
            # real ones.
            args.home, args.laws, args.seeds, args.posts = (
                Path(scratch),
                args.laws[:1],
                [0],
                1_000,
            )
        result: dict[str, dict[str, Any]] = {}
        for law in args.laws:
            lines, parse_rates = law_lines(args, law)
            result[law] = {
                "lines": [{**asdict(line), "holds": line.holds} for line in lines],
                "parse_rate": parse_rates,
            }
            result[law]["holds"] = (
                all(line.holds is not False for line in lines)
                and min(parse_rates.values()) >= PARSED
            )
            print("\n".join(table(law, lines, parse_rates)), flush=True)
    if args.json:
        numbers = {"posts": args.posts, "shuffled": args.shuffled, "laws": result}
        published.save(args.json, numbers, published_table(result))
    if args.smoke:
        print("a smoke run: it works; the numbers and their verdicts say nothing")
        return 0
    return 0 if all(law["holds"] for law in result.values()) else 1


def law_lines(args: argparse.Namespace, law: str) -> tuple[list[GainLine], dict[str, float]]:
    """The lines of a law, and the parse rate of each seed's BoigLLM."""
    rules, world = Law.load(law), export(args.home, law, args.posts)
    posts = shuffled(world / "posts.jsonl", WORLD_SEED) if args.shuffled else world / "posts.jsonl"
    name = f"{law}-shuffled" if args.shuffled else law
    stages = Stages(
        str(args.home / "store"),
        law,
        name,
        (*LONGER, *args.settings, *(SMOKE if args.smoke else ())),
    )
    raw = stages.run("ingest", "data", WORLD_SEED, {"posts": str(posts)})
    dataset = stages.run("perceive", "data", WORLD_SEED, raw)["dataset"]
    answers: dict[str, Said] = {}
    parse_rates: dict[str, float] = {}
    for seed in args.seeds:
        started = time.monotonic()
        models = stages.run("finetune_llm", f"seed-{seed}", seed, {"dataset": dataset})
        described = stages.run(
            "evaluate_llm", f"seed-{seed}", seed, {"dataset": dataset, **models}
        )["description"]
        print(
            f"{name}, seed {seed}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True
        )
        answers[f"seed {seed}"] = {
            model: read_said(described, model) for model in ("boigllm", *BASES)
        }
        parse_rates[f"seed {seed}"] = json.loads(
            store.read_bytes(store.join(described, "description.json"))
        )["parse_rate"]["boigllm"]
    samples = read_samples(dataset)
    # Which posts are asked, and what the two baselines say, is the same for all seeds.
    first = next(iter(answers.values()))
    asked = [s for s in samples if s.id in first["boigllm"] and s.bucket in BUCKETS]
    ceiling = (
        None
        if args.shuffled
        else ceilings(rules, read_scenes(world / "truth.jsonl"), samples, asked, first)
    )
    return lines_of(asked, answers, ceiling), parse_rates


def lines_of(
    asked: Sequence[Sample], said: Mapping[str, Said], ceiling: Mapping[Key, Gain] | None
) -> list[GainLine]:
    """Gains of each seed and, each seed's answer to a post drawn with the post, over all of them.

    Args:
        asked: test posts, each with a bucket.
        said: descriptions by seed, model and sample id.
        ceiling: of each gain; none: likes were shuffled.
    """
    repeated = [replace(sample, id=f"{sample.id} {seed}") for seed in said for sample in asked]
    joined = {
        model: {
            f"{sample.id} {seed}": answers[model][sample.id]
            for seed, answers in said.items()
            for sample in asked
        }
        for model in ("boigllm", *BASES)
    }
    result = {
        seed: gains(asked, {m: {s.id: of[s.id] for s in asked} for m, of in answers.items()})
        for seed, answers in said.items()
    }
    result[ALL] = gains(repeated, joined)
    keys = [(metric, base, bucket) for metric in METRICS for base in BASES for bucket in BUCKETS]
    return [
        GainLine(
            *key,
            {seed: of[key] for seed, of in result.items()},
            None if ceiling is None else ceiling[key].mean,
        )
        for key in keys
    ]


def gains(asked: Sequence[Sample], said: Said) -> dict[Key, Gain]:
    """Gain of ``boigllm`` over each of `BASES`, by metric, base and bucket; clustered by post."""
    result = evaluate(
        asked, said, candidate="boigllm", vectors=HashedNgrams(), resamples=1000, seed=0
    )
    outcome = {}
    for metric, (_, sign) in METRICS.items():
        for base in BASES:
            for bucket in BUCKETS:
                row = result["paired"][f"boigllm-{base}"][metric].get(bucket)
                # Of an error less is better: the gain is its negative, and the ends of the interval
                # change places.
                low, high = (
                    sorted((sign * row["low"], sign * row["high"])) if row else (math.nan, math.nan)
                )
                outcome[metric, base, bucket] = Gain(
                    sign * row["mean"] if row else math.nan, low, high
                )
    return outcome


def ceilings(
    law: Law,
    scenes: Mapping[str, Scene],
    samples: Sequence[Sample],
    asked: Sequence[Sample],
    said: Said,
) -> dict[Key, Gain]:
    """The gains of the best describer with the KPI in BoigLLM's place, and of the best without it
    in the twin's."""
    messages, blind = best_answers(law, scenes, samples, asked)
    baselines = {
        name: {s.id: said[name][s.id] for s in asked} for name in BASES if name != "no_kpi"
    }
    return gains(asked, {"boigllm": messages, "no_kpi": blind, **baselines})


def shuffled(posts: Path, seed: int) -> Path:
    """A copy of an export beside it in which the likes of each account have changed places; rows
    that cannot be read stay as they are."""
    lines = posts.read_bytes().splitlines()
    rows: dict[int, dict[str, Any]] = {}
    accounts: dict[str, list[int]] = defaultdict(list)
    for number, line in enumerate(lines):
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row.get("likes"), int):
            rows[number] = row
            accounts[row["account"]].append(number)
    rng = np.random.default_rng(seed)
    # Within an account, because the KPI is a rank within its account.
    for numbers in accounts.values():
        for number, other in zip(numbers, rng.permutation(numbers).tolist(), strict=True):
            lines[number] = json.dumps({**rows[number], "likes": rows[other]["likes"]}).encode()
    copy = posts.with_name("posts-shuffled.jsonl")
    copy.write_bytes(b"\n".join(lines) + b"\n")
    return copy


def read_scenes(truth: Path) -> dict[str, Scene]:
    """The true scene of each post of a world."""
    rows = [json.loads(line) for line in truth.read_text("utf-8").splitlines()]
    return {
        row["id"]: Scene(
            row["scene"]["background"],
            row["scene"]["gradient"],
            tuple(Thing(**thing) for thing in row["scene"]["things"]),
        )
        for row in rows
    }


def read_said(description: str, model: str) -> dict[str, Description | None]:
    """What a model said, by sample id."""
    rows = [
        json.loads(line)
        for line in store.read_bytes(
            store.join(description, f"predictions-{model}.jsonl")
        ).splitlines()
    ]
    return {
        row["id"]: None if row["description"] is None else from_answer(row["description"])
        for row in rows
    }


def table(law: str, lines: Sequence[GainLine], parse_rates: Mapping[str, float]) -> list[str]:
    """One line per metric, baseline and bucket, and the verdict."""
    seeds = list(lines[0].gains)
    verdicts = {True: "holds", False: "DOES NOT HOLD", None: "-"}
    rows = [
        f"{law}: gain of BoigLLM [95 % interval]",
        f"{'':11} {'over':14} {'bucket':6} {'ceiling':>7}  " + "  ".join(f"{s:24}" for s in seeds),
    ]
    for line in lines:
        cells = [
            f"{gain.mean:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]" for gain in line.gains.values()
        ]
        ceiling = "-" if line.ceiling is None else f"{line.ceiling:+.3f}"
        where = f"{METRICS[line.metric][0]:11} {BASES[line.base]:14} {line.bucket:6} {ceiling:>7}"
        rows.append(
            f"{where}  " + "  ".join(f"{cell:24}" for cell in cells) + f"  {verdicts[line.holds]}"
        )
    parsed = min(parse_rates.values())
    rows.append(f"parse rate, the least of the seeds: {parsed:.4f}  {verdicts[parsed >= PARSED]}")
    asked = [line for line in lines if line.holds is not None]
    failed = sum(line.holds is False for line in asked) + (parsed < PARSED)
    rows.append(
        f"{law}: {f'{failed} of {len(asked) + 1} DO NOT HOLD' if failed else f'all {len(asked) + 1} hold'}"
    )
    return rows


def published_table(result: Mapping[str, Mapping[str, Any]]) -> PublishedTable:
    """Gains for high posts over all seeds, a row per baseline and one for its ceiling."""

    def line(law: str, base: str, metric: str) -> Mapping[str, Any]:
        lines: list[Mapping[str, Any]] = result[law]["lines"]
        return next(
            each
            for each in lines
            if (each["base"], each["metric"], each["bucket"]) == (base, metric, "high")
        )

    def gain(of_line: Mapping[str, Any]) -> str:
        span = of_line["gains"][ALL]
        return f"{span['mean']:+.3f} [{span['low']:+.3f}, {span['high']:+.3f}]"

    def ceiling(of_line: Mapping[str, Any]) -> str:
        return "–" if of_line["ceiling"] is None else f"{of_line['ceiling']:.3f}"

    keys = [(law, metric) for law in result for metric in METRICS]
    rows: list[tuple[str, ...]] = []
    for base, name in BASES.items():
        lines = [line(law, base, metric) for law, metric in keys]
        rows.append((name, *map(gain, lines)))
        rows.append(("the ceiling", *map(ceiling, lines)))
    columns = [f"{law}: {METRICS[metric][0]}" for law, metric in keys]
    return PublishedTable(columns=("gain of BoigLLM over", *columns), rows=tuple(rows))


if __name__ == "__main__":
    sys.exit(main())
