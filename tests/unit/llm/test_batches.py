from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from boig_core.errors import InputError
from boig_core.llm.batches import IGNORE, Order, as_one, by_bucket, collate
from boig_core.llm.tokens import Example
from boig_core.vocabulary import Sample

MakeSamples = Callable[[int], list[Sample]]


def test_each_step_is_balanced_and_each_bucket_comes_in_full_passes(
    make_samples: MakeSamples,
) -> None:
    samples = [s for s in make_samples(240) if s.bucket]
    order = Order(by_bucket(samples), batch=12, seed=3)
    drawn = [order.rows(step) for step in range(60)]
    for rows in drawn:
        assert Counter(samples[i].bucket for i in rows) == {"high": 4, "medium": 4, "low": 4}
    for bucket in ("high", "low"):
        members = [i for i, s in enumerate(samples) if s.bucket == bucket]
        first_pass = [i for rows in drawn for i in rows if samples[i].bucket == bucket][
            : len(members)
        ]
        assert sorted(first_pass) == members


def test_a_draw_names_the_pass_that_its_sample_is_met_in(make_samples: MakeSamples) -> None:
    samples = make_samples(30)
    order = Order(by_bucket(samples), batch=12, seed=3)
    seen: Counter[int] = Counter()
    for step in range(20):
        assert order.rows(step) == [row for row, _ in order.draws(step)]
        for row, turn in order.draws(step):
            assert turn == seen[row]
            seen[row] += 1


def test_the_order_is_a_function_of_seed_and_step(make_samples: MakeSamples) -> None:
    samples = make_samples(90)
    late = Order(by_bucket(samples), 12, 3).rows(41)
    walked = Order(by_bucket(samples), 12, 3)
    for step in range(41):
        walked.rows(step)
    assert walked.rows(41) == late
    assert Order(by_bucket(samples), 12, 4).rows(41) != late


def test_a_bucket_without_samples_is_refused(make_samples: MakeSamples) -> None:
    with pytest.raises(InputError, match="bucket high"):
        Order(by_bucket([replace(s, bucket="low") for s in make_samples(9)]), 3, 0)


def test_as_one_group_each_sample_comes_equally_often_so_the_mean_is_theirs(
    make_samples: MakeSamples,
) -> None:
    rare = [s for i, s in enumerate(make_samples(60)) if s.bucket != "high" or i % 5 == 0]
    order = Order(as_one(rare), batch=4, seed=3)
    passes = [row for step in range(2 * len(rare)) for row in order.rows(step)]
    assert set(Counter(passes).values()) == {8}
    assert sorted(passes[: len(rare)]) == list(range(len(rare)))
    assert passes[: len(rare)] != passes[len(rare) : 2 * len(rare)]
    kpis = [sample.kpi for sample in rare]
    assert np.mean([kpis[row] for row in passes]) == pytest.approx(np.mean(kpis))
    with pytest.raises(InputError, match="the training split"):
        Order(as_one([]), 4, 3)


def test_labels_hold_the_answer_alone() -> None:
    pair = [
        Example(np.array([1, 5, 6], np.int32), np.array([7, 2], np.int32)),
        Example(np.array([1], np.int32), np.array([8, 9, 2], np.int32)),
    ]
    ids_BT, labels_BT = collate(pair, pad=0, width=6)
    assert ids_BT.tolist() == [[1, 5, 6, 7, 2, 0], [1, 8, 9, 2, 0, 0]]
    assert labels_BT.tolist() == [[IGNORE] * 3 + [7, 2, IGNORE], [IGNORE, 8, 9, 2, IGNORE, IGNORE]]
