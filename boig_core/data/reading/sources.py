"""Sources: where the rows of an export come from, streamed one by one from files on disk, in S3 or
on the web.

JSON comes as lines, lists, pages of the X API or what wraps them; CSV in any customary dialect and
encoding; Parquet batch by batch. All but Parquet may be gzipped. How a file is written is told from
its start, and where that leaves a doubt, the recipe's ``data.dialect`` says it. Leaves out: what
makes a row good (see `posts`).
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import IO, Any, Final, cast, get_args

from boig_core.config import Column, Data
from boig_core.data.reading import x_api
from boig_core.data.reading.csv_dialect import CsvDialect, settle_dialect
from boig_core.data.reading.csv_rows import LONGEST_ROW, CsvSigns, split_rows
from boig_core.data.reading.dialects import FileDialect
from boig_core.data.reading.exports import find_sources as find_sources
from boig_core.data.reading.exports import kind_of, partition_of
from boig_core.data.reading.json_rows import Item, Layout, find_layout, flatten, read_items
from boig_core.data.reading.opening import open_posts, parquet_rows, peek_start
from boig_core.data.reading.text_encoding import as_utf8, sniff_encoding
from boig_core.data.reading.x_includes import SharedIncludes
from boig_core.data.rejects import FAULTS, VERDICT, Rejected
from boig_core.errors import InputError
from boig_core.observability.logs import get_logger

log = get_logger(__name__)
_OURS: Final = get_args(Column)
_SHOWN: Final = 20
"""Rows of JSON whose names make the columns that a dialect shows."""

Row = tuple[int, Any]
"""Line or place in the file, from 1, and the row: a mapping, or why there is none."""


def read_export(location: str, data: Data) -> Iterator[tuple[str, Iterator[Row]]]:
    """Each file of an export with its rows; what one page of the X API includes serves the posts of
    all. Arguments and errors are those of `find_sources` and `read_rows`."""
    files = find_sources(location)
    includes = _includes_of(files, data)
    for file in files:
        yield file, read_rows(file, data, includes)


def read_rows(uri: str, data: Data, lookup: x_api.Lookup | None = None) -> Iterator[Row]:
    """Rows of one file, streamed; empty lines are passed over.

    Args:
        uri: the file, as `find_sources` names it.
        data: its dialect and its limits, which hold for a file on the web.
        lookup: finds what other pages of the X API include; None: those of this file.

    Raises:
        InputError: the file cannot be read as what its suffix says, its dialect or encoding cannot
            be told, or it holds more than one may.
        StorePermissionError, StoreUnavailableError.
    """
    rows = _rows(uri, data, lookup or _includes_of([uri], data))
    partition = partition_of(uri)
    if not partition:
        yield from rows
        return
    for line, row in rows:
        yield line, {**partition, **row} if isinstance(row, dict) else row


def describe_file(uri: str, data: Data) -> FileDialect:
    """How a file will be read, told from its start; arguments and errors are those of
    `read_rows`."""
    if kind_of(uri) == "parquet":
        return FileDialect("parquet", None, None, None, None, _columns(uri, data), frozenset())
    with _open_text(uri, data) as text:
        sniffed = frozenset() if data.dialect.encoding else frozenset({"encoding"})
        if text.layout is None:
            csv = text.settle(uri, data)
            columns = tuple(filter(None, csv.columns)) + tuple(partition_of(uri)) if csv else ()
            signs = csv.signs if csv else CsvSigns()
            return FileDialect(
                "csv",
                text.encoding,
                signs.delimiter,
                signs.quote,
                signs.escape,
                columns,
                sniffed | (csv.sniffed if csv else frozenset()),
            )
        first = next(read_items(uri, text.file, text.layout, text.encoding), (0, None))[1]
        kind = "x_api" if isinstance(first, dict) and x_api.is_page(first) else text.layout
    return FileDialect(
        cast(Any, kind), text.encoding, None, None, None, _columns(uri, data), sniffed
    )


@dataclass(frozen=True)
class _TextFile:
    """A text file that is open at its start.

    Attributes:
        file: its bytes in UTF-8.
        encoding: that it was in.
        layout: of its JSON; None: CSV.
        start: its first bytes in UTF-8.
        whole: whether these are all.
    """

    file: IO[bytes]
    encoding: str
    layout: Layout | None
    start: bytes
    whole: bool

    def settle(self, uri: str, data: Data) -> CsvDialect | None:
        """The dialect of its CSV."""
        return settle_dialect(uri, self.start.decode("utf-8", "surrogateescape"), data, self.whole)


@contextmanager
def _open_text(uri: str, data: Data) -> Iterator[_TextFile]:
    with open_posts(uri, data) as file:
        start, whole = peek_start(file)
        kind = kind_of(uri)
        encoding = data.dialect.encoding or sniff_encoding(start)
        # JSON is UTF-8 by its standard: rows that are not are rejects, however many.
        if encoding is None and kind != "csv":
            encoding = "utf-8"
        if encoding is None:
            raise InputError(
                uri,
                "has an encoding that cannot be told: it is not UTF-8, and Windows-1252 would make"
                " odd words",
                "name it under data.dialect.encoding, such as cp1250, mac_roman or shift_jis",
            )
        text = as_utf8(file, encoding)
        start, fits = peek_start(text)
        layout = None if kind == "csv" else find_layout(uri, start, cast(Layout, kind))
        yield _TextFile(text, encoding, layout, start, whole and fits)


def _rows(uri: str, data: Data, lookup: x_api.Lookup) -> Iterator[Row]:
    if kind_of(uri) == "parquet":
        rows = enumerate(parquet_rows(uri, data), start=1)
        yield from ((line, _judge(row, data)) for line, row in rows)
        return
    with _open_text(uri, data) as text:
        if text.encoding == "cp1252" and not data.dialect.encoding:
            _warn_of_windows(uri)
        if text.layout is not None:
            yield from flatten(read_items(uri, text.file, text.layout, text.encoding), data, lookup)
        elif dialect := text.settle(uri, data):
            yield from _csv(text, dialect)


# Once, however often a preview reads the file.
@cache
def _warn_of_windows(uri: str) -> None:
    log.warning(
        "%s is read as Windows-1252, since it is not UTF-8; data.dialect.encoding names"
        " another encoding",
        uri,
    )


def _judge(row: Any, data: Data) -> Any:
    """A row of Parquet, with the verdict that a faulty cell makes of it where the recipe reads its
    column."""
    faults: dict[str, Any] = row.pop(FAULTS, {}) if isinstance(row, dict) else {}
    for name in _OURS if faults else ():
        column = data.columns.get(name, name)
        if column in faults:
            code, reason = faults[column]
            return {**row, VERDICT: [code, f"{column}: {reason}"]}
    return row


def _csv(text: _TextFile, dialect: CsvDialect) -> Iterator[Row]:
    """Rows by the names of the header; ``line`` is where a row ends, since texts may hold line
    breaks."""
    # A byte that is not UTF-8 comes through as half a pair, so that its row alone is rejected.
    lines = io.TextIOWrapper(text.file, encoding="utf-8", errors="surrogateescape", newline="")
    for _ in range(dialect.before):
        lines.readline(LONGEST_ROW)
    rows = split_rows(lines, dialect.signs, dialect.before, text.encoding)
    next(rows, None)  # the header
    for line, row in rows:
        try:
            yield line, row if isinstance(row, Rejected) else dialect.name_cells(row)
        except Rejected as exc:
            yield line, exc


def _includes_of(files: list[str], data: Data) -> SharedIncludes:
    def pages() -> Iterator[Mapping[str, Any]]:
        for file in files:
            if kind_of(file) in ("json", "jsonl"):
                with _open_text(file, data) as text:
                    if text.layout:
                        yield from _pages(read_items(file, text.file, text.layout, text.encoding))

    return SharedIncludes(pages)


def _pages(items: Iterator[Item]) -> Iterator[Mapping[str, Any]]:
    for _, item in items:
        for page in item if isinstance(item, list) else [item]:
            if isinstance(page, dict) and x_api.is_page(page):
                yield page


def _columns(uri: str, data: Data) -> tuple[str, ...]:
    names: dict[str, None] = {}
    for _, row in itertools.islice(read_rows(uri, data, lambda kind, key: {}), _SHOWN):
        names |= dict.fromkeys(map(str, row)) if isinstance(row, dict) else {}
    names.pop(VERDICT, None)
    return tuple(names)
