"""The items of a JSON list one by one, however long the list is: memory follows the largest item.

Leaves out: what the items are (see `sources`).
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from typing import IO, Any, Final

_SPACE: Final = re.compile(r"[ \t\n\r]*")
_NUMBER: Final = re.compile(r"[0-9.eE+-]*")
_PIECE: Final = 2**16
_DECODER: Final = json.JSONDecoder()


def json_items(file: IO[bytes], longest: int) -> Iterator[Any]:
    """Items of the list that a file holds; of one that holds another value, the value.

    Args:
        file: JSON in UTF-8, UTF-16 or UTF-32.
        longest: characters of an item.

    Raises:
        ValueError: the file is not JSON, which may show after many items, or an item is too long.
        RecursionError: an item is nested too deeply.
    """
    text = _Window(file, longest)
    if text.peek() != "[":
        yield text.take_value()
    else:
        text.take()
        if text.peek() == "]":
            text.take()
        else:
            sign = ","
            while sign == ",":
                yield text.take_value()
                sign = text.take()
            if sign != "]":
                raise ValueError(f"{sign!r} in place of a comma or the end of the list")
    if rest := text.peek():
        raise ValueError(f"{rest!r} after its end")


class _Window:
    """The part of the text that is not read yet, as far as it has been needed."""

    def __init__(self, file: IO[bytes], longest: int) -> None:
        start = file.read(4)
        # As `json.loads`: half a character ends its row, not the file.
        decoder = codecs.getincrementaldecoder(json.detect_encoding(start))("surrogatepass")
        self._file, self._longest, self._decoder = file, longest, decoder
        self._text, self._at, self._ended = decoder.decode(start), 0, False

    def peek(self) -> str:
        """The next sign that is no white space; empty at the end."""
        while True:
            match = _SPACE.match(self._text, self._at)
            self._at = match.end() if match else self._at
            if self._at < len(self._text) or not self._extend():
                return self._text[self._at : self._at + 1]

    def take(self) -> str:
        """Go on by one sign."""
        sign = self.peek()
        self._at += len(sign)
        return sign

    def take_value(self) -> Any:
        """Go on by one value."""
        self.peek()
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._at)
                length = end - self._at
                # A number may go on behind the window: of 0.5 only "0." may be there.
                cut_off = _NUMBER.fullmatch(self._text, end)
                if not cut_off or not self._extend():
                    self._at += length
                    return value
            except json.JSONDecodeError:
                # What is wrong may only be cut off.
                if not self._extend():
                    raise

    def _extend(self) -> bool:
        """Let go of what is read, and read on; False at the end of the file."""
        kept, self._at = self._text[self._at :], 0
        self._text = kept
        if self._ended:
            return False
        if len(kept) > self._longest:
            raise ValueError(f"an item has over {self._longest} characters")
        # By as much again, so that a long item is not decoded from its start for each piece.
        piece = self._file.read(max(_PIECE, len(kept)))
        self._ended = not piece
        self._text = kept + self._decoder.decode(piece, final=self._ended)
        return not self._ended
