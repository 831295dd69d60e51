"""What scorers say of images, and what they are asked: the reward alone, or all that a probe wants
to know.

Numpy alone: a process that scores need not import what samples and trains, which takes seconds.
Leaves out: rewards themselves (`boig_core.rewards`) and the probe (`evaluation.measure.probe`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from boig_core.vocabulary import Sample

Findings = Mapping[str, NDArray[np.float64]]
"""What is measured of some images, by name: one row per image."""


class Scorer(Protocol):
    """Who gives rewards: images and their samples in, one finite number an image out, or an error;
    never a silent zero."""

    def score(self, images: NDArray[np.uint8], samples: Sequence[Sample]) -> NDArray[np.float64]:
        """Rewards of uint8 ``images_BHWC``."""
        ...


@runtime_checkable
class Examiner(Scorer, Protocol):
    """A scorer that measures more than the reward, where a probe asks for it."""

    def examine(self, images: NDArray[np.uint8], samples: Sequence[Sample]) -> Findings:
        """``reward`` of uint8 ``images_BHWC``, and whatever else is measured."""
        ...


def examine(scorer: Scorer, images: NDArray[np.uint8], samples: Sequence[Sample]) -> Findings:
    """All that a scorer can say of uint8 ``images_BHWC``: of one that is no `Examiner`, the
    ``reward`` alone."""
    return (
        scorer.examine(images, samples)
        if isinstance(scorer, Examiner)
        else {"reward": scorer.score(images, samples)}
    )
