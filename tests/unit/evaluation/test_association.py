"""The weighted statistics against plain ones on the resample written out in full."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import rankdata, spearmanr

from boig_core.evaluation.measure.association import (
    auc_within,
    pearson_within,
    percentile_within,
    spearman_within,
)


@dataclass
class Images:
    """Few accounts and few distinct values, so that ties, constants and lone buckets are common."""

    account: NDArray[np.int64]
    reward: NDArray[np.float64]
    kpi: NDArray[np.float64]
    bucket: NDArray[np.int64]  # 0 low, 1 medium, 2 high
    weights: NDArray[np.float64]

    @property
    def written_out(self) -> Images:
        """Each image as often as it was drawn."""
        times = self.weights.astype(int)
        repeated = [
            np.repeat(values, times)
            for values in (self.account, self.reward, self.kpi, self.bucket)
        ]
        return Images(*repeated, np.ones(times.sum()))  # type: ignore[arg-type]


ROWS = st.lists(
    st.tuples(
        st.integers(0, 2),
        st.integers(-3, 3),
        st.integers(0, 4),
        st.integers(0, 2),
        st.integers(0, 3),
    ),
    min_size=1,
    max_size=24,
)


def images(rows: list[tuple[int, ...]]) -> Images:
    account, reward, kpi, bucket, weights = np.array(rows).T
    return Images(account, reward / 7, kpi * 25.0, bucket, weights.astype(float))


def plain_auc(seen: Images) -> float:
    wins = [
        1.0
        if seen.reward[h] > seen.reward[low]
        else 0.5
        if seen.reward[h] == seen.reward[low]
        else 0.0
        for h in range(len(seen.account))
        for low in range(len(seen.account))
        if seen.bucket[h] == 2 and seen.bucket[low] == 0 and seen.account[h] == seen.account[low]
    ]
    return float(np.mean(wins)) if wins else float("nan")


def plain_correlation(seen: Images, ranks: bool) -> float:
    columns = []
    for values in (seen.reward, seen.kpi):
        centered = np.zeros(len(values))
        for account in set(seen.account.tolist()):
            here = seen.account == account
            own = rankdata(values[here]) / here.sum() if ranks else values[here]
            centered[here] = 0.0 if np.ptp(own) == 0 else own - own.mean()
        columns.append(centered)
    (x, y) = columns
    return float(x @ y / np.sqrt((x @ x) * (y @ y))) if x.any() and y.any() else float("nan")


@given(ROWS)
def test_auc_is_the_share_of_pairs_won(rows: list[tuple[int, ...]]) -> None:
    seen = images(rows)
    result = auc_within(
        seen.reward, seen.bucket == 2, seen.bucket == 0, seen.account, seen.weights[None]
    )
    assert result[0] == pytest.approx(plain_auc(seen.written_out), nan_ok=True)


@given(ROWS)
def test_correlations_are_those_of_values_and_of_ranks_centered_within_account(
    rows: list[tuple[int, ...]],
) -> None:
    seen = images(rows)
    for statistic, ranks in ((pearson_within, False), (spearman_within, True)):
        result = statistic(seen.reward, seen.kpi, seen.account, seen.weights[None])[0]
        assert result == pytest.approx(
            plain_correlation(seen.written_out, ranks), abs=1e-9, nan_ok=True
        )


@given(ROWS)
def test_all_resamples_at_once_are_one_after_the_other(rows: list[tuple[int, ...]]) -> None:
    seen = images(rows)
    many = np.stack([seen.weights, np.ones(len(rows)), seen.weights[::-1]])
    for statistic in (pearson_within, spearman_within):
        alone = [statistic(seen.reward, seen.kpi, seen.account, row[None])[0] for row in many]
        np.testing.assert_allclose(
            statistic(seen.reward, seen.kpi, seen.account, many), alone, atol=1e-12
        )


@given(ROWS)
def test_auc_and_spearman_see_order_within_the_account_alone(rows: list[tuple[int, ...]]) -> None:
    seen = images(rows)
    bent = (7 * seen.reward) ** 3 * (
        seen.account + 1
    ) + 1000.0 * seen.account  # increasing, another one in each account
    sides = (seen.bucket == 2, seen.bucket == 0, seen.account, seen.weights[None])
    np.testing.assert_array_equal(auc_within(seen.reward, *sides), auc_within(bent, *sides))
    np.testing.assert_allclose(
        auc_within(seen.reward, *sides), 1 - auc_within(-seen.reward, *sides), atol=1e-12
    )
    spearman, of_bent = (
        spearman_within(values, seen.kpi, *sides[2:]) for values in (seen.reward, bent)
    )
    np.testing.assert_array_equal(spearman, of_bent)
    np.testing.assert_array_equal(
        percentile_within(seen.reward, seen.account), percentile_within(bent, seen.account)
    )


def test_one_account_gives_spearmans_coefficient() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 9, 200).astype(float), rng.integers(0, 9, 200).astype(float)
    y += x / 3
    assert spearman_within(x, y, np.zeros(200), np.ones((1, 200)))[0] == pytest.approx(
        spearmanr(x, y).statistic
    )


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e9])
def test_scale_and_level_of_a_reward_do_not_matter(scale: float) -> None:
    rng = np.random.default_rng(1)
    x, y, account = rng.normal(size=60), rng.normal(size=60), np.arange(60) % 3
    there = pearson_within(scale * x + 5 * scale * account, y, account, np.ones((1, 60)))
    assert there[0] == pytest.approx(pearson_within(x, y, account, np.ones((1, 60)))[0])
    assert np.isnan(pearson_within(scale * (0.1 + account), y, account, np.ones((1, 60)))[0])
