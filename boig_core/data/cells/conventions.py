"""Conventions: what one file means by ``05/06/2023`` and ``1,234``, settled by its other values.

A value that can be read in two ways is not guessed. The recipe decides (``data.dates``,
``data.numbers``), or a value of the same column that only one way explains, such as ``31/05/2023``
or ``1,5``. Rows with an open value wait until the whole file was seen, so that the result does not
depend on the order of rows. Leaves out: the forms of values (see `numbers` and `moments`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any

from boig_core.config import Data, DateOrder, DecimalSign
from boig_core.data.cells.moments import UnreadableMomentError, read_moment
from boig_core.data.cells.numbers import is_count, read_number
from boig_core.data.cells.values import is_missing, plain, value_at
from boig_core.data.rejects import Rejected


@dataclass
class _Column:
    """What the values of a numeric column have shown: which sign parts their decimals, whether
    there are any, whether its name alone says that there are none, and which sign parts decimals if
    it is right: 4,290 likes are whole under one alone, 3,000 under both."""

    counted: bool
    fractions: bool = False
    signs: set[DecimalSign] = field(default_factory=set)
    signs_of_counts: set[DecimalSign] = field(default_factory=set)

    def learn(self, readings: Mapping[DecimalSign, float]) -> None:
        if len(readings) == 1:
            self.signs.update(readings)
        if len(values := set(readings.values())) == 1:
            self.fractions |= not values.pop().is_integer()
        elif len(whole := [sign for sign, value in readings.items() if value.is_integer()]) == 1:
            self.signs_of_counts.update(whole)

    def choose(self, readings: Mapping[DecimalSign, float]) -> float | None:
        signs = self.signs
        if self.counted and not self.fractions:
            whole = [value for value in readings.values() if value.is_integer()]
            if len(whole) == 1:
                return whole[0]
            signs = signs | self.signs_of_counts
        return readings[next(iter(signs))] if len(signs) == 1 else None


class Conventions:
    """How one file writes times and numbers, as far as its rows have shown.

    Attributes:
        mended: posts with letters of another encoding (see `texts.mend`).
    """

    def __init__(self, data: Data) -> None:
        self._dates, self._numbers = data.dates, data.numbers
        self._orders: set[DateOrder] = set()
        self._columns = {name: _Column(is_count(name)) for name in kpi_columns(data)}
        self.mended = 0

    @property
    def dates(self) -> DateOrder | None:
        """What comes first in a date: what the recipe says, else what the file proves."""
        proven = next(iter(self._orders)) if len(self._orders) == 1 else None
        return self._dates or proven

    def numbers(self, column: str) -> DecimalSign | None:
        """The sign before the decimals of a KPI's column: what the recipe says, else what the file
        proves."""
        signs = self._columns[column].signs
        return self._numbers or (next(iter(signs)) if len(signs) == 1 else None)

    def learn(self, fields: Mapping[str, Any]) -> bool:
        """Take the values of a row as evidence; returns whether one of them is open, so that the
        row has to wait for all others."""
        is_open = False
        moment = value_at(fields, "timestamp")
        # Nearly all times: ISO-8601 has one reading.
        if isinstance(moment, str) and not (moment[:4].isdigit() and moment[4:5] == "-"):
            try:
                readings = read_moment(moment)
            except UnreadableMomentError:
                readings = {}
            if len(readings) == 1:
                self._orders.update(readings)
            is_open = self._dates is None and len(set(readings.values())) > 1
        for name, column in self._columns.items():
            value = value_at(fields, name)
            if isinstance(value, str) and not value.isdigit():
                numbers = read_number(value)
                column.learn(numbers)
                is_open |= self._numbers is None and len(set(numbers.values())) > 1
            elif isinstance(value, float) and not value.is_integer():
                column.fractions |= not math.isnan(value)
        return is_open

    def settle(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """A row whose open values are written so that they have one reading, as far as the file or
        the recipe settles them: kept so, it can be read without its file."""
        settled: dict[str, Any] = {}
        for name in ("timestamp", *self._columns):
            value = value_at(fields, name)
            try:
                if not isinstance(value, str) or is_missing(value):
                    continue
                if name == "timestamp":
                    if len(set(read_moment(value).values())) > 1:
                        settled[name] = iso(self.moment(value, name))
                elif len(set(read_number(value).values())) > 1:
                    settled[name] = self.number(value, name)
            except (Rejected, UnreadableMomentError):
                continue
        return {**fields, **settled}

    def moment(self, value: Any, name: str) -> datetime:
        """The time of a post in UTC.

        Args:
            value: not missing.
            name: of its column, as a message names it.

        Raises:
            Rejected: it is no time, or can be two.
        """
        shown = f"{name} {str(value)[:40]!r}"
        try:
            readings = read_moment(value)
        except UnreadableMomentError as exc:
            raise Rejected("bad_timestamp", f"{shown} {exc}") from exc
        if len(set(readings.values())) == 1:
            if self._dates and self._dates not in readings:
                raise Rejected(
                    "bad_timestamp",
                    f"{shown} is not {self._dates}, as data.dates says of this export",
                )
            return next(iter(readings.values()))
        if (order := self.dates) is None:
            days = " or ".join(moment.date().isoformat() for moment in readings.values())
            raise Rejected(
                "bad_timestamp",
                f"{shown} is {days}, and {_others(self._orders)}: set data.dates to day-first or "
                "month-first",
            )
        return readings[order]

    def number(self, value: Any, column: str) -> float:
        """A KPI.

        Args:
            value: not missing.
            column: where it stands, of `kpi_columns`.

        Raises:
            Rejected: it is no number of at least 0, or can be two.
        """
        shown = f"{column} = {str(value)[:40]!r}"
        number = self._read(plain(value) if isinstance(value, bytes) else value, column, shown)
        if number == -1:
            raise Rejected(
                "bad_kpi",
                f"{shown} is no number of at least 0: exports write -1 for a hidden count",
            )
        if not math.isfinite(number) or number < 0:
            raise Rejected("bad_kpi", f"{shown} is not a number of at least 0")
        return number

    def _read(self, value: Any, column: str, shown: str) -> float:
        if isinstance(value, Mapping):
            inner = ", ".join(str(key)[:40] for key in list(value)[:6])
            raise Rejected(
                "bad_kpi", f"{shown} is an object with {inner}: data.kpi can name one after a dot"
            )
        # `float` would take true for 1.
        if isinstance(value, (int, float, Decimal)) and not isinstance(value, bool):
            try:
                return float(value)
            except OverflowError:
                return math.inf
        readings = read_number(value) if isinstance(value, str) else {}
        if not readings:
            return math.nan
        if len(set(readings.values())) == 1:
            if self._numbers and self._numbers not in readings:
                raise Rejected(
                    "bad_kpi",
                    f"{shown} has no decimals after a {self._numbers}, as data.numbers says of this export",
                )
            return next(iter(readings.values()))
        if self._numbers:
            return readings[self._numbers]
        seen = self._columns[column]
        if (chosen := seen.choose(readings)) is None:
            numbers = " or ".join(f"{number:.15g}" for number in readings.values())
            raise Rejected(
                "bad_kpi",
                f"{shown} is {numbers}, and {_others(seen.signs)}: set data.numbers to point or comma, "
                "whichever stands before decimals",
            )
        return chosen


def kpi_columns(data: Data) -> tuple[str, ...]:
    """Columns that a recipe's KPIs may be read from: each KPI, and both parts of a rate."""
    names = [data.kpi, *data.more_kpis]
    parts = [part for name in names if "/" in name for part in name.split("/")]
    return tuple(dict.fromkeys([*names, *parts]))


def iso(moment: datetime) -> str:
    """A time in UTC as posts keep it, to the second."""
    # `strftime` writes years below 1000 with fewer digits.
    return moment.replace(tzinfo=None).isoformat(timespec="seconds") + "Z"


def _others(proven: set[Any]) -> str:
    return (
        "other values of the column are written in both ways"
        if proven
        else "no other value of the column says which"
    )
