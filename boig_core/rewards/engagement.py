"""Predicted engagement: the KPI that a predictor expects of the post with this image.

To be had where the recipe trains a predictor (``llm.predictor``). Leaves out: the predictor
(`boig_core.llm.predictor` has one).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from boig_core.rewards.evidence import RewardEvidence, require
from boig_core.vocabulary import Description, Sample


class EngagementPredictor(Protocol):
    """Verbalized images in, KPI out: all that the formulation needs, so that a regression head and
    a text answer both fit."""

    def predict(
        self, samples: Sequence[Sample], descriptions: Sequence[Description]
    ) -> NDArray[np.float64]:
        """Expected KPI (N,) of each post with an image of this description, as a percentile within
        the account, 0 to 100."""
        ...


def engagement(evidence: RewardEvidence) -> float:
    """The predicted percentile, 0 to 100."""
    return float(require(evidence.engagement))
