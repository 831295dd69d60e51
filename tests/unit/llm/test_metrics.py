from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest

from boig_core.llm.metrics import METRICS, HashedNgrams, Pair, sample_metrics, summarize, table
from boig_core.vocabulary import PALETTE, TONES, Box, Bucket, Description

VECTORS = HashedNgrams()


class Fixed:
    """Cosines by hand."""

    def cosine(self, first: str, second: str) -> float:
        return 1.0 if first == second else {frozenset(("cup", "mug")): 0.8}.get(frozenset((first, second)), 0.7)


def test_a_hand_computed_example() -> None:
    truth = Description({"Black": 0.6, "White": 0.4}, {"warm": 0.2, "neutral": 0.8}, {"cup": (0.0, 0.0, 10.0, 10.0), "tree": (0, 0, 2, 2)})
    said = Description({"Black": 0.5, "Red": 0.5}, {"warm": 0.5, "cool": 0.5}, {"mug": (10.0, 0.0, 30.0, 10.0)})
    got = sample_metrics(Pair("high", 30, 40, truth, said), Fixed())
    assert got["colors_iou"] == pytest.approx(1 / 3)
    assert got["colors_cosine"] == pytest.approx(1.0)  # 0.7 itself does not count
    assert got["colors_coverage_rmse"] == pytest.approx(0.1)
    assert got["tones_coverage_rmse"] == pytest.approx(0.3)
    assert got["objects_iou"] == 0.0
    assert got["objects_cosine"] == pytest.approx(0.8)
    # One pair, cup and mug: areas 100 and 200 of 1200, centers (5, 5) and (20, 5), diagonal 50.
    assert got["objects_area_rmse"] == pytest.approx(math.sqrt(100**2 * (100 / 1200) / 0.8) / 1200)
    assert got["objects_position_error"] == pytest.approx(15 / 0.8 / 50)
    # Black is at distance 0 from itself; Black to Red, White to Black and White to Red lie beyond 0.5.
    assert got["colors_rgb_distance"] == pytest.approx(0.0)


def brute_force(pair: Pair) -> dict[str, float]:
    """The definitions of PAPER section 5, written down a second time over all pairs as arrays."""
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
    squares = [(area(g.objects[a]) - area(p.objects[b])) ** 2 * (area(g.objects[a]) / image) / c for a, b, c in near]
    distances = [float(np.linalg.norm(center(g.objects[a]) - center(p.objects[b]))) / c for a, b, c in near]
    rgb_distances = [float(np.linalg.norm(rgb(a) - rgb(b))) for a, b in colors]
    return {
        "colors_iou": iou(set(g.colors), set(p.colors)),
        "colors_cosine": mean([VECTORS.cosine(a, b) for a, b in colors if VECTORS.cosine(a, b) > 0.7]),
        "colors_rgb_distance": mean([d for d in rgb_distances if d < 0.5]),
        "colors_coverage_rmse": mean([(g.colors[n] - p.colors[n]) ** 2 for n in g.colors if n in p.colors]) ** 0.5,
        "tones_coverage_rmse": mean([(g.tones[n] - p.tones[n]) ** 2 for n in g.tones if n in p.tones]) ** 0.5,
        "objects_iou": iou(set(g.objects), set(p.objects)),
        "objects_cosine": mean([c for _, _, c in near]),
        "objects_area_rmse": mean(squares) ** 0.5 / image,
        "objects_position_error": mean(distances) / math.hypot(pair.width, pair.height),
    }


def random_description(rng: np.random.Generator) -> Description:
    colors = rng.choice(list(PALETTE), size=rng.integers(0, 6), replace=False)
    kinds = rng.choice(["ball", "balls", "ring", "rings", "star", "box"], size=rng.integers(0, 4), replace=False)
    corners = rng.uniform(0, 60, (len(kinds), 4))
    return Description(
        {str(name): float(rng.random()) for name in colors},
        {tone: float(rng.random()) for tone in TONES if rng.random() < 0.7},
        {str(k): (float(c[0]), float(c[1]), float(c[0] + c[2]), float(c[1] + c[3])) for k, c in zip(kinds, corners, strict=True)},
    )


def test_random_samples_agree_with_brute_force() -> None:
    rng = np.random.default_rng(0)
    buckets: list[Bucket] = ["high", "medium", "low"]
    pairs = [Pair(buckets[i % 3], 128, 96, random_description(rng), None if i % 17 == 0 else random_description(rng)) for i in range(400)]
    values = table(pairs, VECTORS)
    for metric in METRICS:
        expected = np.array([brute_force(pair)[metric] for pair in pairs])
        assert np.isfinite(expected).any(), metric
        assert np.isnan(expected).any() or metric.endswith("rgb_distance"), metric
        np.testing.assert_allclose(values[metric], expected, rtol=1e-12, err_msg=metric)


def test_undefined_samples_stay_out_of_the_mean_and_are_counted() -> None:
    red = Description({"Red": 1.0}, {"warm": 1.0})
    pairs = [Pair("high", 8, 8, red, red), Pair("high", 8, 8, red, Description({"Blue": 1.0}, {"cool": 1.0})), Pair("low", 8, 8, red, None)]
    got = summarize(pairs, table(pairs))
    assert got["colors_iou"] == {"high": 0.5, "low": 0.0, "all": pytest.approx(1 / 3), "undefined": 0}
    assert got["colors_coverage_rmse"] == {"high": 0.0, "low": None, "all": 0.0, "undefined": 2}
    assert got["objects_iou"]["undefined"] == 3


def test_hashed_vectors_are_unit_and_know_spelling_only() -> None:
    assert VECTORS.cosine("Dark_Red", "Dark_Red") == pytest.approx(1.0)
    assert VECTORS.cosine("dark red", "Dark_Red") == pytest.approx(1.0)
    assert VECTORS.cosine("ring", "rings") > VECTORS.cosine("ring", "moon")
    assert abs(VECTORS.cosine("Blue", "Maroon")) < 0.7
