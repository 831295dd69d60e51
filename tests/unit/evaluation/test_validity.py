from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from scipy.stats import mannwhitneyu

from boig_core.evaluation.measure.validity import MIN_ACCOUNT, Validity, validity
from boig_core.vocabulary import KpiValue, Sample


def sample(index: int, account: str, bucket: Any, kpi: float) -> Sample:
    return Sample(
        str(index),
        str(index),
        account,
        "acme",
        "2021-07-01T10:00:00Z",
        "t",
        (),
        kpi,
        kpi,
        bucket,
        "test",
        "0" * 64,
        8,
        8,
    )


def world(count: int = 60) -> list[Sample]:
    buckets = ["high", "medium", "low"]
    return [
        sample(i, f"account{i % 2}", buckets[i // 2 % 3], 90 - 30 * (i // 2 % 3) + i / 100)
        for i in range(count)
    ]


def measure(reward: Any, samples: list[Sample], lengths: Any = None, **options: Any) -> Validity:
    length_N = np.arange(len(samples)) if lengths is None else lengths
    return validity(
        np.asarray(reward, float),
        np.asarray(length_N, float),
        samples,
        resamples=200,
        seed=0,
        **options,
    )


def test_auc_against_a_count_by_hand() -> None:
    samples = [
        sample(0, "a", "high", 90),
        sample(1, "a", "high", 95),
        sample(2, "a", "low", 10),
        sample(3, "b", "high", 80),
        sample(4, "b", "low", 5),
    ]
    result = measure([1.0, 3.0, 2.0, 5.0, 5.0], samples).kpi
    assert result.pairs == 3
    assert result.auc_high_vs_low == pytest.approx((0 + 1 + 0.5) / 3)


def test_a_reward_that_only_knows_the_account_is_worth_nothing() -> None:
    samples = world()
    level = np.array([10.0 if s.account == "account0" else 0.0 for s in samples])
    noise = np.random.default_rng(0).normal(0, 0.01, len(samples))
    # All HIGH posts of one account, all LOW posts of the other: over all accounts the AUC would be
    # 1.
    lopsided = [
        s
        for s in samples
        if s.bucket == "medium" or (s.account == "account0") == (s.bucket == "high")
    ]
    assert measure(level + noise, samples).kpi.auc_high_vs_low == pytest.approx(0.5, abs=0.2)
    result = measure(np.arange(len(lopsided)), lopsided).kpi
    assert (result.auc_high_vs_low, result.auc_interval, result.pairs) == (None, None, 0)
    assert result.undefined == dict.fromkeys(
        ("auc_high_vs_low", "auc_interval"), "no account has both a HIGH and a LOW image"
    )


def test_a_perfect_reward_and_its_opposite() -> None:
    samples = world()
    kpi = np.array([s.kpi_normalized for s in samples])
    good, bad = measure(kpi, samples).kpi, measure(-kpi, samples).kpi
    assert good.auc_high_vs_low == 1.0
    assert good.pearson == pytest.approx(1.0)
    assert good.pearson_interval == pytest.approx((1.0, 1.0))
    assert good.spearman == pytest.approx(1.0)
    assert bad.auc_high_vs_low == 0.0
    assert (bad.pearson, bad.spearman) == pytest.approx((-1.0, -1.0))
    assert good.n == 60


def test_intervals_hold_the_estimate_and_narrow_with_more_posts() -> None:
    rng = np.random.default_rng(0)
    widths = []
    for count in (60, 600):
        samples = world(count)
        result = measure([s.kpi_normalized + rng.normal(0, 60) for s in samples], samples).as_json()
        for name, span in (
            ("auc_high_vs_low", "auc_interval"), ("pearson", "pearson_interval"), ("spearman", "spearman_interval"),
            ("length_correlation", "length_interval"),
        ):  # fmt: skip
            low, high = result[span]
            assert low <= result[name] <= high
            widths.append(high - low)
    assert all(wide > 2 * narrow for wide, narrow in zip(widths[:4], widths[4:], strict=True))


def test_images_of_one_post_count_as_one() -> None:
    samples = world(40)
    rng = np.random.default_rng(0)
    reward = np.array([s.kpi_normalized + rng.normal(0, 60) for s in samples])
    eight = [replace(s, id=f"{s.id}-{copy}") for s in samples for copy in range(8)]
    alone, copied = measure(reward, samples).kpi, measure(np.repeat(reward, 8), eight).kpi
    assert copied.auc_interval == pytest.approx(alone.auc_interval)
    assert copied.n == 8 * alone.n


def test_paying_for_length_shows_and_constant_length_is_undefined() -> None:
    samples = world()
    lengths = np.random.default_rng(0).integers(40, 60, len(samples)).astype(float)
    level = np.array([1000.0 if s.account == "account0" else 0.0 for s in samples])
    assert measure(lengths, samples, lengths + level).length_correlation == pytest.approx(1.0)
    result = measure(np.arange(60), samples, np.full(60, 50.0))
    assert (result.length_correlation, result.length_interval) == (None, None)
    assert (
        result.as_json()["undefined"]["length_correlation"]
        == "the length does not vary within any account"
    )


def test_a_constant_reward_has_no_measure_at_all() -> None:
    result = measure(np.full(60, 0.1), world()).as_json()
    for name in (
        "auc_high_vs_low", "auc_interval", "pearson", "pearson_interval", "spearman", "spearman_interval", "length_correlation",
        "length_interval",
    ):  # fmt: skip
        assert result[name] is None
        assert result["undefined"][name] == "the reward does not vary within any account"


@pytest.mark.parametrize(("each", "sure"), [(9, False), (10, True)])
def test_a_handful_of_posts_is_never_sure(each: int, sure: bool) -> None:
    samples = [
        sample(i, "a", "high" if i < each else "low", float(100 - i)) for i in range(each + 30)
    ]
    samples += [sample(99, "only high", "high", 50.0)]  # has no partner, and does not count
    result = measure([s.kpi for s in samples], samples).kpi
    assert result.auc_high_vs_low == 1.0
    assert result.auc_interval == ((1.0, 1.0) if sure else None)
    assert ("auc_interval" in result.undefined) is not sure


def test_reliability_follows_the_reward_within_the_account() -> None:
    samples = world(600)
    shift = np.array([1000.0 if s.account == "account0" else 0.0 for s in samples])
    result = measure(shift + [s.kpi_normalized for s in samples], samples).reliability
    assert [row.decile for row in result] == list(range(1, 11))
    assert [row.n for row in result] == [60] * 10
    assert [row.share_high for row in result] == pytest.approx([0] * 6 + [1 / 3] + [1] * 3)
    assert all(later.kpi_normalized > row.kpi_normalized for row, later in pairwise(result))
    (middle,) = measure(np.zeros(600), samples).reliability
    assert (middle.decile, middle.n) == (6, 600)
    assert middle.share_high == pytest.approx(1 / 3)


def test_small_accounts_are_counted_and_not_shown() -> None:
    big = world(2 * MIN_ACCOUNT)
    lone = [sample(1000 + i, "all low", "low", i) for i in range(50)]
    few = [sample(2000 + i, "few", "high" if i < 9 else "low", i) for i in range(MIN_ACCOUNT - 1)]
    samples = [*few, *big, *lone]
    reward = np.random.default_rng(0).normal(size=len(samples))
    result = measure(reward, samples)
    assert set(result.accounts) == {"account0", "account1"}
    assert result.accounts_too_few == 2
    own = np.array([s.account == "account1" for s in samples])
    high, low = (reward[own & [s.bucket == bucket for s in samples]] for bucket in ("high", "low"))
    assert result.accounts["account1"].n == MIN_ACCOUNT
    assert result.accounts["account1"].auc_high_vs_low == pytest.approx(
        mannwhitneyu(high, low).statistic / (len(high) * len(low))
    )


def test_each_kpi_is_measured_on_the_images_that_have_it() -> None:
    samples = [
        replace(
            s,
            more_kpis={
                "shares": KpiValue(
                    1.0, 100 - s.kpi_normalized, {"high": "low", "low": "high"}.get(str(s.bucket))
                )
            },
        )  # type: ignore[arg-type]
        if i < 40
        else s
        for i, s in enumerate(world())
    ]
    result = measure([s.kpi_normalized for s in samples], samples, more_kpis=("shares", "comments"))
    assert result.kpi.auc_high_vs_low == 1.0
    assert result.more_kpis["shares"].n == 40
    assert result.more_kpis["shares"].auc_high_vs_low == 0.0
    assert result.more_kpis["shares"].spearman == pytest.approx(-1.0)
    absent = result.more_kpis["comments"]
    assert (absent.n, absent.auc_high_vs_low, absent.undefined["spearman"]) == (
        0,
        None,
        "no image has this KPI",
    )


def test_wrong_counts_and_values_that_are_not_finite_raise() -> None:
    for reward in ([1.0] * 59, [np.nan, *[1.0] * 59], [[1.0]]):
        with pytest.raises(ValueError, match="finite"):
            measure(reward, world())
