"""Terminal output as an 80-column terminal gets it, and what holds for all of it."""

from __future__ import annotations

import io
from collections.abc import Callable

from rich.console import Console

WIDTH = 80


def rendered(show: Callable[[Console], object]) -> str:
    """What is printed, checked."""
    console = Console(file=io.StringIO(), width=WIDTH, force_terminal=False)
    show(console)
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    check_fits(text)
    return text


def check_fits(text: str) -> None:
    """No line is too long, nothing is cut, and no row has only dashes beside its name."""
    for line in text.splitlines():
        assert len(line.rstrip()) <= WIDTH, line
        assert "…" not in line, line
        cells = line.split()
        assert len(cells) < 2 or set("".join(cells[1:])) - set("-–—─━"), line
