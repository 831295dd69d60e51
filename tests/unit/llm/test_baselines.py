from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from boig_core.llm.baselines import most_frequent, retrieval
from boig_core.vocabulary import Description, Sample

MakeSamples = Callable[[int], list[Sample]]


def test_retrieval_answers_with_the_likest_post(make_samples: MakeSamples) -> None:
    samples = make_samples(30)
    train = [s for s in samples if s.split == "train"]
    asked = [
        replace(train[7], id="new", description=None),
        replace(train[3], id="new2", description=None),
    ]
    assert retrieval(train, asked) == [train[7].description, train[3].description]


def test_most_frequent_is_the_mean_image(make_samples: MakeSamples) -> None:
    sample = make_samples(1)[0]
    looks = [
        Description(
            {"Red": 0.6, "White": 0.4},
            {"warm": 0.6, "neutral": 0.4},
            {"ball": (0.0, 0.0, 10.0, 10.0)},
        ),
        Description(
            {"Red": 0.8, "Blue": 0.2},
            {"warm": 0.8, "cool": 0.2},
            {"ball": (10.0, 10.0, 20.0, 20.0)},
        ),
        Description(
            {"Blue": 0.5, "Red": 0.5}, {"warm": 0.4, "cool": 0.6}, {"ring": (0.0, 0.0, 4.0, 4.0)}
        ),
    ]
    typical = most_frequent([replace(sample, description=look) for look in looks])
    assert typical.colors == {
        "Red": pytest.approx(0.6333 / 0.9833, abs=1e-3),
        "Blue": pytest.approx(0.35 / 0.9833, abs=1e-3),
    }
    assert typical.tones["warm"] == pytest.approx(0.6)
    assert typical.objects == {"ball": (5.0, 5.0, 15.0, 15.0)}
