"""The items of JSON one by one, however long the file is: those of a list, of several values one
behind the other, or of the one long list that an object wraps. Memory follows the largest item.

Leaves out: what the items are (see `json_rows`).
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from typing import IO, Any, Final

from boig_core.data.reading.text_encoding import undecodable

_SPACE: Final = re.compile(r"[ \t\n\r]*")
_NUMBER: Final = re.compile(r"[0-9.eE+-]*")
_PIECE: Final = 2**16
_DECODER: Final = json.JSONDecoder()


class _ItemTooLongError(ValueError):
    """An item has more characters than one may have."""


def json_items(file: IO[bytes], longest: int) -> Iterator[Any]:
    """Items of each list that a file holds, and its other values; a `Rejected` in place of one
    with bytes that are not UTF-8.

    Args:
        file: JSON in UTF-8.
        longest: characters of an item.

    Raises:
        ValueError: the file is not JSON, which may show after many items, or an item is too long.
        RecursionError: an item is nested too deeply.
    """
    text = _Window(file, longest)
    # Objects and lists end by themselves, so that others may stand behind them.
    while True:
        sign = text.peek()
        if sign == "[":
            yield from text.take_list()
        elif sign == "{":
            try:
                yield text.take_value()
            except _ItemTooLongError:
                yield from _unwrap(text)
        else:
            yield text.take_value()
            if sign := text.peek():
                raise ValueError(f"{sign!r} after its end")
        if not text.peek():
            return
        if text.peek() not in "[{":
            raise ValueError(f"{text.peek()!r} after its end")


def _unwrap(text: _Window) -> Iterator[Any]:
    """Items of the one list of objects in an object that is too long to be held; its other members
    are left out."""
    names: list[str] = []
    sign = text.take()
    while sign in "{," and sign:
        name = text.take_value()
        if not isinstance(name, str) or text.take() != ":":
            raise ValueError("no name and colon before a member")
        listed = text.peek() == "["
        for item in text.take_list() if listed else (text.take_value(),):
            if not isinstance(item, dict) or not listed:
                continue
            if name not in names:
                names.append(name)
            if len(names) > 1:
                raise ValueError(f"it holds several lists of objects ({', '.join(names)})")
            if "edit_history_tweet_ids" in item:
                raise ValueError("a page of the X API is too long; save the pages one per line")
            yield item
        sign = text.take()
    if sign != "}":
        raise ValueError(f"{sign!r} in place of a comma or the end of the object")


class _Window:
    """The part of the text that is not read yet, as far as it has been needed."""

    def __init__(self, file: IO[bytes], longest: int) -> None:
        self._file, self._longest = file, longest
        self._decoder = codecs.getincrementaldecoder("utf-8")("boig_undecodable")
        self._text, self._at, self._ended = "", 0, False

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

    def take_list(self) -> Iterator[Any]:
        """Go on by one list, item by item."""
        self.take()
        if self.peek() == "]":
            self.take()
            return
        sign = ","
        while sign == ",":
            yield self.take_value()
            sign = self.take()
        if sign != "]":
            raise ValueError(f"{sign!r} in place of a comma or the end of the list")

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
                    start, self._at = self._at, self._at + length
                    torn = self._text.find("\udcff", start, self._at) >= 0
                    return undecodable("utf-8") if torn else value
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
            raise _ItemTooLongError(f"an item has over {self._longest} characters")
        # By as much again, so that a long item is not decoded from its start for each piece.
        piece = self._file.read(max(_PIECE, len(kept)))
        self._ended = not piece
        self._text = kept + self._decoder.decode(piece, final=self._ended)
        return not self._ended
