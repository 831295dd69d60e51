"""Encodings of posts files: which one a file has, as far as its start tells, and its bytes as UTF-8
whatever it has.

Windows-1252 is taken only where nothing speaks against it: in most other encodings of one byte per
letter its signs would be letters within words, or the other way round, and each value would be
wrong in silence. Leaves out: what the text says (see `sources`).
"""

from __future__ import annotations

import codecs
import io
import re
from typing import IO, Any, Final, cast

from boig_core.data.rejects import Rejected

_MARKS: Final = {  # the longer first, since the mark of UTF-32 begins with that of UTF-16
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
_MULTIBYTE: Final = re.compile(
    rb"[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}"
)
_HIGH: Final = re.compile(rb"[\x80-\xff]")
_SMALL: Final = "àáâãäåæçèéêëìíîïñòóôõöøœùúûüß"
_CAPITAL: Final = "ÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏÑÒÓÔÕÖØŒÙÚÛÜ"
"""Of the languages of Western Europe. Without š, ž, ý, ð, þ, ÿ: where these bytes stand, the text
is more often Czech, Turkish, Baltic, or comes from a Mac."""
_BETWEEN: Final = "’‘–—·…\xa0"
"""Signs that stand between letters, too."""
_AROUND: Final = "‚“”„•€™¡¿§©«»®°±²½£ªº×"
"""Signs that stand beside words, never within one."""
_ODD: Final = re.compile(
    f"[A-Za-z{_SMALL}{_CAPITAL}][{_AROUND}][a-z{_SMALL}]|[a-z{_SMALL}][{_CAPITAL}]"
    f"|[{_SMALL}{_CAPITAL}]{{3}}|£[a-z]"
)
"""What no text in Windows-1252 has: a sign within a word, a capital behind a small letter, three
accents in a row."""
_UTF16_SHARE: Final = 0.1
"""Share of the characters that are below U+0100, at least, in UTF-16 of any language: delimiters,
digits, addresses, names of columns."""


def sniff_encoding(start: bytes) -> str | None:
    """Python's name of the encoding; None: it cannot be told.

    Args:
        start: the first bytes of a file, cut anywhere.
    """
    for mark, name in _MARKS.items():
        if start.startswith(mark):
            return name
    if wide := _sniff_wide(start):
        return wide
    rest = _MULTIBYTE.sub(b"", start)
    # A cut within the last character is no fault.
    rest = rest[:-3] + re.sub(rb"[\xc2-\xf4][\x80-\xbf]{0,2}\Z", b"", rest[-3:])
    strays = len(_HIGH.findall(rest))
    if not strays or strays <= (len(start) - len(rest)) / 2:
        return "utf-8"
    if _is_western(start):
        return "cp1252"
    lines = start.splitlines()
    torn = sum(1 for line in lines if _HIGH.search(line))
    # A few torn rows are rejects of a good file.
    return None if torn >= 3 and torn > len(lines) / 20 else "utf-8"


def _sniff_wide(start: bytes) -> str | None:
    """UTF-16 or UTF-32 without a mark: zeros stand in the upper bytes alone."""
    whole = start[: len(start) // 4 * 4]
    zeros = [whole[place::4].count(0) for place in range(4)]
    fourth = len(whole) // 4
    if not any(zeros):
        return None
    if zeros[2] == zeros[3] == fourth:
        return "utf-32-le"
    if zeros[0] == zeros[1] == fourth:
        return "utf-32-be"
    even, odd = zeros[0] + zeros[2], zeros[1] + zeros[3]
    for name, upper, lower in (("utf-16-le", odd, even), ("utf-16-be", even, odd)):
        if upper >= 2 * fourth * _UTF16_SHARE and lower <= upper / 4:
            return name
    return None


def _is_western(start: bytes) -> bool:
    try:
        text = start.decode("cp1252")
    except UnicodeDecodeError:  # five bytes stand for nothing
        return False
    high = "".join(re.findall("[^\x00-\x7f]+", text))
    return (
        set(high) <= set(_SMALL + _CAPITAL + _BETWEEN + _AROUND)
        and 50 * len(_ODD.findall(text)) <= len(high)
        # Hungarian in Windows-1250 has õ for ő. Portuguese has ã beside it.
        and ("õ" not in high or "ã" in high)
    )


def undecodable(encoding: str) -> Rejected:
    """Why a row is lost that holds what the encoding of its file does not know."""
    return Rejected("encoding", f"a byte is not {encoding.upper()}, see data.dialect.encoding")


def as_utf8(file: IO[bytes], encoding: str) -> IO[bytes]:
    """The bytes of a text file as UTF-8, without a byte order mark.

    Args:
        file: at its start; one that can peek.
        encoding: Python's name of its encoding. What it cannot decode comes through as bytes that
            are not UTF-8, so that only the row that holds them is lost.
    """
    if codecs.lookup(encoding).name in {"utf-8", "utf-8-sig"}:
        if cast(io.BufferedReader, file).peek(3).startswith(codecs.BOM_UTF8):
            file.read(3)
        return file
    return cast(IO[bytes], io.BufferedReader(_RecodedStream(file, encoding), _PIECE))


_PIECE: Final = 2**20


class _RecodedStream(io.RawIOBase):
    """A text file as UTF-8."""

    def __init__(self, file: IO[bytes], encoding: str) -> None:
        super().__init__()
        self._file = file
        self._decoder = codecs.getincrementaldecoder(encoding)("boig_undecodable")
        self._waiting, self._started, self._ended = b"", False, False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._waiting and not self._ended:
            piece = self._file.read(len(buffer))
            self._ended = not piece
            text = self._decoder.decode(piece, self._ended)
            if text and not self._started:
                self._started, text = True, text.removeprefix("\ufeff")
            self._waiting = text.encode("utf-8", "surrogatepass")
        taken, self._waiting = self._waiting[: len(buffer)], self._waiting[len(buffer) :]
        buffer[: len(taken)] = taken
        return len(taken)


def _mark_undecodable(exc: UnicodeError) -> tuple[str, int]:
    # Half a pair, which UTF-8 cannot spell.
    return "\udcff", cast(UnicodeDecodeError, exc).end


codecs.register_error("boig_undecodable", _mark_undecodable)
