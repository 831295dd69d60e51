from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from boig_core.errors import InputError
from boig_core.evaluation.validity import validity
from boig_core.vocabulary import Sample


def sample(index: int, account: str, bucket: Any, kpi: float) -> Sample:
    return Sample(str(index), str(index), account, "acme", "2021-07-01T10:00:00Z", "t", (), kpi, kpi, bucket, "test", "0" * 64, 8, 8)


def world(count: int = 60) -> list[Sample]:
    buckets = ["high", "medium", "low"]
    return [sample(i, f"account{i % 2}", buckets[i // 2 % 3], 90 - 30 * (i // 2 % 3) + i / 100) for i in range(count)]


def measure(reward: Any, samples: list[Sample], lengths: Any = None) -> Any:
    return validity(np.asarray(reward, float), np.arange(len(samples)) if lengths is None else lengths, samples, resamples=200, seed=0)


def test_auc_against_a_count_by_hand() -> None:
    samples = [
        sample(0, "a", "high", 90),
        sample(1, "a", "high", 95),
        sample(2, "a", "low", 10),
        sample(3, "b", "high", 80),
        sample(4, "b", "low", 5),
    ]
    found = measure([1.0, 3.0, 2.0, 5.0, 5.0], samples)
    assert found.pairs == 3
    assert found.auc_high_vs_low == pytest.approx((0 + 1 + 0.5) / 3)


def test_a_reward_that_only_knows_the_account_is_worth_nothing() -> None:
    samples = world()
    level = np.array([10.0 if s.account == "account0" else 0.0 for s in samples])
    noise = np.random.default_rng(0).normal(0, 0.01, len(samples))
    # All HIGH posts of one account, all LOW posts of the other: over all accounts the AUC would be 1.
    lopsided = [s for s in samples if s.bucket == "medium" or (s.account == "account0") == (s.bucket == "high")]
    assert measure(level + noise, samples).auc_high_vs_low == pytest.approx(0.5, abs=0.2)
    with pytest.raises(InputError, match="no HIGH and LOW image of one account"):
        measure(np.arange(len(lopsided)), lopsided)


def test_a_perfect_reward_and_its_opposite() -> None:
    samples = world()
    kpi = np.array([s.kpi_normalized for s in samples])
    good, bad = measure(kpi, samples), measure(-kpi, samples)
    assert good.auc_high_vs_low == 1.0
    assert good.pearson == pytest.approx(1.0)
    assert good.pearson_interval == pytest.approx((1.0, 1.0))
    assert bad.auc_high_vs_low == 0.0
    assert bad.pearson == pytest.approx(-1.0)
    assert good.n == 60


def test_interval_holds_the_estimate_and_narrows_with_more_posts() -> None:
    rng = np.random.default_rng(0)
    widths = []
    for count in (60, 600):
        samples = world(count)
        found = measure([s.kpi_normalized + rng.normal(0, 60) for s in samples], samples)
        low, high = found.auc_interval
        assert low <= found.auc_high_vs_low <= high
        widths.append(high - low)
    assert widths[1] < 0.5 * widths[0]


def test_paying_for_length_shows_and_constant_length_is_undefined() -> None:
    samples = world()
    lengths = np.random.default_rng(0).integers(40, 60, len(samples)).astype(float)
    assert measure(lengths, samples, lengths).length_correlation == pytest.approx(1.0)
    assert measure(np.arange(60), samples, np.full(60, 50.0)).length_correlation is None


def test_a_constant_reward_raises() -> None:
    with pytest.raises(InputError, match="must vary"):
        measure(np.ones(60), world())
