"""Preview: what an ingestion would make of an export, within seconds and without a store: how it is
read, what is lost, and how posts spread over buckets and splits.

Every row is read by the code that an ingestion reads it with; only images are not fetched, but for
a few. Each reference counts as an image of its own, so near-duplicates may still move posts
between splits. Leaves out: which lines of a recipe would save what is lost (see `suggestions`), and
how it is shown (see `boig_core.cli.preview`).
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from boig_core.config import Data
from boig_core.data import card, glance, labels, posts, ranking, selection
from boig_core.data.cells.conventions import Conventions, kpi_columns
from boig_core.data.cells.moments import UnreadableMomentError, read_moment
from boig_core.data.fetching.fetch import Fetcher
from boig_core.data.fetching.reach import ImageReference, Reach
from boig_core.data.reading import sources
from boig_core.data.reading.dialects import FileDialect
from boig_core.data.reading.sources import Row
from boig_core.data.rejects import CHOICES, VERDICT, Rejected
from boig_core.storage import store

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

MOST_ROWS: Final = 200_000
"""Rows that a preview reads of an export; of a longer one it looks at the first."""
IMAGES: Final = 12
_LOOKED_UP: Final = 20_000
"""Images on this machine's disk that are looked for, without being opened."""
_ACCOUNTS: Final = 8
_EXAMPLES: Final = 3
_TIMEOUT_S: Final = 5.0
"""Longest time for an image from the web: who waits for a preview sits before it."""
_DESCRIBED: Final = 2000
"""Rows whose columns are looked at."""
_DESCRIBED_FILES: Final = 3
_IMAGE: Final = re.compile(
    r"\.(?:jpe?g|png|webp|gif|bmp|heic|heif|avif)\s*(?:[?#]|$)", re.IGNORECASE
)
"""How a name or an address of an image ends."""
_DIGITS: Final = re.compile(r"(?=.{8,40}$)[^\W\d_]{0,9},?\s?\d{1,4}[\W_]")
"""How a time may begin that is more than a number."""
_NAMES: Final = 200
"""Columns that are told apart; a file that makes names of its values has no end of them."""


@dataclass
class ColumnValues:
    """A column as the file has it: how many of the described rows have a value, how many of these
    name images and how many are times, two that differ, and a number for each that does."""

    filled: int = 0
    images: int = 0
    times: int = 0
    examples: list[str] = field(default_factory=list)
    distinct: set[int] = field(default_factory=set)


@dataclass(frozen=True)
class Problem:
    """Rows that were left out for one reason.

    Attributes:
        code: one of `rejects.CODES`.
        count: of rows.
        examples: file, line and reason of the first few.
    """

    code: str
    count: int
    examples: tuple[tuple[str, int, str], ...]


@dataclass(frozen=True)
class AccountKpi:
    """The KPI of an account: how many posts, their median, the share of zeros, and whether all have
    one value."""

    account: str
    posts: int
    median: float
    zeros: float
    one_value: bool


@dataclass(frozen=True)
class Outlook:
    """What an ingestion under one recipe would come to, if every image could be read.

    Attributes:
        rows: that were read.
        kept: posts.
        problems: why rows are lost, the most frequent first.
        choices: rows that the recipe leaves out, likewise.
        accounts: the largest.
        account_count: of all accounts.
        buckets: posts by bucket, ``none`` among them.
        splits: posts by split.
        warnings: see `glance`.
        references: images, in an order that spreads over all posts.
        conventions: how dates and the numbers of each KPI are written, where that was settled.
        mended: posts whose letters had been decoded wrongly.
    """

    rows: int
    kept: int
    problems: tuple[Problem, ...] = ()
    choices: tuple[Problem, ...] = ()
    accounts: tuple[AccountKpi, ...] = ()
    account_count: int = 0
    buckets: Mapping[str, int] = field(default_factory=dict)
    splits: Mapping[str, int] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    references: tuple[ImageReference, ...] = ()
    conventions: Mapping[str, str] = field(default_factory=dict)
    mended: int = 0

    @property
    def lost(self) -> int:
        """Rows that are lost, choices of the recipe apart."""
        return sum(problem.count for problem in self.problems)


@dataclass(frozen=True)
class TriedImages:
    """What came of the images that were tried: ``read`` of ``tried`` could be; ``missing`` of
    ``local`` do not exist; ``failures`` are codes and reasons."""

    tried: int
    read: int
    local: int
    missing: int
    failures: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class ExportReading:
    """An export as it was found.

    Attributes:
        files: each with how it is read; of many, the first few only are described.
        columns: of the files, in their order.
        whole: whether every row was read.
    """

    files: tuple[tuple[str, FileDialect | None], ...]
    columns: Mapping[str, ColumnValues]
    whole: bool


def survey(location: str, data: Data, seed: int) -> tuple[ExportReading, Outlook]:
    """Read an export as an ingestion would.

    Args:
        location: a file, a folder, a glob or a web address.
        data: the recipe's rules.
        seed: of samples and splits.

    Raises:
        InputError: there is no posts file, or it cannot be read as what its suffix says.
        StorePermissionError, StoreUnavailableError.
    """
    columns: dict[str, ColumnValues] = {}
    left = _Budget(MOST_ROWS)
    files: list[str] = []

    def watched() -> Iterator[tuple[str, Iterator[Row]]]:
        for file, rows in sources.read_export(store.normalize_source(location), data):
            files.append(file)
            yield file, left.take(describe_columns(rows, columns))

    outlook = look(watched(), data, seed)
    dialects = tuple(
        (file, sources.describe_file(file, data) if nr < _DESCRIBED_FILES else None)
        for nr, file in enumerate(files)
    )
    return ExportReading(dialects, columns, not left.spent), outlook


def look(exports: Iterable[tuple[str, Iterable[Row]]], data: Data, seed: int) -> Outlook:
    """What becomes of rows under a recipe.

    Args:
        exports: files with their rows.
        data: the recipe's rules.
        seed: of samples and splits.
    """
    with (
        tempfile.TemporaryDirectory(prefix="boig-preview-") as scratch,
        selection.connect(Path(scratch), data.tables_mb) as con,
    ):
        settled: dict[str, str] = {}
        mended = 0
        for file, rows in exports:
            conventions = Conventions(data)
            selection.add_rows(con, file, posts.accept(file, rows, data, conventions=conventions))
            settled |= _settled(conventions, data)
            mended += conventions.mended
        selection.choose(con, data, seed)
        problems = _problems(con)
        [(kept, accounts)] = con.execute(
            "SELECT count(*), count(DISTINCT account) FROM post"
        ).fetchall()
        outlook = Outlook(
            rows=kept + sum(problem.count for problem in problems),
            kept=kept,
            problems=tuple(problem for problem in problems if problem.code not in CHOICES),
            choices=tuple(problem for problem in problems if problem.code in CHOICES),
            account_count=accounts,
            conventions=settled,
            mended=mended,
        )
        return _labeled(con, outlook, data, seed) if kept else outlook


def _labeled(con: DuckDBPyConnection, outlook: Outlook, data: Data, seed: int) -> Outlook:
    """The outlook with what posts are worth and where they belong."""
    selection.references(con)
    # Each reference as an image of its own: of what is fetched later, only what matters here.
    con.execute(
        """
        CREATE TABLE image AS
        SELECT post, place, reference, address, sha256(base || chr(0) || address) AS sha256, 1 AS width, 1 AS height, '' AS fingerprint
        FROM reference
        """
    )
    # What is not fetched looks like nothing else.
    labels.label(con, data.model_copy(update={"near_duplicates": None}), seed)
    numbers = card.card(con)
    buckets = {name: sum(splits.values()) for name, splits in numbers["buckets"].items()}
    shown = {**numbers, "kpi": data.kpi, "ranking": ranking.measure_ranking(con, data)}
    return replace(
        outlook,
        accounts=_accounts(con),
        buckets=buckets | {"none": numbers["without_bucket"]},
        splits=numbers["splits"],
        warnings=tuple(glance.outlook_warnings(shown)),
        references=_references(con),
    )


def try_images(outlook: Outlook, data: Data, roots: Sequence[str]) -> TriedImages:
    """Fetch a few images, and look for all that lie on this machine's disk.

    Args:
        outlook: whose posts name them.
        data: limits of the recipe.
        roots: where images may lie beside the folder of their posts.

    Raises:
        StoreUnavailableError: the store itself is away.
    """
    reach = Reach.of(roots)
    patience = min(data.fetch_timeout_s, _TIMEOUT_S)
    fetcher = Fetcher(
        data.model_copy(update={"fetch_concurrency": IMAGES, "fetch_timeout_s": patience})
    )
    few = outlook.references[:IMAGES]
    results = [result for _, result in fetcher.fetch(few, reach)]
    failures = [(result.code, result.reason) for result in results if isinstance(result, Rejected)]
    local = [reference for reference in outlook.references if _is_local(reference)]
    missing = sum(not _exists(reference, reach) for reference in local)
    return TriedImages(
        len(results), len(results) - len(failures), len(local), missing, tuple(sorted(failures))
    )


def describe_columns(rows: Iterable[Row], columns: dict[str, ColumnValues]) -> Iterator[Row]:
    """Pass rows on, and note the columns of the first: nested ones by their dotted path."""
    for number, (line, row) in enumerate(rows):
        if number < _DESCRIBED and isinstance(row, Mapping):
            for name, value in _flat(row):
                if name != VERDICT:
                    _note(columns, name, value)
        yield line, row


def shown_value(value: Any) -> str:
    """A value as one short line, or nothing where there is none."""
    text = "" if value is None or value == [] or value == {} else str(value)
    text = " ".join(text[:200].split())
    return text if len(text) <= 40 else f"{text[:37]}..."


def _note(columns: dict[str, ColumnValues], name: str, value: Any) -> None:
    if name not in columns and len(columns) >= _NAMES:
        return
    column = columns.setdefault(name, ColumnValues())
    if text := shown_value(value):
        column.filled += 1
        column.images += _names_image(value)
        column.times += _is_time(value)
        column.distinct.add(hash(str(value)))
        if text not in column.examples and len(column.examples) < 2:
            column.examples.append(text)


def _names_image(value: Any) -> bool:
    names = value if isinstance(value, list) else [value]
    return bool(names) and all(isinstance(name, str) and _IMAGE.search(name) for name in names)


def _is_time(value: Any) -> bool:
    # A number may be a time, or any other number.
    if not isinstance(value, str) or not _DIGITS.match(value):
        return isinstance(value, datetime)
    try:
        return bool(read_moment(value))
    except UnreadableMomentError:
        return False


def _flat(row: Mapping[str, Any], depth: int = 0) -> Iterator[tuple[str, Any]]:
    for name, value in row.items():
        if isinstance(value, Mapping) and value and depth < 3:
            yield from ((f"{name}.{inner}", deep) for inner, deep in _flat(value, depth + 1))
        else:
            yield str(name), value


class _Budget:
    """Rows that may still be read of an export."""

    def __init__(self, rows: int) -> None:
        self.left, self.spent = rows, False

    def take(self, rows: Iterator[Row]) -> Iterator[Row]:
        for row in islice(rows, self.left):
            self.left -= 1
            yield row
        # A row more than may be read tells that the preview is of a part.
        if not self.left and not self.spent:
            self.spent = next(rows, None) is not None


def _settled(conventions: Conventions, data: Data) -> dict[str, str]:
    ways = {name: conventions.numbers(name) for name in kpi_columns(data)}
    return {
        name: way for name, way in (("dates", conventions.dates), *ways.items()) if way is not None
    }


def _problems(con: DuckDBPyConnection) -> list[Problem]:
    rows = con.execute(
        f"""
        SELECT code, count(*) AS n, min_by({{'file': file, 'line': line, 'reason': reason}}, (file, line), {_EXAMPLES}) AS examples
        FROM reject GROUP BY code ORDER BY n DESC, code
        """
    ).fetchall()
    return [
        Problem(
            code,
            count,
            tuple((store.name(row["file"]), row["line"], row["reason"]) for row in examples),
        )
        for code, count, examples in rows
    ]


def _accounts(con: DuckDBPyConnection) -> tuple[AccountKpi, ...]:
    rows = con.execute(
        f"""
        SELECT account, count(*) AS n, median(kpis[1]), count_if(kpis[1] = 0) / count(*), min(kpis[1]) = max(kpis[1])
        FROM post GROUP BY account ORDER BY n DESC, account LIMIT {_ACCOUNTS}
        """
    ).fetchall()
    return tuple(AccountKpi(*row) for row in rows)


def _references(con: DuckDBPyConnection) -> tuple[ImageReference, ...]:
    """First images before further ones, each in an order that spreads over files and accounts."""
    rows = con.execute(
        f"SELECT base, address FROM reference ORDER BY place > 1, sha256(post), place LIMIT {_LOOKED_UP}"
    ).fetchall()
    return tuple(ImageReference(*row) for row in rows)


def _is_local(reference: ImageReference) -> bool:
    return "://" not in reference.address and not reference.base.startswith(("http://", "https://"))


def _exists(reference: ImageReference, reach: Reach) -> bool:
    try:
        return os.path.exists(reach.locate(reference))
    except (Rejected, OSError, ValueError):
        return False
