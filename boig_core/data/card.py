"""The data card: what is in a version of a dataset, as ``card.json`` for programs and ``card.html``
for people.

A card is a function of the version's tables: no time and no place stands in it, files are named
without their folders. But for the examples of rejects, which say where a row stood, it does not
depend on the order of rows. Counts and ranks are made in DuckDB, so that memory stays flat. Leaves
out: what to make of the numbers (see `glance`), and the page (see `card_page`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from boig_core.config import Data
from boig_core.data import card_page, glance
from boig_core.data.histogram import COUNTS, histogram, quantiles
from boig_core.data.ranking import measure_ranking
from boig_core.data.rejects import CHOICES
from boig_core.storage import manifest, store
from boig_core.storage.manifest import FileEntry
from boig_core.vocabulary import BUCKETS, SPLITS

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

CARD: Final = "card.json"
_ACCOUNTS: Final = 50
_KEYWORDS: Final = 30
_SIZES: Final = 12
_LICENCES: Final = 20
_SHOWN: Final = 8
"""Samples of each bucket in the grid."""
_MANY_ADDRESSES: Final = 5
"""Addresses, and posts, from which on one image is counted as repeated."""
_TEXT: Final = 140
"""Characters of a text in the grid."""


def card(con: DuckDBPyConnection) -> dict[str, Any]:
    """The numbers of a version, for its manifest and the report."""

    def counts(query: str) -> dict[str, int]:
        return {str(name): int(count) for name, count in con.execute(query).fetchall()}

    buckets = {
        (bucket, split): n
        for bucket, split, n in con.execute(
            "SELECT bucket, split, count(*) FROM sample GROUP BY ALL"
        ).fetchall()
    }
    [(samples, images, accounts, posts_with, negatives, groups)] = con.execute(
        """
        SELECT count(*), count(DISTINCT sha256), (SELECT count(DISTINCT account) FROM post WHERE id IN (SELECT post FROM sample)),
            count(DISTINCT post), count_if(negative), count(DISTINCT grp) FROM sample
        """
    ).fetchall()
    by_reason = counts("SELECT code, count(*) FROM reject GROUP BY code ORDER BY code")
    # Rows of which no post was chosen; a post that was chosen counts once, whatever became of it.
    [(lost,)] = con.execute(
        "SELECT count(*) FROM reject WHERE image IS NULL AND code != 'image_repeated'"
    ).fetchall()
    [(chosen,)] = con.execute("SELECT count(*) FROM post").fetchall()
    [(newest,)] = con.execute(
        "SELECT max(timestamp) FROM post WHERE id IN (SELECT post FROM sample)"
    ).fetchall()
    return {
        "posts": int(chosen) + int(lost),
        "accepted": int(posts_with),
        "rejected": sum(by_reason.values()),
        "rejected_by_reason": by_reason,
        "samples": int(samples),
        "negatives": int(negatives),
        "images": int(images),
        "near_duplicate_groups": int(groups),
        "accounts": int(accounts),
        "newest": newest,
        "buckets": {
            bucket: {split: int(buckets.get((bucket, split), 0)) for split in SPLITS}
            for bucket in BUCKETS
        },
        "without_bucket": sum(int(n) for (bucket, _), n in buckets.items() if bucket is None),
        "splits": counts("SELECT split, count(*) FROM sample GROUP BY split ORDER BY split"),
    }


def write_card(
    con: DuckDBPyConnection,
    data: Data,
    meta: dict[str, Any],
    folder: Path,
    root: str,
    entries: Iterable[FileEntry],
) -> dict[str, Any]:
    """Write ``card.json`` and ``card.html`` into a version's folder.

    Args:
        con: with the tables of the ingestion and its views ``label`` and ``source``.
        data: the recipe's rules.
        meta: the numbers of the version's manifest (see `card`), which open the card.
        folder: of the version, local.
        root: URI of ``datasets/NAME``, whose shards the grid's images are read from.
        entries: of the version's shards.

    Returns:
        What ``card.json`` holds.
    """
    # Timestamps write years below 1000 with fewer than four digits, and months are sorted as text.
    con.execute(
        """
        CREATE OR REPLACE VIEW shown AS
        SELECT s.*, p.account, lpad(split_part(p.timestamp, '-', 1), 4, '0') || '-' || split_part(p.timestamp, '-', 2) AS month
        FROM sample s JOIN post p ON p.id = s.post
        """
    )
    con.execute(
        "CREATE OR REPLACE VIEW used AS SELECT * FROM post WHERE id IN (SELECT post FROM sample WHERE NOT negative)"
    )
    card = {
        "dataset": data.name,
        "kpi": data.kpi,
        **meta,
        **_numbers(con, data, meta),
        "grid": _grid(con),
    }
    # Last, since it reads the numbers that the card holds already.
    card |= glance.glance(card)
    (folder / CARD).write_text(
        json.dumps(card, indent=1, ensure_ascii=False, allow_nan=False), encoding="utf-8"
    )
    page = card_page.render(card, card_page.thumbnails(card["grid"], root, entries))
    (folder / manifest.PAGE).write_text(page, encoding="utf-8")
    return card


def add_seen(folder: Path, seen: dict[str, Any]) -> None:
    """Put what perception saw into the card of a version's copy, in place of what an earlier
    perception put there.

    The page gets its warnings alone and is not made anew: it may be of an earlier release, whose
    numbers are not those that today's page asks for.

    Args:
        folder: of the version, local.
        seen: numbers for ``card.json``, ``warnings`` among them (see
            `evaluation.measure.doubts`).
    """
    file, page = folder / CARD, folder / manifest.PAGE
    # Versions of the first release have no card.
    if not file.exists():
        return
    numbers = json.loads(file.read_text("utf-8")) | {"seen": seen}
    file.write_text(json.dumps(numbers, indent=1, ensure_ascii=False, allow_nan=False), "utf-8")
    page.write_text(
        card_page.with_warnings(page.read_text("utf-8"), seen["warnings"]), encoding="utf-8"
    )


def _numbers(con: DuckDBPyConnection, data: Data, meta: dict[str, Any]) -> dict[str, Any]:
    """All that the manifest is too small for. Buckets count samples, KPIs and texts count posts,
    sizes count images."""
    by_choice = f"SELECT count(*) AS n FROM reject WHERE image IS NULL AND code IN {CHOICES}"
    [left_out] = _rows(con, by_choice)
    # Rows that the recipe asked to leave out are told apart: they are no faults of the export.
    useless = meta["posts"] - meta["accepted"]
    [groups] = _rows(
        con,
        """
        SELECT count(*) AS groups, coalesce(max(n), 0) AS largest, coalesce(sum(n), 0)::BIGINT AS samples
        FROM (SELECT count(*) AS n FROM sample WHERE grp IS NOT NULL GROUP BY grp)
        """,
    )
    return {
        "rows": {
            "read": meta["posts"],
            "rejected": useless - left_out["n"],
            "left_out": left_out["n"],
        },
        "by_account": _accounts(con),
        "by_month": _rows(
            con,
            f"SELECT month, count(*) AS samples, {COUNTS} FROM shown GROUP BY month ORDER BY month",
        ),
        "kpis": [
            _kpi(con, place, name, meta["accepted"])
            for place, name in enumerate((data.kpi, *data.more_kpis), start=1)
        ],
        "text_length": histogram(con, "SELECT length(text) AS value, NULL AS bucket FROM used"),
        "sizes": _sizes(con),
        "keywords": _rows(
            con,
            f"""
            SELECT keyword, count(*) AS posts FROM (SELECT unnest(list_distinct(keywords)) AS keyword FROM used)
            GROUP BY keyword ORDER BY posts DESC, keyword LIMIT {_KEYWORDS}
            """,
        ),
        "licences": _rows(
            con,
            f"SELECT licence, count(*) AS samples FROM source GROUP BY licence ORDER BY samples DESC, licence LIMIT {_LICENCES}",
        ),
        "opt_out": _rows(
            con,
            "SELECT opt_out, count(*) AS samples FROM source GROUP BY opt_out ORDER BY samples DESC, opt_out",
        ),
        "near_duplicates": groups,
        "repeated_images": _repeated_images(con),
        "rejects": _rejects(con),
        "ranking": measure_ranking(con, data),
    }


def _repeated_images(con: DuckDBPyConnection) -> dict[str, Any]:
    """Images that came from many addresses in many posts: such are often what a host sends for
    pictures that are gone."""
    [repeated] = _rows(
        con,
        f"""
        SELECT count(*) AS images, coalesce(sum(posts), 0)::BIGINT AS posts, coalesce(max(posts), 0) AS largest,
            arg_max(example, (posts, example)) AS example
        FROM (
            SELECT count(DISTINCT s.post) AS posts, min(s.post) AS example
            FROM sample s JOIN image i ON i.post = s.post AND i.place = s.place
            WHERE NOT s.negative GROUP BY s.sha256 HAVING count(DISTINCT i.address) >= {_MANY_ADDRESSES} AND posts >= {_MANY_ADDRESSES}
        )
        """,
    )
    return repeated


def _accounts(con: DuckDBPyConnection) -> list[dict[str, Any]]:
    """The accounts with the most posts; ``accounts`` of the card says how many there are in all."""
    return _rows(
        con,
        f"""
        WITH most AS (
            SELECT account, count(DISTINCT post) AS posts, count(*) AS samples, {COUNTS}
            FROM shown GROUP BY account ORDER BY posts DESC, account LIMIT {_ACCOUNTS}
        ), middle AS (
            SELECT u.account, median(u.kpis[1]) AS median_kpi FROM used u JOIN most USING (account) GROUP BY u.account
        )
        SELECT most.*, median_kpi FROM most JOIN middle USING (account) ORDER BY posts DESC, account
        """,
    )


def _kpi(con: DuckDBPyConnection, place: int, name: str, posts: int) -> dict[str, Any]:
    """One KPI of the posts; ``missing`` counts posts without it."""
    query = f"SELECT value, bucket FROM kpi JOIN used USING (id) WHERE nr = {place}"
    bins = histogram(con, query)
    counted = 0 if bins is None else sum(sum(counts) for counts in bins["counts"].values())
    return {"name": name, "posts": counted, "missing": posts - counted, "histogram": bins}


def _sizes(con: DuckDBPyConnection) -> dict[str, Any]:
    con.execute(
        "CREATE OR REPLACE VIEW picture AS SELECT sha256, any_value(width) AS width, any_value(height) AS height FROM sample GROUP BY 1"
    )
    # Within 5 % a picture counts as square; in whole numbers the limit is the same on every
    # machine.
    [shapes] = _rows(
        con,
        """
        SELECT count_if(20 * width > 21 * height) AS landscape, count_if(20 * height > 21 * width) AS portrait,
            count(*) - landscape - portrait AS square FROM picture
        """,
    )
    common = f"SELECT width, height, count(*) AS images FROM picture GROUP BY ALL ORDER BY images DESC, width, height LIMIT {_SIZES}"
    [distinct] = _rows(con, "SELECT count(DISTINCT (width, height)) AS n FROM picture")
    return {
        "width": quantiles(con, "SELECT width AS value FROM picture"),
        "height": quantiles(con, "SELECT height AS value FROM picture"),
        "shapes": shapes,
        "distinct": distinct["n"],
        "most_common": _rows(con, common),
    }


def _rejects(con: DuckDBPyConnection) -> list[dict[str, Any]]:
    """By code, the most frequent first, each with the first row that it met."""
    rows = _rows(
        con,
        """
        SELECT code, count(*) AS count, arg_min({'file': file, 'line': line, 'reason': reason},
            (file, line, coalesce(post, ''), coalesce(image, ''), reason)) AS example
        FROM reject GROUP BY code ORDER BY count DESC, code
        """,
    )
    return [
        # Without its folder: a card says nothing of the place that an export was read from.
        {**row, "example": {**row["example"], "file": store.name(row["example"]["file"])}}
        for row in rows
    ]


def _grid(con: DuckDBPyConnection) -> dict[str, list[dict[str, Any]]]:
    """A few training samples of each bucket, drawn by a hash of their ids, of as many accounts as
    there are.

    Images are read whole shards at a time, so all come from one shard for each bucket, which may be
    the same.
    """
    con.execute(
        "CREATE OR REPLACE VIEW drawable AS SELECT * FROM label WHERE split = 'train' AND NOT negative AND bucket IS NOT NULL"
    )
    rows = _rows(
        con,
        f"""
        WITH few AS (
            SELECT DISTINCT image_shard FROM (
                SELECT image_shard, bucket, least(count(*), {_SHOWN}) AS n FROM drawable GROUP BY image_shard, bucket
                QUALIFY row_number() OVER (PARTITION BY bucket ORDER BY n DESC, image_shard) = 1
            )
        ), look AS (
            SELECT l.*, p.account, p.text, sha256(l.id) AS lot FROM drawable l JOIN few USING (image_shard) JOIN post p ON p.id = l.post
            QUALIFY row_number() OVER (PARTITION BY l.bucket, coalesce(l."group", l.image) ORDER BY lot, l.id) = 1
        ), drawn AS (
            SELECT *, row_number() OVER (PARTITION BY bucket, account ORDER BY lot, id) AS turn FROM look
        )
        SELECT id, account, text, kpi, kpi_normalized AS percentile, bucket, image, image_shard FROM drawn
        QUALIFY row_number() OVER (PARTITION BY bucket ORDER BY turn, lot, id) <= {_SHOWN} ORDER BY turn, lot, id
        """,
    )
    cut = [
        {
            **row,
            "text": row["text"]
            if len(row["text"]) <= _TEXT
            else row["text"][: _TEXT - 1].rstrip() + "…",
        }
        for row in rows
    ]
    return {bucket: [row for row in cut if row["bucket"] == bucket] for bucket in BUCKETS}


def _rows(con: DuckDBPyConnection, query: str) -> list[dict[str, Any]]:
    cursor = con.execute(query)
    names = [str(column[0]) for column in cursor.description or ()]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
