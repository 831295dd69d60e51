"""Predicted engagement (PAPER sections 3 and 6): the KPI that a predictor expects of the post with this image.

Not in `REWARDS` until there is a predictor: what stands there can be named by a recipe. Leaves out: the predictor.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from boig_core.rewards.evidence import Evidence, given
from boig_core.vocabulary import Description, Sample


class EngagementPredictor(Protocol):
    """Verbalized images in, KPI out: all that the formulation needs, so that a regression head and a text answer both fit."""

    def predict(self, samples: Sequence[Sample], descriptions: Sequence[Description]) -> Sequence[float]:
        """Expected KPI of each post with an image of this description, as a percentile within the account, 0 to 100."""
        ...


def engagement(evidence: Evidence) -> float:
    """The predicted percentile, 0 to 100."""
    return float(given(evidence.engagement))
