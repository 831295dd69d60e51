"""Suggestions: the lines of a recipe that save what an ingestion would lose, each tried before it
is shown.

A line is proposed where the file leaves no doubt: a column whose name says what it holds, a
convention of dates or numbers that reads more rows than any other. All are tried together, and
then each is left out once: a line whose absence loses nothing is not needed. Leaves out: what is
lost (see `preview`), and the file that they are written into (see `boig_core.cli.preview`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import PurePosixPath
from typing import Any, Final, get_args

from boig_core.config import Data, DateOrder, DecimalSign
from boig_core.config.presets import PRESETS
from boig_core.data import column_names, posts, preview
from boig_core.data.posts import Reject
from boig_core.data.preview import ColumnValues, Outlook
from boig_core.data.reading import sources
from boig_core.data.reading.opening import path_of
from boig_core.data.reading.sources import Row
from boig_core.data.rejects import CHOICES
from boig_core.errors import InputError
from boig_core.storage import store

_TRIED: Final = 5000
"""Rows that a line is tried on: enough to tell what it saves, and read again in half a second."""
_CONVENTIONS: Final[Mapping[str, tuple[str, tuple[str, ...]]]] = {
    "dates": ("bad_timestamp", get_args(DateOrder)),
    "numbers": ("bad_kpi", get_args(DecimalSign)),
}
"""Code of what is rejected without it, and the values that may be tried, by the field."""
_HEADER: Final = ("columns", "kpi", "more_kpis", "where")
_NAMED: Final = 30
"""Columns of a file that a question names."""
_KNOWN: Final = 3
"""Columns by which a preset is known, at least."""
_BARE: Final = 0.2
"""Share of samples without a bucket from which on other floors are proposed."""
_ANY_TEXT: Final = re.compile(r"the text has (\d+) characters, at least")


@dataclass(frozen=True)
class Suggestion:
    """A line of the section ``data``.

    Attributes:
        path: field, and key where the field is a mapping: ``("columns", "text")``.
        value: as YAML has it; None where the file leaves it open, and ``why`` names the choice.
        why: one sentence.
        saves: what is lost without this line and kept with it.
        of: what is lost without any of the lines.
        unit: what is counted, ``rows`` or ``posts``.
    """

    path: tuple[str, ...]
    value: Any
    why: str
    saves: int = 0
    of: int = 0
    unit: str = "rows"

    @property
    def name(self) -> str:
        """As the recipe's reference names the field."""
        return ".".join(("data", *self.path))


@dataclass(frozen=True)
class Tally:
    """What becomes of the rows that lines are tried on.

    Attributes:
        rows: that were read, choices of the recipe apart.
        kept: posts, each id once.
        codes: rejects by code.
        shortest: characters of the shortest text that was too short; None where none was.
    """

    rows: int = 0
    kept: int = 0
    codes: Counter[str] = field(default_factory=Counter)
    shortest: int | None = None


class Trials:
    """The first rows of an export, read again under other rules.

    Attributes:
        location: of the export, normalized.
    """

    def __init__(self, location: str) -> None:
        self.location = store.normalize_source(location)
        self._rows: dict[str, list[tuple[str, list[Row]]]] = {}

    def exports(self, data: Data) -> list[tuple[str, list[Row]]]:
        """Files with their rows, which are kept."""
        # The header of a CSV file is known by the names that the recipe reads.
        key = str(data.model_dump(include={"dialect", *_HEADER}))
        if key not in self._rows:
            left, exports = _TRIED, []
            for file, rows in sources.read_export(self.location, data):
                exports.append((file, list(islice(rows, left))))
                left -= len(exports[-1][1])
                if not left:
                    break
            self._rows[key] = exports
        return self._rows[key]

    def columns(self, data: Data) -> dict[str, ColumnValues]:
        """The columns that these rows have."""
        columns: dict[str, ColumnValues] = {}
        for _, rows in self.exports(data):
            for _ in preview.describe_columns(rows, columns):
                pass
        return columns

    def read(self, data: Data) -> Tally:
        """Read them under these rules."""
        try:
            exports = self.exports(data)
        except InputError:
            # Under other names of columns a header may be none.
            return Tally()
        ids: set[str] = set()
        codes: Counter[str] = Counter()
        lengths: list[int] = []
        total = 0
        for file, rows in exports:
            for item in posts.accept(file, rows, data):
                total += 1
                if not isinstance(item, Reject):
                    ids.add(item[1].id)
                    continue
                codes[item.code] += 1
                if item.code == "text_too_short" and (match := _ANY_TEXT.search(item.reason)):
                    lengths.append(int(match[1]))
        chosen = sum(codes[code] for code in CHOICES)
        return Tally(total - chosen, len(ids), codes, min(lengths, default=None))

    def look(self, data: Data, seed: int) -> Outlook:
        """What becomes of them."""
        return preview.look(self.exports(data), data, seed)


def suggest(trials: Trials, data: Data, seed: int) -> tuple[Suggestion, ...]:
    """The lines that an export needs, and no others.

    Args:
        trials: the export.
        data: the recipe's rules so far.
        seed: of samples and splits.
    """
    before = trials.read(data)
    if not before.rows:
        return ()
    lines = list(_preset_lines(trials, data)) if data.preset is None else []
    for propose in _PROPOSALS:
        lines += propose(trials, with_lines(data, lines))
    needed = _needed(trials, data, lines, before)
    return (*needed, *_floor_lines(trials, with_lines(data, needed), seed))


def with_lines(data: Data, lines: Iterable[Suggestion]) -> Data:
    """The rules with these lines."""
    # Without defaults, in whose place those of a preset may come.
    tree = data.model_dump(exclude_unset=True)
    for line in lines:
        if line.value is None:
            continue
        node = tree
        for name in line.path[:-1]:
            node = node.setdefault(name, {})
        node[line.path[-1]] = line.value
    return Data.model_validate(tree)


def resolved(data: Data, name: str) -> str:
    """What an export calls one of our columns."""
    return {str(ours): theirs for ours, theirs in data.columns.items()}.get(name, name)


def _preset_lines(trials: Trials, data: Data) -> Iterator[Suggestion]:
    """The preset whose columns the file has, all of them, if the recipe does not read them yet."""
    columns = trials.columns(data)
    for name, defaults in PRESETS.items():
        theirs = {theirs for theirs in defaults["columns"].values() if theirs[:1] != "="}
        if len(theirs) >= _KNOWN and all(
            column_names.has_values(columns, column) for column in (*theirs, defaults["kpi"])
        ):
            yield Suggestion(("preset",), name, f"its columns are those of the export {name}")
            return


def _column_lines(trials: Trials, data: Data) -> Iterator[Suggestion]:
    """A column that the file lacks under our name, and has under another that says the same."""
    columns = trials.columns(data)
    for ours in column_names.NAMES:
        own = {resolved(data, ours), *([resolved(data, "images")] if ours == "image" else [])}
        lossy = ours == "id" and any(column_names.is_lossy(columns.get(name)) for name in own)
        if not lossy and any(
            name[:1] == "=" or column_names.has_values(columns, name) for name in own
        ):
            continue
        theirs = column_names.match_by_values(columns, ours, distinct=ours == "id")
        if theirs is not None:
            lack = (
                f"{' and '.join(own)} has lost its last digits"
                if lossy
                else f"the file has no {ours}"
            )
            yield Suggestion(("columns", ours), theirs, f"{lack}, but there is {theirs}")
        elif ours == "account":
            name = place_name(trials.location)
            why = "the file names no account, so all posts share one"
            yield Suggestion(("columns", ours), f"={name}", why)
        else:
            yield _open_column(("columns", ours), ours, columns)
    whole = (data.kpi,) if column_names.has_values(columns, data.kpi) else data.kpi.split("/")
    if not all(column_names.has_values(columns, name) for name in whole):
        kpi = column_names.match_column(columns, column_names.KPIS)
        if kpi is not None and "/" not in kpi:
            yield Suggestion(("kpi",), kpi, f"the file has no {data.kpi}, but there is {kpi}")
        else:
            yield _open_column(("kpi",), data.kpi, columns)


def _open_column(
    path: tuple[str, ...], ours: str, columns: Mapping[str, ColumnValues]
) -> Suggestion:
    """A column that no row can do without, and that none of the file surely is."""
    names = ", ".join(list(columns)[:_NAMED])
    return Suggestion(path, None, f"which column is {ours}? The file has {names}")


def place_name(location: str) -> str:
    """What an export is called: by its file, or by its folder where the file's name says
    nothing."""
    path = PurePosixPath(path_of(store.normalize_source(location)))
    stem = path.name.split(".")[0]
    generic = not stem or stem in {"posts", "export"} or re.search(r"[*?\[]", path.name)
    return (path.parent.name if generic and path.parent.name else stem) or "posts"


def _convention_lines(trials: Trials, data: Data) -> Iterator[Suggestion]:
    """A convention of dates or numbers that reads what is rejected without it; of two that read as
    much, none: which of them is right, only the export's writer knows."""
    for name, (code, values) in _CONVENTIONS.items():
        before = trials.read(data).codes[code]
        left = {
            value: trials.read(with_lines(data, [Suggestion((name,), value, "")])).codes[code]
            for value in (values if before else ())
        }
        best = min(left.values(), default=before)
        right = [value for value in values if left.get(value) == best < before]
        if len(right) == 1:
            yield Suggestion((name,), right[0], f"{right[0]} alone reads what was {code}")
        elif right:
            why = f"the file does not tell which of {', '.join(right)} is meant"
            yield Suggestion((name,), None, why, saves=before - best, of=before)


def _text_lines(trials: Trials, data: Data) -> Iterator[Suggestion]:
    """Texts that are shorter than the recipe asks for."""
    tally = trials.read(data)
    if tally.shortest is not None:
        why = f"the shortest text has {tally.shortest} characters"
        yield Suggestion(("min_text",), tally.shortest, why)


def _floor_lines(trials: Trials, data: Data, seed: int) -> Iterator[Suggestion]:
    """Floors that most posts do not exceed, as where the KPI is a rate."""
    outlook = trials.look(data, seed)
    total, bare = sum(outlook.buckets.values()), outlook.buckets.get("none", 0)
    if bare <= _BARE * total:
        return
    line = Suggestion(
        ("floors",),
        [0, 0, 0],
        f"{data.kpi} does not exceed {data.floors[0]:g} in {bare:,} of {total:,} samples",
        of=bare,
        unit="samples without a bucket",
    )
    after = trials.look(with_lines(data, [line]), seed)
    if (saves := bare - after.buckets["none"]) > 0:
        yield replace(line, saves=saves)


def _needed(
    trials: Trials, data: Data, lines: Sequence[Suggestion], before: Tally
) -> list[Suggestion]:
    """The lines without which rows are lost, each with what it saves, and those that are still to
    be decided. While a column is to be named no row is saved, so all that name others stay."""
    settled = [line for line in lines if line.value is not None]
    with_all = trials.read(with_lines(data, settled))
    needed = [line for line in lines if line.value is None]
    is_open = any(line.path[0] in _HEADER for line in needed)
    for line in settled:
        others = [other for other in settled if other is not line]
        saves = with_all.kept - trials.read(with_lines(data, others)).kept
        if saves > 0 or (is_open and line.path[0] in {"preset", *_HEADER}):
            needed.append(replace(line, saves=saves, of=with_all.rows - before.kept))
    return needed


_PROPOSALS: Final = (_column_lines, _convention_lines, _text_lines)
"""In this order: what a column says shows only when it is known which it is."""
