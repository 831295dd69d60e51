"""The head of a training's log: which attempt it is, what it reads, and where it begins and why.

Leaves out: which checkpoint it is that a training goes on from (see `checkpoint`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from boig_core.storage.ancestry import Ancestry, Began

_BEGAN: Final[Mapping[Began, str]] = {
    "first": "the first",
    "retry": "a retry",
    "clear": "after a clear",
    "resume": "after a clear, resumed",
    "rerun": "run again",
}


@dataclass(frozen=True)
class Point:
    """A complete checkpoint: which attempt has left it, after how many steps, and where."""

    attempt: int
    step: int
    uri: str


def what_it_reads(
    attempt: int, ancestry: Ancestry, data: Mapping[str, str], base: str | None
) -> str:
    """First line: the attempt, how it came about, and what it is trained on.

    Args:
        attempt: its number.
        ancestry: what it may go on from.
        data: what it reads by name: URIs, or a digest where there is none.
        base: the model that it begins with; None: random weights.
    """
    asked_by = next(iter(ancestry.resumed.values())) if ancestry.began == "resume" else ()
    wish = f" at the wish of {', '.join(asked_by)}" if asked_by else ""
    read = [f"{name} {data[name]}" for name in ("dataset", "data") if name in data]
    parts = [f"attempt {attempt} ({_BEGAN[ancestry.began]}{wish})", *read]
    return " · ".join([*parts, "random weights" if base is None else f"base {base}"])


def where_it_begins(point: Point | None, passed_over: Sequence[tuple[int, str]]) -> str:
    """Second line: the checkpoint that it goes on from, or the start, and why no other.

    Args:
        point: the checkpoint; None: there is none to go on from.
        passed_over: of each one that is passed over its attempt and the reason.
    """
    attempts: dict[str, list[int]] = {}
    for attempt, why in passed_over:
        attempts.setdefault(why, []).append(attempt)
    notes = [
        f"{_count(len(each), 'checkpoint')} of {_named(each)} passed over: {why}"
        for why, each in attempts.items()
    ]
    if point is not None:
        return "; ".join([f"goes on from {point.uri}, step {point.step}", *notes])
    return f"trains from the start: {'; '.join(notes or ['there is no checkpoint'])}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _named(attempts: Sequence[int]) -> str:
    """Attempts by their numbers, each once."""
    numbers = sorted(set(attempts))
    return f"attempt{'' if len(numbers) == 1 else 's'} {', '.join(map(str, numbers))}"
