"""What an ingestion takes over from an earlier version: its posts, their KPIs and their images.

Leaves out: which of them are chosen again (see `selection`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from boig_core.config import Data
from boig_core.data import dataset, posts, selection, tables
from boig_core.errors import InputError
from boig_core.storage import manifest
from boig_core.storage.manifest import FileEntry

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

RULES: Final = ("kpi", "more_kpis", "held_out")
"""Fields of the recipe that posts of an earlier version were read under and cannot be read again
under others."""
AGAIN: Final = ("account_too_small", "account_sampled", "image_repeated")
"""Rejects that are looked at again with every new version, because they were good rows at a bad
time."""


def load_earlier(
    con: DuckDBPyConnection, uri: str, data: Data, root: str, retry: bool
) -> list[FileEntry]:
    """Posts, images and rejects of an earlier version; returns its shards of posts and images."""
    parts = manifest.read_manifest(uri, kind=dataset.KIND)
    dataset.must_lie_in(uri, root)
    rules = data.model_dump(mode="json", include=set(RULES))
    if (before := parts.meta.get("rules")) != rules:
        changed = next(name for name in RULES if (before or {}).get(name) != rules[name])
        raise InputError(
            f"data.{changed} = {rules[changed]}",
            f"was {(before or {}).get(changed)} for {uri}",
            "ingest the whole export without it",
        )
    for name, file in (
        ("old_label", tables.LABELS),
        ("old_source", tables.SOURCES),
        ("old_reject", tables.REJECTS),
    ):
        con.register("arrow", tables.read_table(uri, parts, file))
        con.execute(f"CREATE OR REPLACE TABLE {name} AS SELECT * FROM arrow")
        con.unregister("arrow")
    entries = dataset.shards(parts, tables.POSTS)
    for entry in entries:
        con.register("arrow", tables.read_shard(uri, entry))
        con.execute(_OLD_POSTS.format(kpis=_old_kpis(data)), {"shard": dataset.shard_name(entry)})
        con.unregister("arrow")
    con.execute(
        """
        INSERT INTO known BY NAME
        SELECT DISTINCT c.id AS post, c.images[l.place] AS reference, l.image AS sha256, l.width, l.height, l.fingerprint,
            l.image_shard AS shard
        FROM old_label l JOIN candidate c ON c.id = l.post WHERE NOT l.negative
        """
    )
    chosen = "true" if retry else f"code IN {AGAIN}"
    # Each row once: it may stand among rejects for several reasons.
    again = con.execute(
        f"SELECT DISTINCT file, line, row FROM old_reject WHERE row IS NOT NULL AND ({chosen})"
    ).fetchall()
    for file, line, row in again:
        post = posts.accept_again(file, line, row, data)
        selection.add_rows(con, file, [post], fresh=False)
    # Tried again, a row is a candidate or a reject anew; it must not stand there twice. Of several
    # images that a post lost, the first alone has the row.
    con.execute(
        f"DELETE FROM old_reject WHERE (row IS NOT NULL OR image IS NOT NULL) AND ({chosen})"
    )
    return [*entries, *dataset.shards(parts, tables.IMAGES)]


# Made in every ingestion, so that the queries are the same with an earlier version and without.
_EMPTY: Final = """
    CREATE TABLE known (post VARCHAR, reference VARCHAR, sha256 VARCHAR, width INT, height INT, fingerprint VARCHAR, shard VARCHAR);
    CREATE TABLE fetched (chunk BIGINT, base VARCHAR, address VARCHAR, sha256 VARCHAR, width INT, height INT, fingerprint VARCHAR,
        shard VARCHAR, shard_sha256 VARCHAR, shard_bytes BIGINT, code VARCHAR, reason VARCHAR);
    CREATE TABLE old_reject AS SELECT * FROM reject
"""
_OLD_POSTS: Final = """
    INSERT INTO candidate BY NAME
    WITH held AS (SELECT DISTINCT ON (post) post, kpi, more_kpis FROM old_label WHERE post_shard = $shard AND NOT negative),
        origin AS (SELECT post, min(file) AS file, min(line) AS line FROM old_source GROUP BY post)
    SELECT a.id, a.account, a.company, a.timestamp, a.text, a.keywords, a.licence, a.images, a.held_out, {kpis} AS kpis, o.file, o.line,
        NULL AS row, false AS fresh, $shard AS shard
    FROM arrow a JOIN held h ON h.post = a.id JOIN origin o ON o.post = a.id
"""


def _old_kpis(data: Data) -> str:
    more = "".join(
        f", list_filter(h.more_kpis, lambda k: k.name = {selection.quoted(name)})[1].value"
        for name in data.more_kpis
    )
    return f"[h.kpi{more}]"
