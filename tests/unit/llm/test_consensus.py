"""The consensus names what is expected to overlap, not what is likeliest."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from boig_core.llm.consensus import best_names, consensus
from boig_core.vocabulary import Description

TONES = {"warm": 1.0, "neutral": 0.0, "cool": 0.0}


def mean_iou(names: set[str], samples: list[set[str]]) -> float:
    return float(np.mean([len(names & s) / len(names | s) if names | s else 1.0 for s in samples]))


def test_a_name_counts_when_it_raises_the_expected_overlap() -> None:
    assert best_names([{"Red"}, {"Red", "Blue"}, {"Red", "Blue"}]) == ["Red", "Blue"]
    assert best_names([{"Red"}, {"Red"}, {"Red", "Blue"}]) == ["Red"]
    assert best_names([set(), set(), {"Red"}]) == []


def test_the_greedy_set_is_about_as_good_as_the_best_of_all_sets() -> None:
    rng = np.random.default_rng(0)
    names = ["a", "b", "c", "d", "e"]
    lost = []
    for _ in range(40):
        samples = [set(rng.choice(names, size=rng.integers(1, 4), replace=False)) for _ in range(8)]
        best = max(
            mean_iou(set(some), samples)
            for size in range(6)
            for some in itertools.combinations(names, size)
        )
        lost.append(best - mean_iou(set(best_names(samples)), samples))
    assert min(lost) > -1e-12
    assert np.mean(lost) < 0.02


def test_shares_are_means_that_sum_to_one_and_boxes_are_medians() -> None:
    samples = [
        Description(
            {"Red": 0.8, "Blue": 0.2},
            {"warm": 0.8, "neutral": 0.0, "cool": 0.2},
            {"ball": (0.0, 0.0, 10.0, 10.0)},
        ),
        Description(
            {"Red": 0.6, "Blue": 0.4},
            {"warm": 0.6, "neutral": 0.0, "cool": 0.4},
            {"ball": (2.0, 2.0, 12.0, 12.0)},
        ),
        Description(
            {"Red": 1.0}, TONES, {"ball": (4.0, 4.0, 90.0, 90.0), "star": (1.0, 1.0, 2.0, 2.0)}
        ),
        None,
    ]
    result = consensus(samples)
    assert result is not None
    assert list(result.colors) == ["Red", "Blue"]
    assert sum(result.colors.values()) == pytest.approx(1.0)
    assert result.colors["Red"] == pytest.approx(0.8 / 1.1, abs=0.01)
    assert result.tones == {"warm": 0.8, "neutral": 0.0, "cool": 0.2}
    assert result.objects == {"ball": (2.0, 2.0, 12.0, 12.0)}
    assert consensus([None, None]) is None
