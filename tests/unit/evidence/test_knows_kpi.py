"""The ceiling on laws whose ceiling is known, and verdicts that can fail:
`infra/evidence/llm/knows_kpi.py`."""

from __future__ import annotations

import importlib
import json
import math
from collections import Counter, defaultdict
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Protocol

import numpy as np
import pytest

from boig_core.adworld.export import draw_posts
from boig_core.adworld.law import Law
from boig_core.adworld.scene import Scene
from boig_core.perception.census import measure
from boig_core.vocabulary import BUCKETS, Description, Sample
from infra.evidence.llm import knows_kpi

COUNT_ALONE = {
    "name": "count",
    "base": {"median": 900, "spread": 0},
    "noise": {"sigma": 0.5},
    "terms": [{"count": 1, "weight": 1.0}],
}
YELLOW = Law.model_validate(
    COUNT_ALONE
    | {"name": "yellow", "noise": {"sigma": 0.1}, "terms": [{"color": "yellow", "weight": 9.0}]}
)


class Gain(Protocol):
    mean: float
    low: float
    high: float


@cache
def world(law: Law, posts: int = 3600) -> tuple[list[Sample], dict[str, Scene]]:
    """Posts of a world as samples, a third of them for the test, with buckets by account."""
    drawn = list(draw_posts(posts, 0, law, 32))
    colors, tones = measure(np.stack([post.rendering.image for post in drawn]), 5, 0.015)
    likes = defaultdict(list)
    for post in drawn:
        likes[post.brand].append(post.record["likes"])
    edges = {brand: np.quantile(result, (0.6, 0.9)) for brand, result in likes.items()}
    samples = [
        Sample(
            id=post.record["id"],
            post=post.record["id"],
            account=post.record["account"],
            company=post.brand,
            timestamp=post.record["timestamp"],
            text=post.record["text"],
            keywords=(),
            kpi=float(post.record["likes"]),
            kpi_normalized=50.0,
            bucket=BUCKETS[
                2 - int(np.searchsorted(edges[post.brand], post.record["likes"], "right"))
            ],
            split="test" if i % 3 == 0 else "train",
            image=post.record["id"],
            width=32,
            height=32,
            description=Description(
                c, t, {kind: (0.0, 0.0, 32.0, 32.0) for kind in post.rendering.boxes}
            ),
        )
        for i, (post, c, t) in enumerate(zip(drawn, colors, tones, strict=True))
    ]
    return samples, {post.record["id"]: post.scene for post in drawn}


def asked_of(samples: list[Sample], each: int) -> list[Sample]:
    return [
        s
        for bucket in ("high", "low")
        for s in [x for x in samples if x.split == "test" and x.bucket == bucket][:each]
    ]


def gains_of_the_best(law: Law) -> dict[tuple[str, str, str], Gain]:
    samples, scenes = world(law)
    asked = asked_of(samples, 100)
    nothing = {s.id: Description() for s in asked}
    return knows_kpi.ceilings(
        law, scenes, samples, asked, {"retrieval": nothing, "most_frequent": nothing}
    )


@pytest.mark.slow
def test_a_law_that_ignores_looks_leaves_nothing_to_know() -> None:
    result = gains_of_the_best(Law.model_validate(COUNT_ALONE))
    for metric in knows_kpi.METRICS:
        for bucket in ("high", "low"):
            assert result[metric, "no_kpi", bucket].mean == pytest.approx(0, abs=1e-9)
    # Over an answer that names nothing.
    assert result["colors_iou", "retrieval", "high"].mean > 0.15
    assert result["objects_iou", "retrieval", "high"].mean == 1  # the post tells the kinds


@pytest.mark.slow
def test_a_law_that_wants_one_color_is_worth_knowing() -> None:
    result = gains_of_the_best(YELLOW)
    # High posts are a third of those that the blind answer is for, so it names yellow too; tones
    # show more of what it does not know.
    assert result["colors_iou", "no_kpi", "high"].mean > 0.04
    assert result["tones_coverage_rmse", "no_kpi", "high"].mean > 0.08
    assert result["objects_iou", "no_kpi", "high"].mean == 0
    assert all(
        result[metric, "no_kpi", "high"].low > 0 for metric in ("colors_iou", "tones_coverage_rmse")
    )


def test_the_best_answer_with_the_kpi_names_what_the_law_wants() -> None:
    samples, scenes = world(YELLOW)
    silent = [
        s
        for s in asked_of(samples, 80)
        if s.bucket == "high"
        and not importlib.import_module("infra.evidence.llm.knows_kpi_ceiling").facts(s)[2]
    ]
    messages, blind = knows_kpi.best_answers(YELLOW, scenes, samples, silent)
    assert len(silent) > 30
    assert sum("Yellow" in messages[s.id].colors for s in silent) > 0.9 * len(silent)
    assert sum("Yellow" in blind[s.id].colors for s in silent) < 0.75 * len(silent)


def test_the_split_that_is_asked_about_has_no_say_in_the_best_answers() -> None:
    samples, scenes = world(YELLOW)
    asked = asked_of(samples, 10)
    lilac = Description({"Lilac": 1.0}, {"warm": 1.0})
    other = [replace(s, description=lilac) if s.split == "test" else s for s in samples]
    assert knows_kpi.best_answers(YELLOW, scenes, samples, asked) == knows_kpi.best_answers(
        YELLOW, scenes, other, asked
    )


def test_no_point_is_nearer_than_the_geometric_median() -> None:
    ceiling = importlib.import_module("infra.evidence.llm.knows_kpi_ceiling")
    rng = np.random.default_rng(0)
    for _ in range(20):
        points, weights = rng.dirichlet((0.5, 0.5, 0.5), 50), rng.random(50)
        best = ceiling.geometric_median(points, weights)
        around = np.concatenate(
            [
                [best, np.average(points, axis=0, weights=weights)],
                best + rng.normal(0, 0.02, (50, 3)),
            ]
        )
        losses = np.linalg.norm(points - around[:, None], axis=-1) @ weights
        assert losses[0] <= losses[1:].min() + 1e-6


def answers(
    samples: list[Sample], right: float, rng: np.random.Generator
) -> dict[str, Description | None]:
    """The truth for a share of the samples, else a description that shares nothing with it."""
    wrong = Description(
        {"Lilac": 1.0}, {"warm": 0.0, "neutral": 0.0, "cool": 1.0}, {"sofa": (0.0, 0.0, 1.0, 1.0)}
    )
    return {s.id: s.description if rng.random() < right else wrong for s in samples}


@pytest.fixture(scope="module")
def asked() -> list[Sample]:
    look = Description(
        {"Red": 1.0}, {"warm": 1.0, "neutral": 0.0, "cool": 0.0}, {"ball": (0.0, 0.0, 8.0, 8.0)}
    )
    row = Sample(
        "",
        "",
        "a",
        "a",
        "2020-01-01T00:00:00Z",
        "",
        (),
        1.0,
        50.0,
        "high",
        "test",
        "",
        32,
        32,
        look,
    )
    return [
        replace(row, id=f"{i}", post=f"{i}", bucket="high" if i % 2 else "low") for i in range(200)
    ]


def lines(
    asked: list[Sample], shares: list[dict[str, float]], ceiling: float | None
) -> list[object]:
    """Lines of seeds whose models are right on these shares of the samples."""
    rng = np.random.default_rng(0)
    answered = {
        f"seed {i}": {model: answers(asked, share, rng) for model, share in of.items()}
        for i, of in enumerate(shares)
    }
    keys = [
        (metric, base, bucket)
        for metric in knows_kpi.METRICS
        for base in knows_kpi.BASES
        for bucket in knows_kpi.BUCKETS
    ]
    over = (
        None
        if ceiling is None
        else {key: knows_kpi.Gain(ceiling, ceiling, ceiling) for key in keys}
    )
    return knows_kpi.lines_of(asked, answered, over)


def verdicts(found: list[object]) -> Counter[bool | None]:
    return Counter(line.holds for line in found)


BASELINES = {"no_kpi": 0.3, "retrieval": 0.3, "most_frequent": 0.3}


def test_a_gain_on_every_seed_holds_and_low_posts_are_shown_alone(asked: list[Sample]) -> None:
    result = lines(asked, [{"boigllm": 0.9, **BASELINES}] * 2, 0.5)
    assert verdicts(result) == {True: 9, None: 9}
    assert {line.bucket for line in result if line.holds is None} == {"low"}
    first = result[0]
    assert (first.metric, first.base) == ("colors_iou", "no_kpi")
    gain = first.gains["seed 0"]
    assert gain.mean == pytest.approx(0.6, abs=0.15)
    assert gain.low < gain.mean < gain.high
    assert first.gains["all"].mean == pytest.approx(
        np.mean([first.gains[f"seed {i}"].mean for i in range(2)])
    )


def test_saved_error_of_the_tones_is_a_gain(asked: list[Sample]) -> None:
    better, worse = ({"boigllm": share, **BASELINES} for share in (0.9, 0.05))
    tones = [
        [x for x in lines(asked, [of], 0.5) if x.metric == "tones_coverage_rmse"]
        for of in (better, worse)
    ]
    assert all(line.gains["all"].low > 0 for line in tones[0])
    assert all(
        line.gains["all"].high < 0 and line.gains["all"].low < line.gains["all"].mean
        for line in tones[1]
    )


def test_one_seed_without_a_gain_fails(asked: list[Sample]) -> None:
    result = lines(asked, [{"boigllm": 0.9, **BASELINES}, {"boigllm": 0.3, **BASELINES}], 0.5)
    assert verdicts(result) == {False: 9, None: 9}
    assert (
        knows_kpi.table("mine", result, {"seed 0": 1.0, "seed 1": 0.98})[-1]
        == "mine: 10 of 10 DO NOT HOLD"
    )


def test_nothing_must_hold_where_the_law_leaves_nothing(asked: list[Sample]) -> None:
    assert verdicts(lines(asked, [{"boigllm": 0.3, **BASELINES}], 0.02)) == {None: 18}


def test_shuffled_labels_ask_for_the_reverse(asked: list[Sample]) -> None:
    gone = lines(asked, [{"boigllm": 0.3, **BASELINES}] * 2, None)
    assert verdicts(gone) == {True: 6, None: 12}
    assert {line.base for line in gone if line.holds is not None} == {"no_kpi"}
    assert verdicts(lines(asked, [{"boigllm": 0.9, **BASELINES}] * 2, None)) == {
        False: 6,
        None: 12,
    }


def test_what_cannot_be_compared_fails() -> None:
    nothing = knows_kpi.Gain(math.nan, math.nan, math.nan)
    assert knows_kpi.GainLine("colors_iou", "no_kpi", "high", {"all": nothing}, 0.5).holds is False
    assert knows_kpi.GainLine("colors_iou", "no_kpi", "high", {"all": nothing}, None).holds is False


def test_the_table_says_what_failed(asked: list[Sample]) -> None:
    result = lines(asked, [{"boigllm": 0.9, **BASELINES}], 0.5)
    assert knows_kpi.table("mine", result, {"seed 0": 1.0})[-1] == "mine: all 10 hold"
    assert knows_kpi.table("mine", result, {"seed 0": 0.98})[-1] == "mine: 1 of 10 DO NOT HOLD"


def test_likes_change_places_within_accounts_alone(tmp_path: Path) -> None:
    rows = [{"id": str(i), "account": "ab"[i % 2], "likes": i, "text": "x"} for i in range(200)]
    broken = [b'{"id": "9', b'{"id": "8", "account": "a", "likes": "1,200"}']
    export = tmp_path / "posts.jsonl"
    export.write_bytes(b"\n".join([*(json.dumps(row).encode() for row in rows), *broken]) + b"\n")
    lines = knows_kpi.shuffled(export, 0).read_bytes().splitlines()
    assert lines[-2:] == broken
    mixed = [json.loads(line) for line in lines[:-2]]
    assert [{**row, "likes": 0} for row in mixed] == [{**row, "likes": 0} for row in rows]
    for account in "ab":
        before, after = (
            [row["likes"] for row in of if row["account"] == account] for of in (rows, mixed)
        )
        assert sorted(before) == sorted(after)
        assert abs(np.corrcoef(before, after)[0, 1]) < 0.3
