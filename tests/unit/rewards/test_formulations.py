from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, get_args

import numpy as np
import pytest

from boig_core.config import RewardName
from boig_core.rewards import REWARDS, offered
from boig_core.rewards.engagement import engagement
from boig_core.rewards.evidence import RewardEvidence
from boig_core.vocabulary import Box, Description

HIGH = np.log([0.5, 0.25, 0.8])
LOW = np.log([0.5, 0.125, 0.2])
BOX: Box = (0, 0, 8, 8)
SEEN = Description(
    {"Red": 0.5, "Blue": 0.5}, {"warm": 0.6, "neutral": 0.2, "cool": 0.2}, {"ball": BOX}
)


def evidence(high_T: Any, low_T: Any) -> RewardEvidence:
    return RewardEvidence(Description(), high_T, low_T)


def value(name: str, high_T: Any = HIGH, low_T: Any = LOW) -> float:
    return REWARDS[name].of(evidence(high_T, low_T))


def test_the_published_sum_of_probabilities() -> None:
    assert value("dsg") == pytest.approx(1.55)


def test_mean_logprob_is_free_of_length() -> None:
    once, twice = value("mean_logprob"), value("mean_logprob", np.tile(HIGH, 2), np.tile(LOW, 2))
    assert once == pytest.approx(math.log(0.1) / 3)
    assert twice == pytest.approx(once)
    assert value("dsg", np.tile(HIGH, 2), np.tile(LOW, 2)) == pytest.approx(3.1)


def test_contrast_is_the_evidence_for_high_and_ignores_what_is_merely_typical() -> None:
    assert value("contrast") == pytest.approx(math.log(2 * 4))
    typical = np.log([0.9, 0.9])
    assert value("contrast", np.append(HIGH, typical), np.append(LOW, typical)) == pytest.approx(
        math.log(8)
    )
    assert value("contrast", LOW, HIGH) == pytest.approx(-math.log(8))


def like(seen: Description, predicted: Description) -> float:
    return REWARDS["attribute_similarity"].of(RewardEvidence(seen, predicted=predicted))


def test_attribute_similarity_is_the_mean_of_three_likenesses() -> None:
    assert like(SEEN, SEEN) == pytest.approx(1.0)
    tones = {"warm": 0.3, "neutral": 0.5, "cool": 0.2}  # off by 0.3, 0.3, 0
    expected = (1 / 3 + 1 / 2 + 1 - math.sqrt(0.06)) / 3
    assert like(
        SEEN, Description({"Red": 0.9, "Gold": 0.1}, tones, {"ball": BOX, "box": BOX})
    ) == pytest.approx(expected)


def test_attribute_similarity_leaves_out_what_is_undefined() -> None:
    bare = replace(SEEN, objects={})
    # No objects on either side: colors and tones count.
    assert like(bare, bare) == pytest.approx(1.0)
    assert like(SEEN, Description()) == 0.0  # an answer that could not be parsed
    assert math.isnan(like(Description(), Description()))  # the scorer refuses it


def test_engagement_is_the_predicted_percentile() -> None:
    assert engagement(RewardEvidence(SEEN, engagement=42.5)) == 42.5


@pytest.mark.parametrize("name", REWARDS)
def test_a_formulation_reads_what_it_declares_and_nothing_else(name: str) -> None:
    whole: Mapping[str, Any] = {"high_T": HIGH, "low_T": LOW, "predicted": SEEN, "engagement": 50.0}
    needs = REWARDS[name].needs
    assert REWARDS[name].of(
        RewardEvidence(SEEN, **{part: whole[part] for part in needs})
    ) == REWARDS[name].of(RewardEvidence(SEEN, **whole))
    for part in needs:
        with pytest.raises(ValueError, match="does not declare"):
            REWARDS[name].of(
                RewardEvidence(SEEN, **{other: whole[other] for other in needs - {part}})
            )


def test_engagement_is_offered_with_a_predictor_alone() -> None:
    assert set(offered(predictor=True)) == set(REWARDS)
    assert set(REWARDS) - set(offered(predictor=False)) == {"engagement"}


def test_the_recipe_can_name_each_formulation() -> None:
    assert set(get_args(RewardName)) == set(REWARDS)
