"""Evidence: what a formulation of the reward may look at for one image, and which parts of it each
formulation needs.

A part that nothing needs is not computed. Leaves out: computing it (see `scorer`). Shape letter: T
tokens of the image's answer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from boig_core.vocabulary import Description

T = TypeVar("T")
Part = Literal["high_T", "low_T", "predicted", "engagement"]


@dataclass(frozen=True)
class RewardEvidence:
    """What is known of one image that was made for, or posted with, one post. None: no formulation
    needed it.

    Attributes:
        description: what perception sees in the image, boxes in pixels of the post's own image.
        high_T: ``log p(token)`` of its answer's tokens under the HIGH condition, in nats.
        low_T: the same under LOW.
        predicted: what BoigLLM itself expects under HIGH; empty when its answer could not be
            parsed.
        engagement: predicted KPI as a percentile within the account, 0 to 100.
    """

    description: Description
    high_T: NDArray[np.float64] | None = None
    low_T: NDArray[np.float64] | None = None
    predicted: Description | None = None
    engagement: float | None = None


@dataclass(frozen=True)
class Formulation:
    """One way to make a reward of the evidence: ``of``, and the parts that it ``needs`` beside the
    description."""

    of: Callable[[RewardEvidence], float]
    needs: frozenset[Part]


def require(part: T | None) -> T:
    """A part of the evidence that the formulation has declared."""
    # A wrong declaration in `REWARDS` is an error of the code, so it is a plain ValueError: no
    # retry and no recipe can mend it.
    if part is None:
        raise ValueError(
            "a formulation reads a part of the evidence that it does not declare as needed"
        )
    return part
