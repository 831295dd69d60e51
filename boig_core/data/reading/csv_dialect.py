"""The dialect of a CSV file, told from its start by what makes its rows even.

Each customary dialect splits the same lines; the one is taken under which the header names what the
recipe reads, and rows have as many cells as the header. Where none does, the file is refused in one
line: a value in the wrong column would be wrong in silence. Leaves out: splitting (see `csv_rows`).
"""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from boig_core.config import Data
from boig_core.data.reading.csv_rows import CsvSigns, split_rows
from boig_core.data.rejects import Rejected
from boig_core.errors import InputError

_DELIMITERS: Final = (",", ";", "\t", "|")
_QUOTES: Final = ('"', "'", "")
_ESCAPES: Final = ("", "\\")
_TITLE_LINES: Final = 30
"""Lines among which the header is looked for."""
_LEAST_EVEN: Final = 0.5
"""Share of the rows that have as many cells as the header, at least."""
_EXCEL_LINE: Final = re.compile(r'"?sep=([^\r\n])"?(\r\n|\r|\n)', re.IGNORECASE)
"""What Excel writes before the header, and leaves out when it reads."""


@dataclass(frozen=True)
class CsvDialect:
    """How a CSV file is read.

    Attributes:
        signs: what sets cells apart.
        columns: names of the first cells of each row, without the spaces around them; one without a
            name is empty.
        before: lines before the header's row.
        sniffed: settings that the recipe leaves to the file.
    """

    signs: CsvSigns
    columns: tuple[str, ...]
    before: int
    sniffed: frozenset[str]

    def name_cells(self, row: list[str]) -> dict[str, str]:
        """The cells by name; those without a name are left out.

        Raises:
            Rejected: ``bad_json``, there are more or fewer than the header names: which is whose
                cannot be told.
        """
        # Excel ends rows in empty cells, as many as its widest row has.
        if fault := _fault(row, len(self.columns)):
            raise Rejected("bad_json", fault)
        return {name: cell for name, cell in zip(self.columns, row, strict=False) if name}


@dataclass(frozen=True)
class _Reading:
    """The start of a file under one dialect."""

    signs: CsvSigns
    header: tuple[str, ...]
    before: int
    torn: float
    first_torn: str
    known: int
    rank: tuple[float, ...]


def settle_dialect(uri: str, start: str, data: Data, whole: bool) -> CsvDialect | None:
    """The dialect of a CSV file; None: it holds no row.

    Args:
        uri: that errors name.
        start: of its text.
        data: the recipe, whose settings and names of columns count.
        whole: whether the file has no more text.

    Raises:
        InputError: no dialect makes its rows even, or its header names a column twice.
    """
    excel = _EXCEL_LINE.match(start)
    if excel:
        start = start[excel.end() :]
    lines = start.splitlines(keepends=True)
    if not whole and len(lines) > 1:
        start = start[: -len(lines[-1])]
    names = _names(data)
    readings = [
        reading
        for signs in _candidates(start, data, excel and excel[1])
        if (reading := _read(start, signs, names))
    ]
    if not readings:
        return None
    best = min(readings, key=lambda reading: reading.rank)
    # Where the header is known, a torn row is a reject like any other.
    if best.torn > 1 - _LEAST_EVEN and best.known < 2:
        raise InputError(
            uri,
            f"has rows that do not match its header: {best.first_torn}",
            "name its delimiter, quote and escape under data.dialect, or take off what stands before"
            " the header",
        )
    repeated = sorted({name for name in best.header if name and best.header.count(name) > 1})
    if repeated:  # rows by name would silently keep the last of the two
        raise InputError(
            f"{uri}, line {best.before + 1}",
            f"has two columns of one name ({', '.join(name[:40] for name in repeated[:6])})",
            "name each column once",
        )
    chosen = data.dialect
    return CsvDialect(
        best.signs,
        best.header,
        best.before + (1 if excel else 0),
        frozenset(
            name for name in ("delimiter", "quote", "escape") if getattr(chosen, name) is None
        ),
    )


def _column_name(cell: str) -> str:
    """A name of the header without the white space around it; a line break in it is a space."""
    return " ".join(cell.split())


def _names(data: Data) -> frozenset[str]:
    """Columns that the recipe reads, by which a header is known."""
    ours = ("id", "account", "timestamp", "text", "image", "images")
    kpis = [part for kpi in (data.kpi, *data.more_kpis) for part in (kpi, *kpi.split("/"))]
    return frozenset(
        {str(data.columns.get(name, name)) for name in ours}  # type: ignore[call-overload]
        | set(kpis)
        | set(data.where)
        | {"company", "keywords", "licence"}
    )


def _candidates(start: str, data: Data, excel: str | None) -> Iterator[CsvSigns]:
    """Dialects that differ in how they read this text, the most customary first."""
    chosen = data.dialect
    head = "".join(start.splitlines(keepends=True)[:_TITLE_LINES])
    delimiters = [chosen.delimiter or excel or ""]
    if not delimiters[0]:
        delimiters = [sign for sign in _DELIMITERS if sign in head] or [","]
    quotes = _QUOTES if chosen.quote is None else (chosen.quote,)
    escapes = _ESCAPES if chosen.escape is None else (chosen.escape,)
    for sign, quote, escape in itertools.product(delimiters, quotes, escapes):
        # What stands nowhere changes nothing.
        opens = (
            f"(?m)(^|{re.escape(sign)}) *['\"]"
            if quote == ""
            else f"(?m)(^|{re.escape(sign)}) *{quote}"
        )
        if chosen.quote is None and quote != '"' and not re.search(opens, start):
            continue
        if (
            chosen.escape is None
            and escape
            and not re.search(rf"\\[{quote}{re.escape(sign)}]", start)
        ):
            continue
        # A quote that is its own escape is a doubled one.
        yield CsvSigns(sign, quote, "" if escape == quote else escape)
        if quote and re.search(f"{re.escape(sign)} +{re.escape(quote)}", start):
            yield CsvSigns(sign, quote, "" if escape == quote else escape, spaced=True)


def _read(start: str, signs: CsvSigns, names: Collection[str]) -> _Reading | None:
    """How even the rows are; None: there is no row."""
    rows = list(split_rows(io.StringIO(start, newline=""), signs))
    if not rows:
        return None
    place = _header_place([row for _, row in rows[:_TITLE_LINES]], names)
    cells = rows[place][1]
    header = [] if isinstance(cells, Rejected) else [_column_name(cell) for cell in cells]
    while header and not header[-1]:
        header.pop()
    width, below = len(header), rows[place + 1 :]
    torn = [
        f"line {line} {_fault(row, width)}" for line, row in below if _fault(row, width) is not None
    ]
    if isinstance(cells, Rejected):
        torn.insert(0, f"line {rows[place][0]} {cells.reason}")
    known = sum(name in names for name in header)
    rank = (
        width < 2,
        -known,
        len(torn) + _quoted_rows([row for _, row in rows[place:]], signs),
        -width,
    )
    share = len(torn) / max(1, len(below))
    before = rows[place - 1][0] if place else 0
    return _Reading(signs, tuple(header), before, share, (torn or [""])[0], known, rank)


def _header_place(rows: Sequence[list[str] | Rejected], names: Collection[str]) -> int:
    """Which row names the columns: the first that holds names which the recipe reads, else the
    first of several cells; lines of one cell before it are a title."""
    known = [
        0 if isinstance(row, Rejected) else sum(_column_name(cell) in names for cell in row)
        for row in rows
    ]
    filled = [
        2 if isinstance(row, Rejected) else sum(1 for cell in row if cell.strip()) for row in rows
    ]
    by_name = next((place for place, count in enumerate(known) if count > 1), None)
    if by_name is not None or known[0]:
        return by_name or 0
    return next((place for place, count in enumerate(filled) if count > 1), 0)


def _fault(row: list[str] | Rejected, width: int) -> str | None:
    """Why a row does not fit under the header."""
    if isinstance(row, Rejected):
        return None if row.code == "encoding" else row.reason
    if len(row) < width or any(map(str.strip, row[width:])):
        return f"has {len(row)} columns, the header names {width}"
    return None


def _quoted_rows(rows: Sequence[list[str] | Rejected], signs: CsvSigns) -> int:
    """Rows with cells in quotes that these signs take for text."""
    cells = [row for row in rows if not isinstance(row, Rejected)]
    if not signs.quote:
        return sum(any(_in_quotes(cell, '"') for cell in row) for row in cells)
    # One text may begin and end in quotes. A header, or a whole column, is quoted by them.
    header, *others = cells or [[]]
    columns = zip(*others, strict=False) if len(others) > 2 else ()
    quoted = [header, *columns] if len(header) < 2 else [[cell] for cell in header] + [*columns]
    return len(cells) if any(_all_quoted(column, signs) for column in quoted) else 0


def _all_quoted(column: Sequence[str], signs: CsvSigns) -> bool:
    other = "'" if signs.quote == '"' else '"'
    cells = [cell for cell in column if cell]
    spaced = (cell[0] == " " and _in_quotes(cell.lstrip(), signs.quote) for cell in cells)
    return bool(cells) and (all(_in_quotes(cell, other) for cell in cells) or all(spaced))


def _in_quotes(cell: str, quote: str) -> bool:
    return len(cell) > 1 and cell[0] == cell[-1] == quote
