"""Buckets per account and splits by post."""

import numpy as np
import pytest

from boig_core.data.kpi import buckets, percentiles
from boig_core.data.split import split_of


def test_percentiles_are_ranks_within_the_account() -> None:
    accounts = ["a", "b", "a", "a", "b", "a"]
    found = percentiles(accounts, np.array([10.0, 5.0, 30.0, 20.0, 7.0, 20.0]))
    assert found.tolist() == [12.5, 25.0, 87.5, 50.0, 75.0, 50.0]


def test_ten_distinct_posts_make_six_low_three_medium_one_high() -> None:
    kpi = np.arange(100.0, 110.0)
    labels = buckets(percentiles(["a"] * 10, kpi), kpi, (60, 90), (20, 30, 40))
    assert labels == ["low"] * 6 + ["medium"] * 3 + ["high"]


def test_a_floor_leaves_a_post_without_bucket() -> None:
    kpi = np.array([20.0, 21.0, 30.0, 31.0, 40.0, 41.0])
    assert buckets(np.array([10.0, 10, 60, 60, 90, 90]), kpi, (60, 90), (20, 30, 40)) == [None, "low", None, "medium", None, "high"]


def test_buckets_do_not_depend_on_the_order_of_rows() -> None:
    rng = np.random.default_rng(0)
    accounts = np.array(["a", "b", "c"])[rng.integers(3, size=500)]
    kpi = rng.integers(0, 60, size=500).astype(float)
    straight = percentiles(list(accounts), kpi)
    order = rng.permutation(500)
    assert np.array_equal(percentiles(list(accounts[order]), kpi[order]), straight[order])


def test_percentiles_of_nothing() -> None:
    assert percentiles([], np.zeros(0)).shape == (0,)


def test_splits_follow_the_shares_and_stay_when_the_seed_does() -> None:
    posts = [str(i) for i in range(20_000)]
    splits = [split_of(0, post, (0.8, 0.1, 0.1)) for post in posts]
    assert [splits.count(name) / len(posts) for name in ("train", "validation", "test")] == pytest.approx([0.8, 0.1, 0.1], abs=0.01)
    assert splits == [split_of(0, post, (0.8, 0.1, 0.1)) for post in posts]
    assert splits != [split_of(1, post, (0.8, 0.1, 0.1)) for post in posts]
    assert split_of(0, "1000000007", (0.8, 0.1, 0.1)) == "train"  # pinned: a changed hash would move every post of every dataset
