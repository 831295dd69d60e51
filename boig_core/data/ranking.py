"""Ranking: how much of what was popular an ingestion loses, and where ranks cannot tell posts
apart.

Counts what a list of posts does not show: posts below every floor, accounts whose posts all have
one KPI, ties across a percentile, and popular posts among the rejects, as where an export writes
1,000 likes as ``1K``. Leaves out: the buckets themselves (see `labels`), and the words (see
`glance`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from boig_core.config import Data
from boig_core.data.cells.numbers import read_number
from boig_core.data.cells.values import value_at
from boig_core.data.rejects import CHOICES

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

_NO_LOSS: Final = (*CHOICES, "duplicate_id", "image_repeated")
"""Codes of posts that stand elsewhere in the dataset, or that nobody wants in it."""


def measure_ranking(con: DuckDBPyConnection, data: Data) -> dict[str, Any]:
    """The numbers for the card.

    Args:
        con: with the tables ``post``, ``kpi``, ``sample`` and ``reject``.
        data: the recipe's rules.

    Returns:
        ``posts`` that are ranked; ``unread``, rows whose KPI could not be read, with an
        ``example``; ``one_value``, accounts whose posts all have one KPI, with ``posts`` and the
        ``first`` of them; ``tied``, posts that equal KPIs put into another bucket than the
        percentiles would, with the ``largest`` tie; ``lost``, rejected rows whose KPI can be told
        at least roughly, and how many of them are ``popular``: as high as the high posts of their
        account; ``high_share``, the share of posts that should be high.
    """
    ranked = "SELECT k.*, p.account FROM kpi k JOIN post p USING (id) WHERE nr = 1"
    [(posts,)] = con.execute(f"SELECT count(*) FROM ({ranked})").fetchall()
    [(accounts, equal, first)] = con.execute(
        f"""
        SELECT count(*), coalesce(sum(n), 0)::BIGINT, min(account) FROM (
            SELECT account, count(*) AS n FROM ({ranked}) GROUP BY account HAVING min(value) = max(value)
        )
        """
    ).fetchall()
    [(unread, example)] = con.execute(
        "SELECT count(*), arg_min(reason, (file, line)) FROM reject WHERE code = 'bad_kpi'"
    ).fetchall()
    return {
        "posts": posts,
        "unread": {"rows": unread, "example": example},
        "one_value": {"accounts": accounts, "posts": equal, "first": first},
        "tied": _ties(con, ranked, data),
        "lost": _lost(con, ranked, data),
        "high_share": round(1 - data.percentiles[1] / 100, 6),
    }


def rough_number(value: Any) -> float | None:
    """How large a number is about, however it is written; None when it is none. Good enough to
    tell whether a post was popular, never for its KPI."""
    if isinstance(value, (bool, Mapping, list)) or value is None:
        return None
    if isinstance(value, (int, float)):
        return float(value) if math.isfinite(value) and value >= 0 else None
    # Of two readings the larger one: an export that leaves it open has large numbers.
    return max(read_number(str(value)).values(), default=None)


def _ties(con: DuckDBPyConnection, ranked: str, data: Data) -> dict[str, Any]:
    """Of each group of equal KPIs that lies across a percentile, the smaller side is in another
    bucket than its rank would say."""
    cuts = ", ".join(f"({cut!r})" for cut in data.percentiles)
    [(moved, largest)] = con.execute(
        f"""
        WITH value AS (SELECT account, value, count(*) AS n FROM ({ranked}) GROUP BY account, value),
        placed AS (
            SELECT *, sum(n) OVER (PARTITION BY account) AS size,
                sum(n) OVER (PARTITION BY account ORDER BY value) - n AS below FROM value
        ), across AS (
            SELECT account, value, n, least(size * cut / 100 - below, below + n - size * cut / 100) AS moved
            FROM placed CROSS JOIN (VALUES {cuts}) AS t(cut) WHERE n > 1 AND n < size
        )
        SELECT coalesce(sum(floor(moved)), 0)::BIGINT,
            arg_max({{'account': account, 'value': value, 'posts': n}}, (moved, account)) FROM across WHERE moved >= 1
        """
    ).fetchall()
    return {"posts": moved, "largest": largest}


def _lost(con: DuckDBPyConnection, ranked: str, data: Data) -> dict[str, int]:
    high = data.percentiles[1] / 100
    edges: dict[str | None, float] = dict(
        con.execute(
            f"SELECT account, quantile_cont(value, {high!r}) FROM ({ranked}) GROUP BY account"
        ).fetchall()
    )
    [(edges[None],)] = con.execute(
        f"SELECT quantile_cont(value, {high!r}) FROM ({ranked})"
    ).fetchall()
    rows = popular = 0
    for row in _lost_rows(con):
        fields = json.loads(row)
        if not isinstance(fields, Mapping) or (kpi := _rough_kpi(fields, data.kpi)) is None:
            continue
        rows += 1
        edge = edges.get(str(fields.get("account")), edges[None])
        popular += edge is not None and kpi >= edge
    return {"rows": rows, "popular": popular}


def _lost_rows(con: DuckDBPyConnection) -> Iterator[str]:
    cursor = con.cursor().execute(
        f"""
        SELECT any_value(row) FROM reject
        WHERE row IS NOT NULL AND code NOT IN {_NO_LOSS} AND (post IS NULL OR post NOT IN (SELECT post FROM sample))
        GROUP BY file, line
        """
    )
    while batch := cursor.fetchmany(1024):
        yield from (row for (row,) in batch)


def _rough_kpi(fields: Mapping[str, Any], name: str) -> float | None:
    upper, slash, lower = (name, "", "") if name in fields else name.partition("/")
    kpi = rough_number(value_at(fields, upper))
    if not slash:
        return kpi
    whole = rough_number(value_at(fields, lower))
    return None if kpi is None or not whole else kpi / whole
