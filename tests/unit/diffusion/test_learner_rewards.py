"""Rewards that are no numbers, too many, too few or of an odd type never become a zero."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from boig_core.config import Recipe
from boig_core.diffusion.learner import join_rewards
from boig_core.errors import (
    ScorerError,
)
from boig_core.vocabulary import Sample
from tests.unit.diffusion.learning import fit


def test_a_failed_reward_is_never_a_zero(
    recipe: Recipe, samples: list[Sample], tmp_path: Path
) -> None:
    class Broken:
        def score(self, images: Any, samples: list[Sample]) -> Any:
            return np.full(len(images), np.nan)

    with pytest.raises(ScorerError, match="finite"):
        fit(recipe, samples, Broken(), tmp_path)


@pytest.mark.parametrize(
    "answers",
    [
        (np.zeros(3), np.zeros(5)),  # eight in all, and each image after the third is misjudged
        (np.zeros((4, 1)), np.zeros((4, 1))),
        (np.float64(1.0), np.float64(1.0)),
        ([0.0, None, 0.0, 0.0], np.zeros(4)),
        (["a", "b", "c", "d"], np.zeros(4)),
        (None, None),
        (np.zeros(0), np.zeros(8)),
        *((np.array([0, 0, 0, bad]), np.zeros(4)) for bad in (np.nan, np.inf, -np.inf)),
    ],
)
def test_rewards_are_one_number_per_image_of_each_chunk(answers: Any) -> None:
    chunk: Any = range(4)
    with pytest.raises(ScorerError, match=r"rewards of epoch 7: must be 4 finite numbers"):
        join_rewards(7, [(chunk, rewards) for rewards in answers])


@pytest.mark.parametrize("dtype", [np.float32, np.int8, bool, list])
def test_rewards_of_any_kind_of_number_are_numbers(dtype: Any) -> None:
    values: Any = [[0, 1, 0, 0], [1, 0, 1, 0]]
    chunk: Any = range(4)
    answers: Any = values if dtype is list else [np.array(row, dtype=dtype) for row in values]
    joined = join_rewards(0, [(chunk, rewards) for rewards in answers])
    assert joined.dtype == np.float64
    assert joined.tolist() == [0, 1, 0, 0, 1, 0, 1, 0]


def test_rewards_without_a_finite_spread_train_nothing() -> None:
    chunk: Any = range(4)
    rewards = np.array([1e308, -1e308, 1e308, 0.0])
    with pytest.raises(ScorerError, match=r"epoch 3, -1e\+308 to 1e\+308: lie so far apart"):
        join_rewards(3, [(chunk, np.zeros(4)), (chunk, rewards)])
