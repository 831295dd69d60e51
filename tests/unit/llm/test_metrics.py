from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boig_core.llm.metrics import METRICS, HashedNgrams, PredictedPair, sample_metrics, table
from boig_core.vocabulary import PALETTE, TONES, Box, Bucket, Description

VECTORS = HashedNgrams()


class Fixed:
    """Cosines by hand."""

    name = "by hand"

    def cosine(self, first: str, second: str) -> float:
        return (
            1.0
            if first == second
            else {frozenset(("cup", "mug")): 0.8}.get(frozenset((first, second)), 0.7)
        )


def test_a_hand_computed_example() -> None:
    truth = Description(
        {"Black": 0.6, "White": 0.4},
        {"warm": 0.2, "neutral": 0.8},
        {"cup": (0.0, 0.0, 10.0, 10.0), "tree": (0, 0, 2, 2)},
    )
    answers = Description(
        {"Black": 0.5, "Red": 0.5}, {"warm": 0.5, "cool": 0.5}, {"mug": (10.0, 0.0, 30.0, 10.0)}
    )
    got = sample_metrics(PredictedPair("high", 30, 40, truth, answers), Fixed())
    assert got["colors_iou"] == pytest.approx(1 / 3)
    assert got["colors_cosine"] == pytest.approx(1.0)  # 0.7 itself does not count
    assert got["colors_coverage_rmse"] == pytest.approx(0.1)
    assert got["tones_coverage_rmse"] == pytest.approx(0.3)
    assert got["objects_iou"] == 0.0
    assert got["objects_cosine"] == pytest.approx(0.8)
    # One pair, cup and mug: areas 100 and 200 of 1200, centers (5, 5) and (20, 5), diagonal 50.
    assert got["objects_area_rmse"] == pytest.approx(math.sqrt(100**2 * (100 / 1200) / 0.8) / 1200)
    assert got["objects_position_error"] == pytest.approx(15 / 0.8 / 50)
    # Black is at distance 0 from itself; Black to Red, White to Black and White to Red lie beyond
    # 0.5.
    assert got["colors_rgb_distance"] == pytest.approx(0.0)


def brute_force(pair: PredictedPair) -> dict[str, float]:
    """The paper's definitions, written down a second time over all pairs as arrays."""
    g, p = pair.truth, pair.prediction or Description()

    def iou(a: set[str], b: set[str]) -> float:
        return float(np.sum([n in a and n in b for n in a | b]) / len(a | b)) if a | b else math.nan

    def mean(values: list[float]) -> float:
        return float(np.mean(values)) if values else math.nan

    def rgb(name: str) -> np.ndarray:
        return np.array(PALETTE[name]) / 255

    colors, objects = list(product(g.colors, p.colors)), list(product(g.objects, p.objects))
    near = [(a, b, VECTORS.cosine(a, b)) for a, b in objects if VECTORS.cosine(a, b) > 0.7]

    def area(box: Box) -> float:
        return (box[2] - box[0]) * (box[3] - box[1])

    def center(box: Box) -> np.ndarray:
        return np.array([box[0] + box[2], box[1] + box[3]]) / 2

    image = pair.width * pair.height
    squares = [
        (area(g.objects[a]) - area(p.objects[b])) ** 2 * (area(g.objects[a]) / image) / c
        for a, b, c in near
    ]
    distances = [
        float(np.linalg.norm(center(g.objects[a]) - center(p.objects[b]))) / c for a, b, c in near
    ]
    rgb_distances = [float(np.linalg.norm(rgb(a) - rgb(b))) for a, b in colors]
    return {
        "colors_iou": iou(set(g.colors), set(p.colors)),
        "colors_cosine": mean(
            [VECTORS.cosine(a, b) for a, b in colors if VECTORS.cosine(a, b) > 0.7]
        ),
        "colors_rgb_distance": mean([d for d in rgb_distances if d < 0.5]),
        "colors_coverage_rmse": mean(
            [(g.colors[n] - p.colors[n]) ** 2 for n in g.colors if n in p.colors]
        )
        ** 0.5,
        "tones_coverage_rmse": mean(
            [(g.tones[n] - p.tones[n]) ** 2 for n in g.tones if n in p.tones]
        )
        ** 0.5,
        "objects_iou": iou(set(g.objects), set(p.objects)),
        "objects_cosine": mean([c for _, _, c in near]),
        "objects_area_rmse": mean(squares) ** 0.5 / image,
        "objects_position_error": mean(distances) / math.hypot(pair.width, pair.height),
    }


def random_description(rng: np.random.Generator) -> Description:
    colors = rng.choice(list(PALETTE), size=rng.integers(0, 6), replace=False)
    kinds = rng.choice(
        ["ball", "balls", "ring", "rings", "star", "box"], size=rng.integers(0, 4), replace=False
    )
    corners = rng.uniform(0, 60, (len(kinds), 4))
    return Description(
        {str(name): float(rng.random()) for name in colors},
        {tone: float(rng.random()) for tone in TONES if rng.random() < 0.7},
        {
            str(k): (float(c[0]), float(c[1]), float(c[0] + c[2]), float(c[1] + c[3]))
            for k, c in zip(kinds, corners, strict=True)
        },
    )


names = st.sampled_from(["ball", "balls", "ring", "rings", "star", "box"])
shares = st.floats(0, 1)
edges = st.tuples(*[st.floats(0, 500)] * 4)
descriptions = st.builds(
    Description,
    st.dictionaries(st.sampled_from(sorted(PALETTE)), shares, max_size=6),
    st.dictionaries(st.sampled_from(TONES), shares),
    st.dictionaries(
        names,
        edges.map(lambda e: (min(e[0], e[2]), min(e[1], e[3]), max(e[0], e[2]), max(e[1], e[3]))),
        max_size=4,
    ),
)


@settings(max_examples=150)
@given(descriptions, st.none() | descriptions, st.integers(1, 2000), st.integers(1, 2000))
def test_any_sample_agrees_with_brute_force(
    truth: Description, said: Description | None, width: int, height: int
) -> None:
    pair = PredictedPair("high", width, height, truth, said)
    got, expected = sample_metrics(pair, VECTORS), brute_force(pair)
    assert list(got) == list(METRICS)
    for metric in METRICS:
        assert got[metric] == pytest.approx(expected[metric], rel=1e-9, abs=1e-12, nan_ok=True), (
            metric
        )


def test_empty_sets_have_no_pairs() -> None:
    red = Description({"Red": 1.0}, {"warm": 1.0}, {"ball": (0.0, 0.0, 4.0, 4.0)})
    for truth, answers in ((Description(), Description()), (Description(), None)):
        assert all(
            math.isnan(value)
            for value in sample_metrics(
                PredictedPair("low", 8, 8, truth, answers), VECTORS
            ).values()
        )
    for truth, answers in ((red, Description()), (red, None), (Description(), red)):
        got = sample_metrics(PredictedPair("low", 8, 8, truth, answers), VECTORS)
        assert {metric for metric, value in got.items() if value == 0} == {
            "colors_iou",
            "objects_iou",
        }
        assert sum(math.isnan(value) for value in got.values()) == 7


def test_a_second_hand_computed_example_with_several_pairs() -> None:
    """Two objects with one pair each beside the pair of like names; two colors near each other in
    RGB."""
    truth = Description(
        {"Black": 0.5, "Dark_Gray": 0.5},
        {"warm": 1.0},
        {"cup": (0.0, 0.0, 20.0, 10.0), "mug": (0.0, 0.0, 10.0, 10.0)},
    )
    answers = Description(
        {"Black": 0.9, "Dark_Gray": 0.1},
        {"warm": 0.4, "cool": 0.6},
        {"cup": (0.0, 0.0, 10.0, 10.0)},
    )
    got = sample_metrics(PredictedPair("low", 30, 40, truth, answers), Fixed())
    gap = math.hypot(55, 55, 57) / 255  # (15, 15, 15) to (70, 70, 72)
    assert got["colors_rgb_distance"] == pytest.approx((0 + gap + gap + 0) / 4)
    assert got["colors_coverage_rmse"] == pytest.approx(0.4)
    assert got["tones_coverage_rmse"] == pytest.approx(0.6)
    assert got["objects_iou"] == pytest.approx(0.5)
    assert got["objects_cosine"] == pytest.approx((1.0 + 0.8) / 2)
    # cup with cup: 200 against 100 of 1200, centers (10, 5) and (5, 5); mug with cup: the same box,
    # cosine 0.8.
    assert got["objects_area_rmse"] == pytest.approx(
        math.sqrt((100**2 * (200 / 1200) / 1.0 + 0) / 2) / 1200
    )
    assert got["objects_position_error"] == pytest.approx((5 / 1.0 + 0) / 2 / 50)


def test_random_samples_agree_with_brute_force() -> None:
    rng = np.random.default_rng(0)
    buckets: list[Bucket] = ["high", "medium", "low"]
    pairs = [
        PredictedPair(
            buckets[i % 3],
            128,
            96,
            random_description(rng),
            None if i % 17 == 0 else random_description(rng),
        )
        for i in range(400)
    ]
    values = table(pairs, VECTORS)
    for metric in METRICS:
        expected = np.array([brute_force(pair)[metric] for pair in pairs])
        assert np.isfinite(expected).any(), metric
        assert np.isnan(expected).any() or metric.endswith("rgb_distance"), metric
        np.testing.assert_allclose(values[metric], expected, rtol=1e-12, err_msg=metric)


def test_hashed_vectors_are_unit_and_know_spelling_only() -> None:
    assert VECTORS.cosine("Dark_Red", "Dark_Red") == pytest.approx(1.0)
    assert VECTORS.cosine("dark red", "Dark_Red") == pytest.approx(1.0)
    assert VECTORS.cosine("ring", "rings") > VECTORS.cosine("ring", "moon")
    assert abs(VECTORS.cosine("Blue", "Maroon")) < 0.7
