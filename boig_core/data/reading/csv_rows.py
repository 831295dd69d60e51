"""Rows of CSV: a file's lines become lists of cells under a dialect, one by one.

Strict about quotes: where one stands that the dialect does not know, the row is a reject, since its
cells could be read in two ways. Leaves out: which dialect a file has (see `csv_dialect`).
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, TextIO

from boig_core.data.reading.text_encoding import undecodable
from boig_core.data.rejects import Rejected

LONGEST_ROW: Final = 16 * 2**20
"""Characters of a row. Those of a good post are at most a million."""
_MOST_REREAD: Final = 64 * 2**20
"""Characters of a file that are read again behind quotes that never close."""
_UNDECODED: Final = re.compile("[\udc80-\udcff]")

CsvRow = tuple[int, list[str] | Rejected]
"""Line where a row ends, from 1, and its cells, or why it has none."""


@dataclass(frozen=True)
class CsvSigns:
    """What sets the cells of a row apart.

    Attributes:
        delimiter: between cells.
        quote: around cells; doubled it stands for itself. Empty: no cell is quoted.
        escape: before a quote, a delimiter or itself, which it makes ordinary. Empty: none.
        spaced: whether spaces behind a delimiter are left out, as before a quote they must be.
    """

    delimiter: str = ","
    quote: str = '"'
    escape: str = ""
    spaced: bool = False


def split_rows(
    text: TextIO, signs: CsvSigns, before: int = 0, encoding: str = "utf-8"
) -> Iterator[CsvRow]:
    """Cells of each row, blank rows left out; the first of them is the header.

    Args:
        text: that keeps its line ends, with half pairs in place of bytes that could not be decoded.
        signs: what sets cells apart.
        before: lines of the file that ``text`` leaves out at its start.
        encoding: that a reject names.
    """
    lines = _CsvLines(text, signs, before)
    rows = csv.reader(
        lines,
        delimiter=signs.delimiter,
        quotechar=signs.quote or None,
        quoting=csv.QUOTE_MINIMAL if signs.quote else csv.QUOTE_NONE,
        skipinitialspace=signs.spaced,
        strict=True,
    )
    # Asked by `next`, the reader goes on after a bad row, at which a `for` would end.
    while True:
        lines.start_row()
        try:
            row = next(rows)
        except StopIteration:
            return
        except Rejected as exc:
            yield lines.number, exc
        except csv.Error as exc:
            yield lines.leave_row(), Rejected("bad_json", f"is no CSV row ({exc})")
        else:
            if lines.undecoded:
                yield lines.number, undecodable(encoding)
            elif any(map(str.strip, row)):
                yield lines.number, lines.restore(row)


class _CsvLines:
    """Lines of a CSV file, and again those of a row that was none.

    A row may go over many lines, but not without end: a quote that never closes would take the
    whole file. It costs its own line: those behind it are read again, as rows of their own.
    """

    def __init__(self, text: TextIO, signs: CsvSigns, before: int) -> None:
        self._text = text
        self.number = before
        self._row: list[str] = []
        self._again: list[str] = []
        self._taken = self._reread = 0
        self.undecoded = False
        # Half pairs that no decoder makes stand for escaped signs, until the row is split.
        escaped = dict.fromkeys((signs.escape, signs.quote, signs.delimiter))
        self._hidden = {sign: chr(0xD800 + nr) for nr, sign in enumerate(filter(None, escaped))}
        self._escape = signs.escape
        self._find = re.compile(
            f"{re.escape(signs.escape)}([{''.join(map(re.escape, self._hidden))}])"
        )

    def __iter__(self) -> _CsvLines:
        return self

    def __next__(self) -> str:
        line = self._again.pop() if self._again else self._text.readline(LONGEST_ROW)
        if not line:
            raise StopIteration
        self.number += 1
        self._row.append(line)
        self._taken += len(line)
        if self._taken >= LONGEST_ROW:
            while line and not line.endswith(("\n", "\r")):
                line = self._text.readline(LONGEST_ROW)
            raise Rejected("row_too_large", f"the row has {LONGEST_ROW} bytes or more")
        if not line.isascii() and _UNDECODED.search(line):
            self.undecoded = True
        if self._escape and self._escape in line:
            return self._find.sub(lambda match: self._hidden[match[1]], line)
        return line

    def start_row(self) -> None:
        """Let go of the lines of the row before."""
        self._row.clear()
        self._taken, self.undecoded = 0, False

    def leave_row(self) -> int:
        """Give up a row at its first line, whose number is returned; those behind it come again."""
        first, *others = self._row
        size = self._taken - len(first)
        if self._reread + size > _MOST_REREAD:  # else a file of open quotes takes forever
            return self.number
        self._reread += size
        self.number -= len(others)
        self._again += reversed(others)
        return self.number

    def restore(self, row: list[str]) -> list[str]:
        """The cells with their escaped signs."""
        if self._escape:
            for sign, hidden in self._hidden.items():
                row = [cell.replace(hidden, sign) for cell in row]
        return row
