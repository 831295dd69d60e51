"""Confidence intervals by the bootstrap, resampling whole clusters: images of one prompt, or of one
post, are not independent.

A resample is kept as counts: how often each value was drawn. So any statistic that can be computed
with weights is computed for all resamples at once. Percentile intervals; seeded, so the same values
give the same interval. Shape letters: R resamples, N values.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class PairedDifference:
    """A paired difference of means.

    Attributes:
        mean: over all values.
        low: lower end of the interval.
        high: upper end of the interval.
        clusters: how many were resampled.
        n: paired values.
    """

    mean: float
    low: float
    high: float
    clusters: int
    n: int

    def as_json(self) -> dict[str, float | int]:
        """Plain JSON."""
        return asdict(self)


def resample_counts(
    clusters: Sequence[Hashable],
    resamples: int,
    seed: int,
    strata: Sequence[Hashable] | None = None,
) -> NDArray[np.float64]:
    """How often each value was drawn in each resample: counts (R, N).

    Args:
        clusters: cluster of each value (N); a cluster is drawn whole, with replacement.
        resamples: R.
        seed: of the draws.
        strata: stratum of each value; clusters are drawn within it, so that each keeps its size.
            None: all in one.

    Raises:
        ValueError: no value, or another number of strata than of clusters.
    """
    groups = strata if strata is not None else [0] * len(clusters)
    if not clusters or len(groups) != len(clusters):
        raise ValueError(
            f"{len(clusters)} clusters and {len(groups)} strata: must be as many, and at least one"
        )
    rng = np.random.default_rng(seed)
    members: dict[Hashable, dict[tuple[Hashable, Hashable], int]] = {}
    for group, cluster in zip(groups, clusters, strict=True):
        positions = members.setdefault(group, {})
        # By stratum and name: one name in two strata is two clusters.
        positions.setdefault((group, cluster), len(positions))
    drawn = {
        # Clusters drawn with replacement are a multinomial: counts come for all resamples in one
        # call.
        group: rng.multinomial(
            len(positions), np.full(len(positions), 1 / len(positions)), size=resamples
        )
        for group, positions in members.items()
    }
    columns = [
        drawn[group][:, members[group][group, cluster]]
        for group, cluster in zip(groups, clusters, strict=True)
    ]
    return np.stack(columns, axis=1).astype(np.float64)


def interval(statistic_R: ArrayLike, level: float = 0.95) -> tuple[float, float]:
    """Percentile interval of a statistic over resamples; resamples in which it is undefined (NaN)
    are left out.

    Raises:
        ValueError: it is undefined in all of them.
    """
    values = np.asarray(statistic_R, np.float64)
    # A resample may lack what the statistic needs, such as any pair; a single NaN would otherwise
    # make both ends NaN.
    values = values[np.isfinite(values)]
    if not values.size:
        raise ValueError("the statistic is undefined in every resample")
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def paired_difference(
    candidate: ArrayLike,
    base: ArrayLike,
    clusters: Sequence[Hashable],
    *,
    resamples: int,
    seed: int,
    level: float = 0.95,
) -> PairedDifference:
    """Mean of ``candidate - base`` over pairs, with its interval clustered by ``clusters``.

    Args:
        candidate: values (N), paired with ``base`` by position: same prompt, same seed.
        base: values (N).
        clusters: cluster of each pair, such as its prompt.
        resamples: draws of the bootstrap.
        seed: of the draws.
        level: of the interval.

    Raises:
        ValueError: counts that differ, none at all, or a value that is not finite.
    """
    difference_N = np.asarray(candidate, np.float64) - np.asarray(base, np.float64)
    if difference_N.shape != (len(clusters),) or not np.isfinite(difference_N).all():
        raise ValueError(
            f"pairs of shape {difference_N.shape} in {len(clusters)} clusters: must be as many and finite"
        )
    counts_RN = resample_counts(clusters, resamples, seed)
    # Divided by what was drawn: clusters differ in size, so resamples do.
    low, high = interval(counts_RN @ difference_N / counts_RN.sum(axis=1), level)
    return PairedDifference(
        float(difference_N.mean()), low, high, len(set(clusters)), len(difference_N)
    )
