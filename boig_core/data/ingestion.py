"""Ingestion: an export, and maybe an earlier version of the dataset, become a new version: the
order of the work, and nothing of the how.

Reads rows (`sources`, `posts`), chooses posts (`selection`), has images fetched and packed into
shards (`staging`), labels (`labels`), and writes the version's tables and its data card (`card`).
Runs on one machine as it is; `cluster.ingest` hands it a `ImageFetcher` that works on many. What is
written is a pure function of rows, images, recipe, the earlier version and what was forgotten,
whatever the order of rows or the number of workers. Leaves out: manifests and commits (see
`ray_jobs.ingest`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from boig_core.config import Data
from boig_core.data import card, dataset, forgotten, labels, posts, selection, staging, tables
from boig_core.data.cells.conventions import Conventions
from boig_core.data.earlier import (
    _EMPTY,
    RULES,
    count_news,
    forget_old_rejects,
    load_earlier,
)
from boig_core.data.fetching.reach import ImageReference, Reach
from boig_core.data.reading import sources
from boig_core.data.selection import causes
from boig_core.data.staging import FetchChunk
from boig_core.errors import InputError
from boig_core.observability.logs import get_logger
from boig_core.observability.progress import Progress, progress_log
from boig_core.storage import store
from boig_core.storage.manifest import FileEntry
from boig_core.storage.period import Period

if TYPE_CHECKING:
    import pyarrow as pa
    from duckdb import DuckDBPyConnection


log = get_logger(__name__)
# A shard of posts is held in memory whole while it is written.
_POSTS_A_SHARD: Final = 16_384


class NothingNewError(Exception):
    """A period has no post that is new or changed: nothing to make. No error but an answer."""


class NothingUsableError(InputError):
    """Of all rows none becomes a sample. Remedy: mend what is most often wrong."""


class ImageFetcher(Protocol):
    """Who fetches: a call a chunk, none an image, since each may cross a network."""

    def fetch(self, chunks: Iterable[FetchChunk], data: Data, root: str) -> Iterator[pa.Table]:
        """What `staging.stage` returns for each chunk, in any order."""
        ...


class OneProcess:
    """A crew of one: this process."""

    def fetch(self, chunks: Iterable[FetchChunk], data: Data, root: str) -> Iterator[pa.Table]:
        """Chunk by chunk."""
        yield from (staging.stage(chunk, data, root) for chunk in chunks)


@dataclass(frozen=True)
class Ingested:
    """A version that is ready to be published.

    Attributes:
        folder: local, with the version's tables.
        blobs: its shards, new and old.
        meta: its numbers (see `card.card`).
        staged: keys of the chunks that are of no use once the version is committed.
    """

    folder: Path
    blobs: tuple[FileEntry, ...]
    meta: dict[str, Any]
    staged: tuple[str, ...]


def ingest(
    location: str | None,
    earlier: str | None,
    data: Data,
    seed: int,
    *,
    root: str,
    scratch: Path,
    crew: ImageFetcher,
    retry: bool = False,
    period: Period | None = None,
    roots: Sequence[str] = (),
) -> Ingested:
    """Make a version of a dataset.

    Args:
        location: of the export: a file, a folder, a glob or a web address; None: only what
            ``earlier`` holds.
        earlier: URI of a version to build on; None: the first one.
        data: the recipe's rules.
        seed: of the sample of large accounts, of splits and negatives.
        root: URI of ``datasets/NAME``.
        scratch: an empty local folder.
        crew: who fetches images.
        retry: try every reject of ``earlier`` again, row by row and image by image.
        period: only posts of it are read from the export, and only something new among them makes a
            version; None: all.
        roots: folders and S3 prefixes below which images may lie, beside the folder of their posts.

    Raises:
        NothingNewError: the period has nothing to add to ``earlier``.
        NothingUsableError: not one usable row.
        InputError: no posts, an earlier version of other rules or elsewhere, or too little memory.
        CorruptError, StoreUnavailableError: the earlier version is not whole, or the store away.
    """
    with selection.connect(scratch, data.tables_mb) as con:
        con.execute(_EMPTY)
        gone = forgotten.read(root)
        kept = load_earlier(con, earlier, data, root, retry, gone) if earlier else []
        _scan(con, location, data, period, gone)
        if period is not None:
            # Before anything is fetched: a period without news costs no request.
            _require_news(con, period)
        forget_old_rejects(con)
        selection.choose(con, data, seed)
        if not _count(con, "post"):
            rule = f"has no usable post among {_count(con, 'reject')} rows"
            raise NothingUsableError(location or earlier, rule, causes(con))
        selection.references(con)
        staged = _fetch(con, data, Reach.of(roots), root, crew)
        _locate_images(con)
        labels.label(con, data, seed)
        if not _count(con, "sample"):
            rule = "has no post with an image that can be read"
            raise NothingUsableError(location or earlier, rule, causes(con))
        return _write(con, data, [*kept, *_new_shards(con)], scratch, root, staged)


def _scan(
    con: DuckDBPyConnection,
    location: str | None,
    data: Data,
    period: Period | None,
    gone: forgotten.Forgotten,
) -> None:
    # Absolute, since a file's folder is where its images lie.
    files = sources.read_export(store.normalize_source(location), data) if location else ()
    for file, rows in files:
        conventions = Conventions(data)
        accepted = posts.accept(file, rows, data, period, conventions)
        selection.add_rows(con, file, gone.drop(file, accepted))
        if mended := conventions.mended:
            log.info("%d texts of %s are mended: their letters were decoded wrongly", mended, file)
    log.info(
        "%d rows can be used, %d are rejected", _count(con, "candidate"), _count(con, "reject")
    )


def _require_news(con: DuckDBPyConnection, period: Period) -> None:
    read, news = count_news(con)
    log.info("of %d posts in %s, %d are new or changed", read, period, news)
    if not news:
        raise NothingNewError(
            f"no new post in {period}: {read} are held as they are, {_count(con, 'reject')} rows cannot be used"
        )


def _fetch(
    con: DuckDBPyConnection, data: Data, reach: Reach, root: str, crew: ImageFetcher
) -> tuple[str, ...]:
    """Fill ``fetched``; returns the keys of the chunks.

    Not asked for: images that an earlier version holds, and those that it rejected for good.
    """
    con.execute(
        """
        CREATE TABLE wanted AS
        SELECT base, address, min(reference) AS reference FROM reference
        ANTI JOIN known USING (post, reference)
        ANTI JOIN (SELECT post, image AS reference FROM old_reject WHERE image IS NOT NULL) USING (post, reference)
        GROUP BY base, address
        """
    )
    total = _count(con, "wanted")
    # A cursor of its own, since results come in while addresses go out. In the order of references,
    # not of addresses: chunks, and with them shards, are then the same wherever the export lies.
    addresses = con.cursor().execute(
        "SELECT base, address FROM wanted ORDER BY sha256(reference), address, base"
    )
    waiting = (ImageReference(*row) for row in iter(addresses.fetchone, None))
    keys: list[str] = []
    progress = Progress("images", total, progress_log())

    def noted(chunks: Iterable[FetchChunk]) -> Iterator[FetchChunk]:
        for chunk in chunks:
            keys.append(chunk.key)
            yield chunk

    def fetch(chunks: Iterable[FetchChunk]) -> Iterator[pa.Table]:
        for index in crew.fetch(noted(chunks), data, root):
            con.register("arrow", index)
            con.execute("INSERT INTO fetched BY NAME SELECT * FROM arrow")
            con.unregister("arrow")
            progress.add(index["code"].to_pylist())
            yield index

    # The first chunk says how large images are, and so how many make a shard.
    start = staging.make_chunks(islice(waiting, staging.CHUNK), data, reach, staging.CHUNK)
    for index in fetch(start):
        size = staging.chunk_size(index, data)
        deque(fetch(staging.make_chunks(waiting, data, reach, size, first=1)), maxlen=0)
    progress.close()
    return tuple(keys)


def _locate_images(con: DuckDBPyConnection) -> None:
    """``image``: the image of each reference that has one, and where it is stored; what has none
    goes to ``reject``."""
    con.execute(
        """
        CREATE TABLE image AS
        SELECT post, place, reference, address, sha256, width, height, fingerprint, shard FROM (
            SELECT r.post, r.place, r.reference, r.address, coalesce(k.sha256, f.sha256) AS sha256, coalesce(k.width, f.width) AS width,
                coalesce(k.height, f.height) AS height, coalesce(k.fingerprint, f.fingerprint) AS fingerprint, k.shard
            FROM reference r LEFT JOIN known k USING (post, reference) LEFT JOIN fetched f USING (base, address)
        ) WHERE sha256 IS NOT NULL
        """
    )
    # The row with the first alone: with each, a post of many images would be kept as many times.
    con.execute(
        """
        INSERT INTO reject BY NAME
        WITH lost AS (
            SELECT r.post, r.reference, f.code, f.reason, row_number() OVER (PARTITION BY r.post ORDER BY r.place) AS nr
            FROM reference r JOIN fetched f USING (base, address) ANTI JOIN known USING (post, reference)
            WHERE f.code IS NOT NULL
        )
        SELECT p.file, p.line, p.id AS post, l.reference AS image, l.code, l.reason, if(l.nr = 1, p.row, NULL) AS row
        FROM lost l JOIN post p ON p.id = l.post
        """
    )


def _new_shards(con: DuckDBPyConnection) -> list[FileEntry]:
    """Make ``held``: the shard of each image, of an earlier version where it has one, else of the
    first chunk; returns the new shards."""
    con.execute(
        """
        CREATE TABLE held AS
        WITH known_image AS (SELECT sha256, min(shard) AS shard FROM known GROUP BY sha256)
        SELECT * FROM known_image UNION ALL
        SELECT sha256, arg_min(shard, chunk) AS shard FROM fetched ANTI JOIN known_image USING (sha256)
        WHERE sha256 IS NOT NULL GROUP BY sha256
        """
    )
    rows = con.execute(
        "SELECT DISTINCT shard, shard_sha256, shard_bytes FROM fetched WHERE shard IS NOT NULL ORDER BY shard"
    ).fetchall()
    entries = [
        dataset.shard_entry(tables.IMAGES, str(name), str(sha256), int(size))
        for name, sha256, size in rows
    ]
    log.info("%d images in %d new shards", _count(con, "held"), len(entries))
    return entries


def _write(
    con: DuckDBPyConnection,
    data: Data,
    entries: Sequence[FileEntry],
    scratch: Path,
    root: str,
    staged: tuple[str, ...],
) -> Ingested:
    """Write posts that are in no shard yet, the version's tables, and its card."""
    folder = scratch / "version"
    folder.mkdir()
    entries = [*entries, *_write_posts(con, root)]
    names = ", ".join(selection.quoted(name) for name in (data.kpi, *data.more_kpis))
    con.execute(
        f"""
        CREATE TABLE label AS
        SELECT s.id, s.post, s.place, p.shard AS post_shard, s.sha256 AS image, h.shard AS image_shard, s.width, s.height, s.fingerprint,
            s.kpi, s.normalized AS kpi_normalized, s.bucket, s.split, s.grp AS "group", s.negative,
            list_transform(s.more, lambda k: {{'name': [{names}][k.nr], 'value': k.value, 'normalized': k.normalized, 'bucket': k.bucket}})
                AS more_kpis
        FROM sample s JOIN post p ON p.id = s.post JOIN held h ON h.sha256 = s.sha256
        """
    )
    _table(con, "SELECT * FROM label ORDER BY id", tables.labels_schema(), folder / tables.LABELS)
    con.execute(
        """
        CREATE TABLE source AS
        SELECT s.id, s.post, p.file, p.line, i.address, p.licence,
            if(i.address LIKE 'http%', 'none declared', 'not asked') AS opt_out
        FROM sample s JOIN post p ON p.id = s.post JOIN image i ON i.post = s.post AND i.place = s.place
        WHERE NOT s.negative
        """
    )
    _table(
        con, "SELECT * FROM source ORDER BY id", tables.sources_schema(), folder / tables.SOURCES
    )
    # Only now: until here `reject` holds what this run has found, which messages count.
    con.execute("INSERT INTO reject BY NAME SELECT * FROM old_reject")
    order = "file, line, post NULLS FIRST, image NULLS FIRST, code"
    _table(
        con,
        f"SELECT * FROM reject ORDER BY {order}",
        selection.reject_schema(),
        folder / tables.REJECTS,
    )
    # A shard of the earlier version that no label names any more is left out. One that was made
    # again has the same name, and is listed once.
    used = {
        name
        for row in con.execute("SELECT DISTINCT post_shard, image_shard FROM label").fetchall()
        for name in row
    }
    blobs = tuple(
        {entry.path: entry for entry in entries if dataset.shard_name(entry) in used}.values()
    )
    meta = {**card.card(con), "rules": data.model_dump(mode="json", include=set(RULES))}
    shown = card.write_card(con, data, meta, folder, root, blobs)
    return Ingested(folder, blobs, meta | {"warnings": shown["warnings"]}, staged)


def _write_posts(con: DuckDBPyConnection, root: str) -> list[FileEntry]:
    """Shards of the posts that have a sample and stand in no shard; completes ``post.shard``."""
    con.execute(
        f"""
        CREATE TABLE new_post AS
        SELECT id, floor((row_number() OVER (ORDER BY id) - 1) / {_POSTS_A_SHARD})::BIGINT AS nr
        FROM post WHERE shard IS NULL AND id IN (SELECT post FROM sample)
        """
    )
    entries = []
    schema = tables.posts_schema()
    for (nr,) in con.execute("SELECT DISTINCT nr FROM new_post ORDER BY nr").fetchall():
        rows = con.sql(
            f"SELECT p.* FROM post p JOIN new_post n USING (id) WHERE n.nr = {nr} ORDER BY id"
        ).to_arrow_table()
        entry = tables.write_shard(
            rows.select(schema.names).cast(schema).combine_chunks(), tables.POSTS, root
        )
        con.execute(
            "UPDATE post SET shard = $name FROM new_post n WHERE n.id = post.id AND n.nr = $nr",
            {"name": dataset.shard_name(entry), "nr": nr},
        )
        entries.append(entry)
    return entries


def _table(con: DuckDBPyConnection, query: str, schema: pa.Schema, path: Path) -> None:
    tables.write_table(con.sql(query).to_arrow_reader(8192), schema, path)


def _count(con: DuckDBPyConnection, table: str) -> int:
    [(count,)] = con.execute(f"SELECT count(*) FROM {table}").fetchall()
    return int(count)
