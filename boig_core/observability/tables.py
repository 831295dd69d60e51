"""Tables for a terminal: within its width, no name cut, and without rows and columns that hold
nothing. Texts of strangers are shown as text: neither rich's markup nor an escape code of theirs
acts.

Where the columns do not fit side by side, the table goes on below with its first column again.
Leaves out: what the numbers are.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from boig_core.escapes import visible

WIDTH: Final = 80
"""Columns of the narrowest terminal that is written for."""
NOT_MEASURED: Final = "–"
_GAP: Final = 2
_NAME: Final = 30
"""Most room of a name where the columns do not fit side by side."""

Cells = Sequence[str | None]


def print_table(
    console: Console,
    title: str,
    columns: Sequence[str],
    rows: Mapping[str, Cells],
    reasons: Mapping[str, str] | None = None,
) -> None:
    """Print a table, and below it in words what was not measured.

    Args:
        console: where to; its width holds.
        title: above the table.
        columns: names of the columns, that of the rows' names first.
        rows: cells by the name of the row; None: not measured.
        reasons: why a row or column is empty, by its name.
    """
    filled = {
        name: cells for name, cells in rows.items() if any(cell is not None for cell in cells)
    }
    kept = [
        i for i in range(len(columns) - 1) if any(cells[i] is not None for cells in filled.values())
    ]
    empty = [name for name in rows if name not in filled]
    empty += [name for i, name in enumerate(columns[1:]) if filled and i not in kept]
    console.print(Text(f"\n{visible(title)}", style="italic"))
    names = _name_width(console.width, columns, filled, kept)
    for number, part in enumerate(_blocks(console.width, names, columns, filled, kept)):
        if number:
            console.print()
        present = {
            name: cells for name, cells in filled.items() if any(cells[i] is not None for i in part)
        }
        console.print(_table(names, columns, present, part))
    if empty:
        say(console, f"Not measured: {_grouped(empty, reasons or {})}")


def say(console: Console, text: str, indent: str = "", style: str = "") -> None:
    """Print a text in lines that are broken between words; a word that is longer than a line stays
    whole."""
    # Broken already; rich by itself would cut a path that is longer than a line.
    console.print(Text("\n".join(broken(text, console.width, indent)), style=style), soft_wrap=True)


def broken(text: str, width: int = WIDTH, indent: str = "", first: str | None = None) -> list[str]:
    """A text as lines of at most ``width``, later ones after ``indent``; a longer word, such as a
    path, stays whole. Control characters are written out."""
    begin = indent if first is None else first
    wrapper = textwrap.TextWrapper(
        width,
        initial_indent=begin,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
    # An empty text has no line at all for textwrap.
    return wrapper.wrap(visible(text)) or [begin.rstrip()]


def _blocks(
    width: int, names: int, columns: Sequence[str], rows: Mapping[str, Cells], kept: Sequence[int]
) -> Iterator[list[int]]:
    """Columns that fit side by side, after the names."""
    block, used = list[int](), names
    for i in kept:
        wide = _GAP + _cell_width(columns, rows, i)
        if block and used + wide > width:
            yield block
            block, used = [], names
        block, used = [*block, i], used + wide
    if block:
        yield block


def _name_width(
    width: int, columns: Sequence[str], rows: Mapping[str, Cells], kept: Sequence[int]
) -> int:
    """Room for the names: all they need where everything fits; longer names go on in the next
    line."""
    cells = [_GAP + _cell_width(columns, rows, i) for i in kept]
    longest = max([len(columns[0]), *(len(visible(name)) for name in rows)])
    if longest + sum(cells) <= width:
        return longest
    # Beside the names there must be room for the widest column of numbers.
    return max(len(columns[0]), min(longest, _NAME, width - max(cells, default=0)))


def _cell_width(columns: Sequence[str], rows: Mapping[str, Cells], i: int) -> int:
    return max([len(columns[i + 1]), *(len(_shown(cells[i])) for cells in rows.values())])


def _table(
    names: int, columns: Sequence[str], rows: Mapping[str, Cells], part: Sequence[int]
) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="bold")
    table.add_column(Text(columns[0]), overflow="fold", max_width=names)
    for i in part:
        table.add_column(Text(columns[i + 1]), justify="right", overflow="fold")
    for name, cells in rows.items():
        # In a plain string rich would take square brackets for markup.
        table.add_row(Text(visible(name)), *(Text(_shown(cells[i])) for i in part))
    return table


def _shown(cell: str | None) -> str:
    return visible(cell or NOT_MEASURED)


def _grouped(names: Iterable[str], reasons: Mapping[str, str]) -> str:
    by_reason: dict[str, list[str]] = {}
    for name in names:
        by_reason.setdefault(reasons.get(name, ""), []).append(name)
    return "; ".join(
        ", ".join(those) + (f" ({reason})" if reason else "") for reason, those in by_reason.items()
    )
