"""Histograms and quantiles of columns too long for memory, with edges that a person would choose.

Edges are decimal numbers from a fixed series, even or logarithmic, so that they print short and are
the same on every machine. Leaves out: drawing (see `card_page`).
"""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING, Any, Final

from boig_core.vocabulary import BUCKETS

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

PERCENTS: Final = (0, 5, 25, 50, 75, 95, 100)
NO_BUCKET: Final = "none"
"""What samples are counted under that no bucket takes, since their KPI is below its floor."""
COUNTS: Final = ", ".join(
    [
        *(f"count(*) FILTER (bucket = '{name}') AS {name}" for name in BUCKETS),
        f"count(*) FILTER (bucket IS NULL) AS {NO_BUCKET}",
    ]
)
"""SQL for the number of rows of each bucket."""
_BINS: Final = 32
# Steps within a power of ten, about even on a logarithmic scale; the finest series that makes few
# enough bins is taken.
_SERIES: Final = (
    (10, 12, 15, 18, 22, 27, 33, 39, 47, 56, 68, 82),
    (10, 15, 20, 30, 50, 70),
    (10, 20, 50),
    (10,),
)
_DECADES: Final = 20
"""Values that lie further below the largest share the first bin."""


def quantiles(con: DuckDBPyConnection, query: str) -> dict[str, float | int] | None:
    """The smallest values that at least `PERCENTS` of the column ``value`` do not exceed, by
    percent; none without values.

    Counts distinct values and adds them up, which DuckDB does on disk where its own quantiles hold
    every value in memory.
    """
    wanted = ", ".join(
        f"min(value) FILTER (100 * upto >= {percent} * total)" for percent in PERCENTS
    )
    [row] = con.execute(
        f"""
        WITH counted AS (SELECT value, count(*) AS n FROM ({query}) WHERE value IS NOT NULL GROUP BY value),
            added AS (SELECT value, sum(n) OVER (ORDER BY value) AS upto, sum(n) OVER () AS total FROM counted)
        SELECT {wanted} FROM added
        """
    ).fetchall()
    return (
        None
        if row[0] is None
        else {str(percent): value for percent, value in zip(PERCENTS, row, strict=True)}
    )


def histogram(con: DuckDBPyConnection, query: str) -> dict[str, Any] | None:
    """Counts by bucket of the column ``value``, in bins that hold their lower edge and not their
    upper one.

    Args:
        con: with what the query reads.
        query: SQL for ``value`` and ``bucket``.

    Returns:
        ``scale`` (linear or log), ``edges`` (one more than bins), ``counts`` by bucket,
        ``quantiles``; none without values.
    """
    at = quantiles(con, query)
    if at is None:
        return None
    [(positive, whole)] = con.execute(
        f"SELECT min(value) FILTER (value > 0), bool_and(value = floor(value)) FROM ({query}) WHERE value IS NOT NULL"
    ).fetchall()
    low, middle, high = float(at["0"]), float(at["50"]), float(at["100"])
    # A long tail to the right over more than a decade; differences are halved first, since the
    # largest floats would overflow.
    skewed = high / 2 - middle / 2 > 5 * (middle / 2 - low / 2)
    if low >= 0 and skewed and high > 20 * positive:
        scale, edges = "log", log_edges(low, float(positive), high)
    else:
        scale, edges = "linear", even_edges(low, high, bool(whole))
    # Kept within the bins: the last edge may be the largest float, which no edge lies beyond.
    rows = con.execute(
        f"""
        SELECT least({len(edges) - 1}, greatest(1, len(list_filter($edges, lambda edge: edge <= value)))) AS bin, {COUNTS}
        FROM ({query}) WHERE value IS NOT NULL GROUP BY bin ORDER BY bin
        """,
        {"edges": edges},
    ).fetchall()
    row_of_bin = {int(row[0]): row[1:] for row in rows}
    nothing = (0,) * (len(BUCKETS) + 1)
    counts = {
        name: [int(row_of_bin.get(at_bin, nothing)[place]) for at_bin in range(1, len(edges))]
        for place, name in enumerate((*BUCKETS, NO_BUCKET))
    }
    return {"scale": scale, "edges": edges, "counts": counts, "quantiles": at}


def even_edges(low: float, high: float, whole: bool) -> list[float]:
    """Edges at multiples of 1, 2 or 5 times a power of ten (for whole numbers: at whole numbers)
    from ``low`` to beyond ``high``."""
    # The difference of two large floats may be infinite.
    span = min(high - low, sys.float_info.max)
    # Steps finer than what the largest value can be told apart by would never end.
    least = max(span / _BINS, math.ulp(max(abs(low), abs(high))), 1.0 if whole else 0.0, 1e-300)
    digit, power = next(
        (digit, power)
        for power in range(math.floor(math.log10(least)) - 1, 400)
        for digit in (1, 2, 5)
        if _decimal(digit, power) >= least
    )
    step = _decimal(digit, power)
    first = math.floor(low / step)
    first -= _decimal(first * digit, power) > low  # the quotient was rounded up
    edges = [_decimal(first * digit, power)]
    while edges[-1] <= high and edges[-1] < sys.float_info.max:
        edges.append(_decimal((first + len(edges)) * digit, power))
    return edges if len(edges) > 1 else [-edges[0], edges[0]]


def log_edges(low: float, positive: float, high: float) -> list[float]:
    """Edges that rise by about the same factor from ``positive``, the smallest value above zero, to
    beyond ``high``; zeros lie in the first bin."""
    top = math.floor(math.log10(high)) + 1
    start = max(math.floor(math.log10(positive)) - 1, top - _DECADES - 1)
    for series in _SERIES:
        steps = [_decimal(digit, power - 1) for power in range(start, top + 1) for digit in series]
        inside = [edge for edge in steps if positive < edge <= high]
        if len(inside) < _BINS or series is _SERIES[-1]:
            break
    first = [edge for edge in steps if edge <= positive][-1:]
    last = [edge for edge in steps if edge > high][:1] or [sys.float_info.max]
    # Zero has no logarithm. 0 is also the edge below values that are smaller than every step.
    below = [0.0] if low == 0 or not first else []
    return [
        *below,
        *first,
        *inside,
        *(edge for edge in last if edge > high or not inside or edge > inside[-1]),
    ]


def _decimal(digits: int, power: int) -> float:
    """A decimal number as its nearest float, or the largest one."""
    return max(-sys.float_info.max, min(float(f"{digits}e{power}"), sys.float_info.max))
