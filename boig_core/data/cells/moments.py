"""Times as exports write them: ISO-8601, dates with points or slashes, names of months, seconds to
nanoseconds since 1970.

A date such as ``05/06/2023`` is two days, and which of them is not decided here (see
`conventions`). Only forms that are listed here are read, since a parser that takes anything takes
epoch milliseconds for a day of the year 1612. Leaves out: which times count (see `posts`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any, Final

from boig_core.config import DateOrder
from boig_core.data.cells.values import ascii_digits, plain

_YEARS: Final = range(1990, 2101)
"""Those that a number may stand for."""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_SINCE: Final = int(datetime(1990, 1, 1, tzinfo=UTC).timestamp())
_UNTIL: Final = int(datetime(2100, 1, 1, tzinfo=UTC).timestamp())
_UNITS: Final = (1, 10**3, 10**6, 10**9)
"""Seconds, milli-, micro- and nanoseconds: between 1990 and 2100 no number is a time of two."""
_SERIAL_DAYS: Final = range(32_874, 73_051)
"""1990 to 2100 as a spreadsheet counts days; the other of its two calendars starts in 1904."""
_SPREADSHEET_ZERO: Final = datetime(1899, 12, 30)

_LONGEST: Final = 100
_MARKS: Final = dict.fromkeys((0x200E, 0x200F, 0xFEFF))

_NAMES: Final = """
January February March April May June July August September October November December
"""
_MONTHS: Final = {name[:3].lower(): number for number, name in enumerate(_NAMES.split(), start=1)}
_WEEKDAY: Final = r"(?:(?:mon|tue|wed|thu|fri|sat|sun)[a-z]*\.?,?\s+)?"
_MONTH: Final = (
    rf"(?P<name>{'|'.join(f'{name[:3]}(?:{name[3:]})?' for name in _NAMES.split())}|sept)\.?"
)
_TIME: Final = (
    r"(?P<hour>\d{1,2}):(?P<minute>\d\d)(?::(?P<second>\d\d)(?:[.,](?P<fraction>\d{1,9}))?)?"
    r"(?:\s*(?P<half>[ap])\.?m\.?)?(?:\s*uhr)?"
)
_ZONE: Final = (
    r"(?:\s*(?P<zone>z|(?:utc|gmt)?\s*[+-]\d{1,2}(?::?\d\d)?|utc|gmt))?(?:\s*\([a-z ]+\))?"
)
_DATES: Final = (
    r"(?P<first>\d{1,2})(?P<sign>[./-])(?P<second_part>\d{1,2})(?P=sign)(?P<year>\d{4})",
    r"(?P<year>\d{4})(?P<sign>[./-])(?P<month>\d{1,2})(?P=sign)(?P<day>\d{1,2})",
    r"(?P<year>\d{4})年\s?(?P<month>\d{1,2})月\s?(?P<day>\d{1,2})日",
    rf"{_WEEKDAY}{_MONTH}\s+(?P<day>\d{{1,2}})(?:st|nd|rd|th)?,?\s+(?P<year>\d{{4}})",
    rf"{_WEEKDAY}(?P<day>\d{{1,2}})(?:st|nd|rd|th|\.)?[\s-]+{_MONTH},?[\s-]+(?P<year>\d{{4}})",
)
_X: Final = rf"{_WEEKDAY}{_MONTH}\s+(?P<day>\d{{1,2}})\s+{_TIME}{_ZONE}\s+(?P<year>\d{{4}})"
_FORMS: Final = tuple(
    re.compile(form, re.IGNORECASE | re.ASCII)
    for form in (
        *(rf"{date}(?:(?:t|,?\s+(?:at\s+)?|\s*·\s*){_TIME}{_ZONE})?" for date in _DATES),
        *(rf"{_TIME}(?:,?\s+|\s*·\s*){date}" for date in _DATES),
        _X,
    )
)
_COMPACT: Final = {8: "%Y%m%d", 12: "%Y%m%d%H%M", 14: "%Y%m%d%H%M%S"}


class UnreadableMomentError(ValueError):
    """Why a value is no time, as the end of a sentence that begins with it."""


def read_moment(value: Any) -> dict[DateOrder, datetime]:
    """The time that a value is if days come before months, and if months do; each in UTC.

    With one entry the value proves the order. With two that differ, such as those of
    ``05/06/2023``, it can be read either way.

    Args:
        value: a text, a number or a time; a time without a zone is in UTC.

    Raises:
        UnreadableMomentError: it is no time.
    """
    try:
        if isinstance(value, datetime):
            return _sure(value)
        if isinstance(value, (bytes, bytearray)):
            value = plain(value)
        if isinstance(value, (bool, Mapping, list)):
            raise UnreadableMomentError("is no time")
        text = str(value)
        if len(text) > _LONGEST:
            raise UnreadableMomentError("is too long for a time")
        # Some programs put narrow spaces before PM and marks of direction before dates.
        text = " ".join(ascii_digits(text.translate(_MARKS)).split())
        if re.fullmatch(r"\d{4}-\d\d-\d\d(?:[T ][\d:.]+(?:Z|[+-]\d\d:?\d\d)?)?", text):
            return _sure(datetime.fromisoformat(text))
        if isinstance(value, (int, float, Decimal)) or re.fullmatch(r"\d+(\.\d+)?", text):
            return _sure(_from_number(Decimal(text)))
        if re.fullmatch(r"\d[.,]\d+e\+?\d+", text, re.IGNORECASE):
            raise UnreadableMomentError(
                "has lost its last digits in a spreadsheet: export the column as text"
            )
        if re.fullmatch(r"\d{8}T\d{4,6}(?:Z|[+-]\d\d:?\d\d)?|\d{4}-?W\d\d-?\d.*", text):
            return _sure(datetime.fromisoformat(text))
        return _from_text(text)
    except UnreadableMomentError:
        raise
    except (ValueError, OverflowError, ArithmeticError) as exc:
        raise UnreadableMomentError(f"is no day and time of the calendar ({exc})") from exc


def _sure(moment: datetime) -> dict[DateOrder, datetime]:
    moment = _utc(moment)
    return {"day-first": moment, "month-first": moment}


def _utc(moment: datetime) -> datetime:
    # `astimezone` would read a time without a zone in that of the machine.
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def _from_number(number: Decimal) -> datetime:
    """A time by the size of a number: since 1970 in one of four units, or the digits of a day."""
    digits = str(int(number)) if number == int(number) else ""
    if len(digits) == 10 and _reads_as(digits, "%Y%m%d%H"):
        raise UnreadableMomentError(
            "can be seconds since 1970 or a year, month, day and hour: write it as 2023-05-31T14:00"
        )
    for unit in _UNITS:
        if _SINCE <= number / unit < _UNTIL:
            return _EPOCH + timedelta(microseconds=int(number * 10**6 / unit))
    if (form := _COMPACT.get(len(digits))) and (moment := _reads_as(digits, form)):
        return moment
    if int(number) in _SERIAL_DAYS:
        day = (_SPREADSHEET_ZERO + timedelta(days=int(number))).date()
        raise UnreadableMomentError(
            f"is a spreadsheet's count of days ({day}, or four years later): format the column as a date "
            "before the export"
        )
    raise UnreadableMomentError(
        "is no time: as seconds, milli-, micro- or nanoseconds since 1970 it lies outside 1990 to 2100"
    )


def _reads_as(digits: str, form: str) -> datetime | None:
    try:
        moment = datetime.strptime(digits, form)
    except ValueError:
        return None
    return moment if moment.year in _YEARS else None


def _from_text(text: str) -> dict[DateOrder, datetime]:
    match = next((match for form in _FORMS if (match := form.fullmatch(text))), None)
    if match is None:
        if re.search(r"(?<!\d)\d{1,2}[./-]\d{1,2}[./-]\d\d(?!\d)", text):
            raise UnreadableMomentError("has a year of two digits: write all four")
        if re.search(r":\d\d\s*[A-Z]{2,5}$", text):
            raise UnreadableMomentError(
                "ends in the name of a time zone, which several have: write +02:00 or the like"
            )
        raise UnreadableMomentError(
            "is none of the forms that are read, such as 2023-05-31T14:30:00Z, 31.05.2023 14:30 or "
            "May 31, 2023"
        )
    part = match.groupdict()
    if not part.get("first"):
        month = _MONTHS[part["name"][:3].lower()] if part.get("name") else int(part["month"])
        return _sure(_at(part, month, int(part["day"])))
    first, second = int(part["first"]), int(part["second_part"])
    # In no country do months come first and points between.
    if part["sign"] == ".":
        return _sure(_at(part, second, first))
    readings: dict[DateOrder, datetime] = {}
    if second <= 12:
        readings["day-first"] = _utc(_at(part, second, first))
    if first <= 12:
        readings["month-first"] = _utc(_at(part, first, second))
    if not readings:
        raise UnreadableMomentError("is no day of the calendar: it has no month")
    return readings


def _at(part: Mapping[str, str | None], month: int, day: int) -> datetime:
    hour = int(part["hour"] or 0)
    if half := part["half"]:
        if not 1 <= hour <= 12:
            raise UnreadableMomentError(f"is no time of the day: {hour} {half}m")
        hour = hour % 12 + 12 * (half.lower() == "p")
    return datetime(
        int(part["year"] or 0),
        month,
        day,
        hour,
        int(part["minute"] or 0),
        int(part["second"] or 0),
        int((part["fraction"] or "")[:6].ljust(6, "0")),
        _zone(part.get("zone")),
    )


def _zone(text: str | None) -> timezone:
    match = re.search(r"([+-])(\d{1,2}):?(\d\d)?$", text or "")
    if match is None:
        return UTC
    offset = timedelta(hours=int(match[2]), minutes=int(match[3] or 0))
    return timezone(-offset if match[1] == "-" else offset)
