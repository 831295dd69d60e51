"""The reward's formulations: each takes the evidence of one image and gives one number.

Which of them DDPO maximizes, by which weights, is `recipe.reward.weights`; how well each tells high
from low is measured by the stage ``calibrate``. `offered` says which of them can be had. Opens no
model; see `boig_core.rewards.scorer` for the way from pixels to evidence.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from boig_core.rewards.attribute_similarity import attribute_similarity
from boig_core.rewards.contrast import contrast
from boig_core.rewards.dsg import dsg
from boig_core.rewards.engagement import engagement
from boig_core.rewards.evidence import Formulation
from boig_core.rewards.mean_logprob import mean_logprob

REWARDS: Final[Mapping[str, Formulation]] = {
    "contrast": Formulation(contrast, frozenset({"high_T", "low_T"})),
    "mean_logprob": Formulation(mean_logprob, frozenset({"high_T"})),
    "dsg": Formulation(dsg, frozenset({"high_T"})),
    "attribute_similarity": Formulation(attribute_similarity, frozenset({"predicted"})),
    "engagement": Formulation(engagement, frozenset({"engagement"})),
}


def offered(*, predictor: bool) -> list[str]:
    """Names of the formulations that can be had with, or without, an engagement predictor."""
    return [
        name
        for name, formulation in REWARDS.items()
        if predictor or "engagement" not in formulation.needs
    ]
