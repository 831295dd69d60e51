"""Numbers as exports write them: with signs between thousands, a point or a comma before decimals,
``1.2K``, ``3,4 Mio.``, ``12e2`` or ``3.4%``.

A text such as ``1,234`` is two numbers, and which of them is not decided here (see `conventions`).
"""

from __future__ import annotations

import re
from typing import Final

from boig_core.config import DecimalSign
from boig_core.data.cells.values import ascii_digits

_POWERS: Final = {
    3: "k thousand tsd тыс 千 천",
    4: "万 萬 만",
    5: "lakh lac",
    6: "m mi mio mln mn million millions млн",
    7: "crore cr",
    8: "亿 億 억",
    9: "b bn mrd billion billions млрд",
}
_SHIFTS: Final = {word: power for power, words in _POWERS.items() for word in words.split()} | {
    "": 0,
    "%": -2,
}
"""Power of ten by what stands after a number. ``mil`` is not there: it is a thousand in Spanish and
a million in English."""
_LONGEST: Final = 64
_SPACES: Final = " \u00a0\u2007\u2009\u202f'\u2019"
"""What may part thousands whatever parts decimals."""


def _pattern(decimal: str, group: str) -> re.Pattern[str]:
    # A group of thousands never begins with 0, so 0.034 is no 34.
    grouped = rf"[1-9]\d{{0,2}}(?P<sign>[{group}{_SPACES}])\d{{3}}(?:(?P=sign)\d{{3}})*"
    if group == ",":
        # In India all groups but the last have two digits.
        grouped += r"|[1-9]\d?(?:,\d\d)+,\d{3}"
    suffixes = "|".join(re.escape(word) for word in sorted(_SHIFTS, key=len, reverse=True))
    return re.compile(
        rf"(?P<minus>[+-]?)(?:(?P<grouped>{grouped})|(?P<whole>\d*))(?:{decimal}(?P<decimals>\d+))?"
        rf"(?:(?P<exponent>e[+-]?\d{{1,3}})|[ \u00a0\u202f]?(?P<suffix>{suffixes})(?<=[^.])\.?)",
        re.IGNORECASE,
    )


_PATTERNS: Final[dict[DecimalSign, re.Pattern[str]]] = {
    "point": _pattern(r"\.", ","),
    "comma": _pattern(",", r"\."),
}


def read_number(text: str) -> dict[DecimalSign, float]:
    """What a text says if a point parts its decimals, and if a comma does; empty: no number.

    With one entry the text proves which sign it is. With two that differ, such as those of
    ``1,234``, it can be read either way.
    """
    if len(text) > _LONGEST:
        return {}
    text = ascii_digits(text).strip()
    # Nearly all counts: nothing to settle.
    if text.isascii() and text.isdigit():
        return {"point": float(text), "comma": float(text)}
    readings: dict[DecimalSign, float] = {}
    for sign, pattern in _PATTERNS.items():
        if (value := _value(pattern.fullmatch(text))) is not None:
            readings[sign] = value
    return readings


def _value(match: re.Match[str] | None) -> float | None:
    if match is None:
        return None
    part = match.groupdict(default="")
    whole, decimals = re.sub(r"\D", "", part["grouped"]) or part["whole"], part["decimals"]
    # 1,234e3 is written by no program that parts thousands.
    if not whole + decimals or (part["grouped"] and part["exponent"]):
        return None
    power = int(part["exponent"][1:] or 0) + _SHIFTS[part["suffix"].lower()]
    # As one literal, so that 1.1K is 1100 and not a neighbor of it.
    return float(f"{part['minus']}{whole or '0'}.{decimals or '0'}e{power}")


_COUNTS: Final = """
likes loves favorites favourites reactions comments replies shares saves reposts retweets quotes bookmarks views plays impressions reach
clicks taps visits visitors follows followers subscribers downloads forwards sales votes upvotes interactions engagements
"""
_COUNTED: Final = frozenset(_COUNTS.split())
_NEUTRAL: Final = {"number", "num", "of", "total", "totals", "all", "post", "public", "and"}


def is_count(column: str) -> bool:
    """Whether a column holds whole numbers by its name alone, such as ``Likes``, ``like_count`` or
    ``stats.totalViews``: a text like ``1,234`` has one meaning there."""
    last = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", column.rsplit(".", 1)[-1])
    if "/" in column:
        return False
    words = [word for word in re.split(r"[\W_]+", last.lower()) if word]
    bare = set(words) - _NEUTRAL
    return words[-1:] == ["count"] or (bool(bare) and bare <= _COUNTED)
