from __future__ import annotations

import numpy as np
import pytest

from boig_core.evaluation.measure.intervals import interval, paired_difference, resample_counts


def test_clusters_are_drawn_whole_and_strata_keep_their_size() -> None:
    counts = resample_counts(["a", "a", "b", "c", "d", "d"], 500, 0, strata=[0, 0, 0, 1, 1, 1])
    assert counts.shape == (500, 6)
    np.testing.assert_array_equal(counts[:, 0], counts[:, 1])
    np.testing.assert_array_equal(counts[:, 0] + counts[:, 2], np.full(500, 2.0))
    np.testing.assert_array_equal(counts[:, 3] + counts[:, 4], np.full(500, 2.0))
    assert counts.mean(axis=0) == pytest.approx(np.ones(6), abs=0.1)


def test_one_name_in_two_strata_is_two_clusters() -> None:
    counts = resample_counts(["a", "b", "a", "b"], 200, 0, strata=[0, 0, 1, 1])
    assert (counts[:, 0] != counts[:, 2]).any()


def test_interval_covers_at_its_level() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for trial in range(200):
        prompts = np.repeat(rng.normal(0.3, 1, 60), 4)
        values = prompts + rng.normal(0, 0.1, 240)
        result = paired_difference(
            values, np.zeros(240), np.repeat(np.arange(60), 4).tolist(), resamples=300, seed=trial
        )
        hits += result.low <= 0.3 <= result.high
    assert 0.88 <= hits / 200 <= 0.99


def test_ignoring_clusters_would_be_too_sure() -> None:
    values = np.repeat(np.random.default_rng(1).normal(size=40), 8)
    clustered = paired_difference(
        values, np.zeros(320), np.repeat(np.arange(40), 8).tolist(), resamples=500, seed=0
    )
    alone = paired_difference(values, np.zeros(320), list(range(320)), resamples=500, seed=0)
    assert clustered.high - clustered.low > 2 * (alone.high - alone.low)
    assert (clustered.clusters, clustered.n) == (40, 320)


def test_pairing_removes_what_both_share() -> None:
    rng = np.random.default_rng(2)
    base = rng.normal(0, 100, 80)
    result = paired_difference(
        base + 0.5 + rng.normal(0, 0.1, 80), base, list(range(80)), resamples=400, seed=3
    )
    assert 0.4 < result.low < result.mean < result.high < 0.6


def test_the_same_seed_gives_the_same_interval() -> None:
    values = np.random.default_rng(4).normal(size=50)
    once, again, other = (
        paired_difference(values, np.zeros(50), list(range(50)), resamples=200, seed=s)
        for s in (1, 1, 2)
    )
    assert once == again
    assert once != other


def test_bad_pairs_raise() -> None:
    with pytest.raises(ValueError, match="finite"):
        paired_difference([1.0, np.nan], [0.0, 0.0], [0, 1], resamples=100, seed=0)
    with pytest.raises(ValueError, match="clusters"):
        paired_difference([1.0], [0.0], [0, 1], resamples=100, seed=0)
    with pytest.raises(ValueError, match="undefined"):
        interval([np.nan])
