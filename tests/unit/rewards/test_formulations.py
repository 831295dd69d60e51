from __future__ import annotations

import math

import numpy as np
import pytest

from boig_core.config import Reward
from boig_core.rewards import REWARDS

HIGH = np.log([0.5, 0.25, 0.8])
LOW = np.log([0.5, 0.125, 0.2])


def test_the_published_sum_of_probabilities() -> None:
    assert REWARDS["dsg"](HIGH, LOW) == pytest.approx(1.55)


def test_mean_logprob_is_free_of_length() -> None:
    once, twice = REWARDS["mean_logprob"](HIGH, LOW), REWARDS["mean_logprob"](np.tile(HIGH, 2), np.tile(LOW, 2))
    assert once == pytest.approx(math.log(0.1) / 3)
    assert twice == pytest.approx(once)
    assert REWARDS["dsg"](np.tile(HIGH, 2), np.tile(LOW, 2)) == pytest.approx(3.1)


def test_contrast_is_the_evidence_for_high_and_ignores_what_is_merely_typical() -> None:
    assert REWARDS["contrast"](HIGH, LOW) == pytest.approx(math.log(2 * 4))
    typical = np.log([0.9, 0.9])
    assert REWARDS["contrast"](np.append(HIGH, typical), np.append(LOW, typical)) == pytest.approx(math.log(8))
    assert REWARDS["contrast"](LOW, HIGH) == pytest.approx(-math.log(8))


def test_the_recipe_can_name_each_formulation() -> None:
    assert {Reward(name=name).name for name in REWARDS} == {"contrast", "mean_logprob", "dsg"}  # type: ignore[arg-type]
