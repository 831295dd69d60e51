"""Selection: of all rows that could be read, the posts that a dataset is made from: one per id,
small accounts left out, large ones sampled.

The work on tables runs in DuckDB on disk, so that memory stays flat however long the history is.
Which posts are chosen is a pure function of the rows and the seed: neither the order of rows nor
the number of threads matters. Leaves out: reading (see `posts`), fetching (see `fetch`), and what
chosen posts are worth (see `labels`).

Tables made here: ``candidate`` (every readable row, ``fresh`` or from an earlier version), ``post``
(the chosen), ``reject``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from boig_core.config import Data
from boig_core.data.fetching.references import address_of
from boig_core.data.posts import Post, Reject
from boig_core.data.tables import posts_schema
from boig_core.errors import InfrastructureError, InputError

if TYPE_CHECKING:
    import pyarrow as pa
    from duckdb import DuckDBPyConnection

_BATCH: Final = 4096
"""Rows that are put into a table at a time."""
_BATCH_CHARACTERS: Final = 16 * 2**20
"""Characters of rows that are put into a table at a time, since rows may be long."""


@contextmanager
def connect(scratch: Path, memory_mb: int) -> Iterator[DuckDBPyConnection]:
    """A DuckDB of our own in a scratch folder, with the empty tables ``candidate`` and ``reject``.

    Of one thread: each more asks for memory of its own, and fetching takes a hundred times as long
    as all work on tables.

    Args:
        scratch: local folder with space for all rows.
        memory_mb: what it takes of memory before it writes to ``scratch``, in MiB.

    Raises:
        InputError: a statement cannot do with so little.
        InfrastructureError: the disk is full or broken.
    """
    import duckdb

    con = duckdb.connect(str(scratch / "ingest.duckdb"))
    try:
        con.execute(
            f"SET memory_limit = '{memory_mb}MiB'; SET temp_directory = '{scratch / 'spill'}'; SET threads = 1"
        )
        # Whatever needs an order asks for one; keeping that of rows would take memory.
        con.execute("SET preserve_insertion_order = false; SET enable_progress_bar = false")
        # The types of an empty table are those of the batches that follow, so that no value is read
        # as another type.
        for name, schema in (("candidate", _candidate_schema()), ("reject", reject_schema())):
            con.register("arrow", schema.empty_table())
            con.execute(f"CREATE TABLE {name} AS SELECT * FROM arrow")
            con.unregister("arrow")
        yield con
    except duckdb.OutOfMemoryException as exc:
        raise InputError(
            f"data.tables_mb = {memory_mb}", "is too little for so many posts", "double it"
        ) from exc
    except duckdb.IOException as exc:
        raise InfrastructureError(
            scratch,
            f"the tables cannot be kept there ({' '.join(str(exc).split())[:200]})",
            "free space on its disk, and try again",
        ) from exc
    finally:
        con.close()


def add_rows(
    con: DuckDBPyConnection,
    file: str,
    rows: Iterable[tuple[int, Post, str] | Reject],
    fresh: bool = True,
) -> None:
    """Put the rows of one file into ``candidate`` and ``reject``.

    Args:
        con: as `connect` makes it.
        file: URI of the file.
        rows: as `posts.accept` gives them.
        fresh: they come from the export, and not from what an earlier version rejected.
    """
    accepted: list[dict[str, Any]] = []
    rejected: list[dict[str, Any]] = []
    characters = 0
    for row in rows:
        if isinstance(row, Reject):
            rejected.append(asdict(row))
            characters += len(row.row or "")
        else:
            line, post, text = row
            characters += len(text)
            accepted.append(
                {
                    **_columns(post),
                    "file": file,
                    "line": line,
                    "row": text,
                    "fresh": fresh,
                    "shard": None,
                }
            )
        if max(len(accepted), len(rejected)) >= _BATCH or characters >= _BATCH_CHARACTERS:
            _flush(con, accepted, rejected)
            characters = 0
    _flush(con, accepted, rejected)


def choose(con: DuckDBPyConnection, data: Data, seed: int) -> None:
    """Fill ``post`` with the chosen candidates and ``reject`` with why the others were left out.

    Of several fresh rows of one id the latest counts, then the one with the largest KPI, then a
    fixed one: an export that was taken twice holds the later counts.

    Args:
        con: with its candidates.
        data: smallest and largest number of posts per account.
        seed: decides which posts stay of an account that has more than ``data.max_posts``.
    """
    con.execute(
        """
        CREATE TABLE ranked AS
        SELECT rowid AS place, id, account, fresh,
            row_number() OVER same AS rank, first_value(file) OVER same AS first_file, first_value(line) OVER same AS first_line
        FROM candidate
        WINDOW same AS (PARTITION BY id ORDER BY fresh DESC, timestamp DESC, kpis[1] DESC, sha256(coalesce(row, '')), file, line)
        """
    )
    con.execute(
        """
        INSERT INTO reject BY NAME
        SELECT c.file, c.line, c.id AS post, 'duplicate_id' AS code, c.row,
            'id ' || c.id || ' stands in line ' || r.first_line || if(r.first_file = c.file, '', ' of ' || r.first_file) || ' too' AS reason
        FROM ranked r JOIN candidate c ON c.rowid = r.place WHERE r.rank > 1 AND r.fresh
        """
    )
    con.execute(
        """
        CREATE TABLE drawn AS
        SELECT place, account, count(*) OVER (PARTITION BY account) AS size,
            row_number() OVER (PARTITION BY account ORDER BY sha256($seed || chr(0) || 'sample' || chr(0) || id), id) AS turn
        FROM ranked WHERE rank = 1
        """,
        {"seed": str(seed)},
    )
    # Tables up to here carry row numbers instead of rows, so that sorts stay small.
    limits = {"least": data.min_posts, "most": data.max_posts}
    con.execute(
        f"""
        INSERT INTO reject BY NAME
        SELECT c.file, c.line, c.id AS post, coalesce(c.row, {_again(data)}) AS row,
            if(d.size < $least, 'account_too_small', 'account_sampled') AS code,
            if(d.size < $least, c.account || ' has ' || d.size || ' posts, at least ' || $least || ' are asked for',
               $most || ' other posts of ' || c.account || ' were drawn') AS reason
        FROM drawn d JOIN candidate c ON c.rowid = d.place WHERE d.size < $least OR d.turn > $most
        """,
        limits,
    )
    con.execute(
        """
        CREATE TABLE post AS SELECT c.* FROM drawn d JOIN candidate c ON c.rowid = d.place WHERE d.size >= $least AND d.turn <= $most
        """,
        limits,
    )
    con.execute("DROP TABLE drawn")
    _keep_shards(con)


def references(con: DuckDBPyConnection) -> None:
    """Make ``reference``: each image of each chosen post with its ``place`` from 1, the ``address``
    that it is fetched from, and the ``base`` that decides where it may lead."""
    con.create_function("address_of", address_of, ["VARCHAR", "VARCHAR"], "VARCHAR")
    # Where a web address may lead does not depend on who names it, so it is fetched once.
    con.execute(
        """
        CREATE TABLE reference AS
        SELECT post, reference, place, address,
            if(regexp_matches(address, '^https?://'), '', regexp_replace(file, '/[^/]*$', '')) AS base
        FROM (
            SELECT post, file, reference, place, address_of(file, reference) AS address FROM (
                SELECT id AS post, file, unnest(images) AS reference, generate_subscripts(images, 1) AS place FROM post
            )
        )
        """
    )


def causes(con: DuckDBPyConnection) -> str:
    """What to mend first, for an ingestion that has nothing to keep: how often each reason was met,
    and the first line of the commonest."""
    rows = con.execute(
        """
        SELECT code, count(*) AS n, arg_min({'line': line, 'reason': reason}, (file, line)) AS first
        FROM reject GROUP BY code ORDER BY n DESC, code
        """
    ).fetchall()
    if not rows:
        return "export at least one post"
    (code, count, first), *others = rows
    text = f"most often {code} ({count} times), first in line {first['line']}: {first['reason']}"
    counts = ", ".join(f"{code} ({count} times)" for code, count, _ in others)
    return f"{text}; then {counts}" if counts else text


def quoted(text: str) -> str:
    """A string literal of SQL."""
    # Names of KPIs come from the recipe, and may hold a quote.
    return "'" + text.replace("'", "''") + "'"


def reject_schema() -> pa.Schema:
    """Columns of ``rejects.parquet``: those of `posts.Reject`."""
    import pyarrow as pa

    return pa.schema(
        [
            (field.name, pa.int64() if field.name == "line" else pa.string())
            for field in fields(Reject)
        ]
    )


def _candidate_schema() -> pa.Schema:
    import pyarrow as pa

    text = [pa.field(name, pa.string()) for name in ("file", "row", "shard")]
    own = [
        pa.field("kpis", pa.list_(pa.float64())),
        pa.field("line", pa.int64()),
        pa.field("fresh", pa.bool_()),
    ]
    return pa.schema([*posts_schema(), *text, *own])


def _columns(post: Post) -> dict[str, Any]:
    return {field.name: getattr(post, field.name) for field in fields(Post)}


def _flush(
    con: DuckDBPyConnection, accepted: list[dict[str, Any]], rejected: list[dict[str, Any]]
) -> None:
    import pyarrow as pa

    for name, rows, schema in (
        ("candidate", accepted, _candidate_schema()),
        ("reject", rejected, reject_schema()),
    ):
        if rows:
            con.register("arrow", pa.Table.from_pylist(rows, schema))
            con.execute(f"INSERT INTO {name} BY NAME SELECT * FROM arrow")
            con.unregister("arrow")
            rows.clear()


def _again(data: Data) -> str:
    """SQL for the row of a post that came from an earlier version, as `posts.parse_post` reads
    it."""
    kpis = ", ".join(
        f"{quoted(name)}, c.kpis[{place}]"
        for place, name in enumerate((data.kpi, *data.more_kpis), start=1)
    )
    plain = ("id", "account", "company", "timestamp", "text", "keywords", "licence", "images")
    named = ", ".join(f"{quoted(name)}, c.{name}" for name in plain)
    return f"json_object({named}, {kpis})::VARCHAR"


def same_post(left: str, right: str) -> str:
    """SQL that is true where two rows say the same of a post, their KPIs aside."""
    # A licence may be NULL, and `=` is never true for NULL.
    columns = (
        *("account", "company", "timestamp", "text"),
        *("keywords", "licence", "images", "held_out"),
    )
    return " AND ".join(f"{left}.{name} IS NOT DISTINCT FROM {right}.{name}" for name in columns)


def _keep_shards(con: DuckDBPyConnection) -> None:
    """A fresh row that says what an earlier version says already stays in the shard where it is;
    its KPIs may have moved."""
    same = same_post("p", "c")
    con.execute(
        f"UPDATE post AS p SET shard = c.shard FROM candidate c WHERE p.fresh AND NOT c.fresh AND p.id = c.id AND {same}"
    )
    con.execute("DROP TABLE ranked")
