"""Weighted sums of formulations: each in units of its own spread on real validation images, so that
weights mean what they say.

One formulation alone keeps its own unit. Leaves out: clipping (see `scorer`).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from boig_core.config import RewardName
from boig_core.errors import InputError, ScorerError


class Scale(BaseModel):
    """``mean`` and standard deviation ``std`` of a formulation on real validation images."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    mean: float
    std: float


def scale_of(values_N: NDArray[np.float64]) -> Scale:
    """Scale of a formulation's values."""
    return Scale(mean=float(values_N.mean()), std=float(values_N.std()))


def weighted(
    values: Mapping[str, NDArray[np.float64]],
    weights: Mapping[RewardName, float],
    scales: Mapping[str, Scale],
) -> NDArray[np.float64]:
    """The reward (N,): ``weight x value`` of one formulation, or the sum of
    ``weight x (value - mean) / std`` of several.

    Raises:
        ScorerError: there is no scale of one of several formulations.
        InputError: one of several does not vary on real images.
    """
    # Nothing has to be made comparable here, and the own unit tells more: reports show the gain of
    # the contrast in nats.
    if len(weights) == 1:
        [(name, weight)] = weights.items()
        return weight * values[name]
    total_N = np.zeros(len(next(iter(values.values()))))
    for name, weight in weights.items():
        if name not in scales:
            raise ScorerError(
                f"reward.weights.{name}", "the calibration has no scale of it", "calibrate again"
            )
        # Dividing by a spread of zero would turn the smallest change in a generated image into an
        # infinite reward.
        if not scales[name].std > 0:
            raise InputError(
                f"reward.weights.{name}",
                "does not vary on validation images, so it cannot be normalized",
                "leave it out",
            )
        total_N += weight * (values[name] - scales[name].mean) / scales[name].std
    return total_N
