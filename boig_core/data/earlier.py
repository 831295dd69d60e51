"""What an ingestion takes over from an earlier version: its posts, their KPIs and their images, but
for those that were forgotten since.

A shard that holds a forgotten post or its image is made anew without it; all others stay as they
are. Leaves out: which of them are chosen again (see `selection`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Final

from boig_core.config import Data
from boig_core.data import dataset, posts, selection, tables
from boig_core.data.forgotten import Forgotten, nameless
from boig_core.data.labels import TAKEN
from boig_core.errors import InputError
from boig_core.storage import manifest
from boig_core.storage.manifest import FileEntry, Manifest

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

RULES: Final = ("kpi", "more_kpis", "held_out")
"""Fields of the recipe that posts of an earlier version were read under and cannot be read again
under others."""
AGAIN: Final = ("account_too_small", "account_sampled", "image_repeated")
"""Rejects that are looked at again with every new version, because they were good rows at a bad
time."""


def load_earlier(
    con: DuckDBPyConnection,
    uri: str,
    data: Data,
    root: str,
    retry: bool,
    forgotten: Forgotten,
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
    entries = _load_posts(con, uri, parts, data, forgotten)
    gone = _drop_forgotten(con, forgotten) if forgotten else False
    con.execute(
        """
        INSERT INTO known BY NAME
        SELECT DISTINCT c.id AS post, c.images[l.place] AS reference, l.image AS sha256, l.width, l.height, l.fingerprint,
            l.image_shard AS shard
        FROM old_label l JOIN candidate c ON c.id = l.post WHERE NOT l.negative
        """
    )
    images = dataset.shards(parts, tables.IMAGES)
    if gone:
        images = [kept for entry in images for kept in _without_loose(con, uri, entry, root)]
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
    return [*entries, *images]


def forget_old_rejects(con: DuckDBPyConnection) -> None:
    """Leave out rejects of an earlier version whose rows have come again."""
    # A row that was read again has a verdict of its own.
    con.execute("DELETE FROM old_reject WHERE (file, line) IN (SELECT (file, line) FROM reject)")
    # A row of the export takes the place of whatever was rejected under its id.
    con.execute("DELETE FROM old_reject WHERE post IN (SELECT id FROM candidate WHERE fresh)")


def count_news(con: DuckDBPyConnection) -> tuple[int, int]:
    """How many rows were read, and how many of them say what no row said before; one that was
    rejected as it is says nothing new."""
    same = f"{selection.same_post('h', 'c')} AND h.kpis IS NOT DISTINCT FROM c.kpis"
    [(read, news)] = con.execute(
        f"""
        SELECT count(*), coalesce(count_if(NOT EXISTS (SELECT 1 FROM candidate h WHERE NOT h.fresh AND h.id = c.id AND {same})
            AND NOT EXISTS (SELECT 1 FROM old_reject r WHERE r.post = c.id AND r.row = c.row)), 0)
        FROM candidate c WHERE c.fresh
        """
    ).fetchall()
    return int(read), int(news)


def _load_posts(
    con: DuckDBPyConnection, uri: str, parts: Manifest, data: Data, forgotten: Forgotten
) -> list[FileEntry]:
    """Add the posts of an earlier version to ``candidate``; returns the shards that stay."""
    entries = []
    for entry in dataset.shards(parts, tables.POSTS):
        table = tables.read_shard(uri, entry)
        names = zip(table["id"].to_pylist(), table["account"].to_pylist(), strict=True)
        # Also where the post itself is no candidate any more: the shard still holds it.
        is_clean = not (forgotten and any(forgotten.has_post(*name) for name in names))
        name = dataset.shard_name(entry)
        con.register("arrow", table)
        # Posts without a shard are written into a new one, those of this version that are left.
        con.execute(
            _OLD_POSTS.format(kpis=_old_kpis(data)),
            {"shard": name, "stays": name if is_clean else None},
        )
        con.unregister("arrow")
        entries += [entry] if is_clean else []
    return entries


def _drop_forgotten(con: DuckDBPyConnection, forgotten: Forgotten) -> bool:
    """Take forgotten posts and rejects out of what was loaded; returns whether there were any."""
    cursor = con.cursor().execute("SELECT id, account FROM candidate")
    gone = [row for row in iter(cursor.fetchone, None) if forgotten.has_post(*row)]
    ids = [post for post, _ in gone]
    con.execute("CREATE TABLE gone AS SELECT unnest($ids::VARCHAR[]) AS id", {"ids": ids})
    cursor = con.cursor().execute("SELECT rowid, post, row, reason FROM old_reject")
    lost = {*ids}
    rejects = [
        place
        for place, post, row, reason in iter(cursor.fetchone, None)
        if post in lost or forgotten.has_reject(post, row) or _names_one(reason, lost, forgotten)
    ]
    con.execute(
        "DELETE FROM old_reject WHERE rowid IN (SELECT unnest($rows::BIGINT[]))", {"rows": rejects}
    )
    left_out = nameless("", 0)
    # One for each post, in the place of its row: what is left out is counted.
    con.execute(
        "INSERT INTO old_reject BY NAME SELECT DISTINCT file, line, $code AS code, $reason AS reason"
        " FROM candidate SEMI JOIN gone USING (id)",
        {"code": left_out.code, "reason": left_out.reason},
    )
    con.execute("DELETE FROM candidate WHERE id IN (SELECT id FROM gone)")
    return bool(gone or rejects)


def _names_one(reason: str, lost: Collection[str], forgotten: Forgotten) -> bool:
    """Whether a reject quotes the id of a post that was forgotten."""
    name = reason.removeprefix(TAKEN)
    return name != reason and (name in lost or forgotten.has("id", name))


def _without_loose(
    con: DuckDBPyConnection, uri: str, entry: FileEntry, root: str
) -> Iterator[FileEntry]:
    """A shard of images as it is, or made anew without those that no post names any more."""
    import pyarrow as pa

    shard = dataset.shard_name(entry)
    query = "SELECT DISTINCT sha256 FROM known WHERE shard = $shard"
    named = {sha256 for (sha256,) in con.execute(query, {"shard": shard}).fetchall()}
    table = tables.read_shard(uri, entry)
    kept = [sha256 in named for sha256 in table["sha256"].to_pylist()]
    if all(kept):
        yield entry
    elif any(kept):
        rest = table.filter(pa.array(kept, pa.bool_())).combine_chunks()
        smaller = tables.write_shard(rest, tables.IMAGES, root)
        names = {"shard": shard, "smaller": dataset.shard_name(smaller)}
        con.execute("UPDATE known SET shard = $smaller WHERE shard = $shard", names)
        yield smaller


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
        NULL AS row, false AS fresh, $stays AS shard
    FROM arrow a JOIN held h ON h.post = a.id JOIN origin o ON o.post = a.id
"""


def _old_kpis(data: Data) -> str:
    more = "".join(
        f", list_filter(h.more_kpis, lambda k: k.name = {selection.quoted(name)})[1].value"
        for name in data.more_kpis
    )
    return f"[h.kpi{more}]"
