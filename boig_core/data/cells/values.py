"""Plain values of a row: what counts as missing, and how numbers, bytes and objects become ids,
names and texts.

Table programs write what is missing in many ways, and ids as floats. Nothing is guessed here: what
is not surely a value is missing or rejected. Leaves out: numbers (see `numbers`), times (see
`moments`), and what a text may say (see `texts`).
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final

from boig_core.data.rejects import Rejected

_NOTHING: Final = """
nan NaN NAN -nan -NaN NaT nat null Null NULL (null) None none NONE nil <NA> NA N/A n/a #N/A
#NA undefined \\N - -- – — #DIV/0! #NAME? #NULL! #NUM! #REF! #VALUE!
"""
_MISSING: Final = frozenset(_NOTHING.split())
"""How table programs write that there is nothing: pandas, R, SQL, JavaScript and spreadsheets."""
_EXACT: Final = 2**53
"""Up to here a float holds each whole number; beyond, the last digits of an id are lost."""
_IN_POWERS: Final = re.compile(r"\d(?:[.,]\d+)?[eE]\+\d+")
_WHOLE: Final = re.compile(r"\d+\.0")
_CONTROL: Final = re.compile(r"[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f]+")
_INVISIBLE: Final = " \t\r\n\ufeff\u200b\u200c\u200d\u2060"
BINARY: Final = "bytes that are no text"
"""Key of the object that stands in a row for bytes that are no UTF-8; its value is their number."""


def plain(value: Any) -> Any:
    """A value that JSON lacks, as one that it has: bytes as their text, exact decimals as numbers,
    times and the like as texts."""
    if isinstance(value, (bytes, bytearray, memoryview)):
        try:
            return bytes(value).decode()
        except UnicodeDecodeError:
            return {BINARY: len(value)}
    if isinstance(value, Decimal):
        # An id may have more digits than a float.
        whole = value.is_finite() and value == value.to_integral_value()
        return int(value) if whole else float(value)
    return str(value)


def value_at(fields: Mapping[str, Any], path: str) -> Any:
    """Value of a column, or of a nested one by its dotted path; a column whose own name has dots
    comes first. None: there is none."""
    # Some exports have flat columns that are called `user.name`.
    if path in fields:
        return fields[path]
    value: Any = fields
    for name in path.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def is_missing(value: Any) -> bool:
    """Whether a value stands for nothing: null, NaN, no character, or a word such as ``N/A``."""
    if isinstance(value, str):
        return not (bare := value.strip(_INVISIBLE)) or bare in _MISSING
    if isinstance(value, (float, Decimal)):
        return math.isnan(value)
    return value is None


def as_text(value: Any, name: str) -> str:
    """A text as it stands in a row.

    Args:
        value: of a column, not missing.
        name: of the column, as a message names it.

    Raises:
        Rejected: an object, a list or a boolean is no text, nor is half a character.
    """
    value = plain(value) if isinstance(value, (bytes, bytearray, memoryview, Decimal)) else value
    if isinstance(value, Mapping):
        raise Rejected(
            "missing_field",
            f"{name} is an object with {_listed(value)}, no text: name one of these in data.columns, "
            "after a dot",
        )
    if isinstance(value, (list, tuple, bool)):
        raise Rejected("missing_field", f"{name} = {str(value)[:40]!r} is no text")
    if isinstance(value, float) and value.is_integer() and abs(value) < _EXACT:
        value = int(value)
    text = str(value)
    try:
        text.encode()
    except UnicodeEncodeError as exc:
        # Half of a surrogate pair, which JSON can spell and no file can hold.
        raise Rejected("encoding", f"{name} holds half a character at {exc.start}") from exc
    return text


def as_name(value: Any, name: str, longest: int) -> str:
    """An id, a user name or the like: one line without white space around it.

    Raises:
        Rejected: it is no text, has more than ``longest`` characters, or has lost digits on its way
            through a spreadsheet or a table of floats.
    """
    text = without_controls(as_text(value, name)).strip(_INVISIBLE)
    text = " ".join(text.split())
    number = value if isinstance(value, float) else None
    if number is None and text.endswith(".0") and _WHOLE.fullmatch(text):
        number = float(text)
    in_powers = "+" in text and _IN_POWERS.fullmatch(text)
    if in_powers or (number is not None and abs(number) >= _EXACT):
        raise Rejected(
            "missing_field",
            f"{name} = {text[:40]!r} has lost its last digits in a spreadsheet or a table of floats: "
            "export the column as text",
        )
    if not text:
        raise Rejected("missing_field", f"{name} is missing")
    if len(text) > longest:
        raise too_large(f"{name} has", len(text), "characters", longest)
    return text


def without_controls(text: str) -> str:
    """A text without characters that no one can see and some programs take for its end."""
    return text if text.isprintable() else _CONTROL.sub("", text)


def label(value: Any) -> str | None:
    """A value to compare with those of a recipe or to show in a message; None: missing."""
    if is_missing(value):
        return None
    if isinstance(value, float) and value.is_integer() and abs(value) < _EXACT:
        value = int(value)
    value = plain(value) if isinstance(value, bytes) else value
    # It may stand in a reject, which has to be written whatever characters the row held.
    return str(value).encode(errors="replace").decode()


def ascii_digits(text: str) -> str:
    """A text in which digits of any script, and the full-width signs beside them, are ASCII's."""
    if text.isascii():
        return text
    # Not NFKC, which makes 102 of 10².
    return "".join(
        str(digit) if (digit := unicodedata.decimal(sign, None)) is not None else sign
        for sign in text.translate(_FULL_WIDTH)
    )


_FULL_WIDTH: Final = str.maketrans("．，：／％＋－−", ".,:/%+--")


def too_large(what: str, count: int, unit: str, most: int) -> Rejected:
    """A reject of a value that is longer than any may be."""
    # Without the value: a reject must not repeat megabytes.
    return Rejected("row_too_large", f"{what} {count} {unit}, no post may have more than {most}")


def _listed(names: Mapping[str, Any]) -> str:
    return ", ".join(str(name)[:40] for name in list(names)[:6]) or "nothing"
