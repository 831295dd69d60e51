"""KPIs: rank percentiles within an account, and the buckets low, medium, high that follow from them (PAPER section 1).

The paper leaves the map to 0-100 open; ours is the mid-rank percentile, which ties, tails and the order of rows do not disturb.
Shape letters: N posts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from boig_core.vocabulary import Bucket

_RISING: Final[tuple[Bucket, ...]] = ("low", "medium", "high")


def percentiles(accounts: Sequence[str], kpi_N: NDArray[np.float64]) -> NDArray[np.float64]:
    """Percentile of each post within its account, in (0, 100): the share below it plus half the share equal to it.

    Args:
        accounts: account of each post.
        kpi_N: KPI of each post, finite.
    """
    if len(kpi_N) == 0:
        return np.zeros(0)
    account_N = np.unique(np.asarray(accounts), return_inverse=True)[1]
    order_N = np.lexsort((kpi_N, account_N))
    account_N, sorted_N = account_N[order_N], kpi_N[order_N]
    new_account_N = np.r_[True, account_N[1:] != account_N[:-1]]
    new_value_N = new_account_N | np.r_[True, sorted_N[1:] != sorted_N[:-1]]
    start_N, size_N = _runs(new_account_N)
    first_N, equal_N = _runs(new_value_N)
    result_N = np.empty(len(kpi_N))
    result_N[order_N] = 100 * (first_N - start_N + equal_N / 2) / size_N
    return result_N


def buckets(
    percentile_N: NDArray[np.float64], kpi_N: NDArray[np.float64], edges: tuple[float, float], floors: tuple[float, float, float]
) -> list[Bucket | None]:
    """Bucket of each post; none for a post whose KPI is not above its bucket's floor.

    Args:
        percentile_N: as `percentiles` gives them.
        kpi_N: the KPIs themselves.
        edges: percentiles that part low from medium and medium from high.
        floors: of low, medium, high.
    """
    level_N = np.searchsorted(np.asarray(edges), percentile_N, side="right")
    above_N = kpi_N > np.asarray(floors)[level_N]
    return [_RISING[level] if above else None for level, above in zip(level_N, above_N, strict=True)]


def _runs(starts_N: NDArray[np.bool_]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """For each position, where its run begins and how long it is."""
    first = np.flatnonzero(starts_N)
    sizes = np.diff(np.r_[first, len(starts_N)])
    return np.repeat(first, sizes), np.repeat(sizes, sizes)
