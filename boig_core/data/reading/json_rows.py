"""Rows of JSON: objects one per line, in a list, one behind the other, in a list that an object
wraps, or as the posts of X API pages.

Leaves out: what makes a row good (see `posts`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import IO, Any, Final, Literal

from boig_core.config import Data
from boig_core.data.reading import x_api
from boig_core.data.reading.json_items import json_items
from boig_core.data.reading.text_encoding import undecodable
from boig_core.data.rejects import Rejected
from boig_core.errors import BoigError, InputError

LONGEST_ITEM: Final = 16 * 2**20
"""Bytes of a line or an item that can be a row or a page, of which the X API fills at most some MB;
a longer one is a file of another kind. As objects of Python it may take twenty times as much
memory."""
_DEEPEST: Final = 4
"""Lists and objects around a row."""
_WRAPPERS: Final = ("posts", "data", "items", "results", "records", "rows", "entries")
"""What exports call the list that holds their rows."""
_ARCHIVE: Final = re.compile(r"\s*window\.YTD\.")

Layout = Literal["jsonl", "json"]
"""One value per line, whose faults cost a line; or values of any shape."""
Item = tuple[int, Any]
"""Line or place, from 1, and a value, or why there is none."""


def find_layout(uri: str, start: bytes, layout: Layout) -> Layout:
    """How the values of a file stand: many files of lines are called ``.json``, and some lists
    ``.jsonl``.

    Args:
        uri: that an error names.
        start: of the file, in UTF-8.
        layout: what the file's suffix says.

    Raises:
        InputError: it is the archive that X gives to its users, which is no JSON.
    """
    text = start.decode("utf-8", "replace")
    if _ARCHIVE.match(text):
        raise InputError(
            uri,
            "is of the archive that X sends to a user (window.YTD), which has neither impressions"
            " nor accounts",
            "fetch the posts by the X API v2, and save its pages as JSON lines",
        )
    first, _, rest = text.lstrip("\ufeff \t\r\n").partition("\n")
    try:
        value = json.loads(first)
    except (ValueError, RecursionError):
        opened = re.fullmatch(r"[\[{]{1,2}", first.replace(" ", "").strip())
        return "json" if opened else layout
    return "jsonl" if isinstance(value, dict | list) and rest.strip() else layout


def read_items(uri: str, file: IO[bytes], layout: Layout, encoding: str) -> Iterator[Item]:
    """Values of a file in UTF-8, which had the encoding once.

    Raises:
        InputError: it is not JSON.
    """
    if layout == "jsonl":
        yield from _read_lines(file, encoding)
        return
    try:
        yield from enumerate(json_items(file, LONGEST_ITEM), start=1)
    except (ValueError, RecursionError) as exc:
        if isinstance(exc, BoigError):  # of the stream below, and said already
            raise
        line = " ".join(str(exc).split())
        raise InputError(
            uri, f"is not JSON ({line})", "export the posts again, or as JSON lines"
        ) from exc


def flatten(items: Iterator[Item], data: Data, lookup: x_api.Lookup) -> Iterator[Item]:
    """Rows of the values: a value as it is, the posts of an X API page, the items of lists and of
    the list that an object wraps.

    Args:
        items: as `read_items` gives them.
        data: the recipe, by whose columns a row is told from a wrapper.
        lookup: finds what other pages include.
    """
    ours = ("id", "account", "timestamp", "text", "image", "images")
    paths = (data.columns.get(name, name) for name in ours)  # type: ignore[call-overload]
    names = {part for path in paths for part in (path, path.partition(".")[0])}
    for line, item in items:
        # Most are, and need no more looking.
        if isinstance(item, dict) and "text" in item and _is_row(item, names):
            yield line, item
            continue
        yield from ((line, row) for row in _rows(item, names, lookup, _DEEPEST))


def _read_lines(file: IO[bytes], encoding: str) -> Iterator[Item]:
    line = 0
    while row := file.readline(LONGEST_ITEM):
        line += 1
        if len(row) == LONGEST_ITEM:
            while row and not row.endswith(b"\n"):
                row = file.readline(LONGEST_ITEM)
            yield line, Rejected("row_too_large", f"the line has {LONGEST_ITEM} bytes or more")
        elif row := row.strip():
            yield line, _parse(row, encoding)


def _parse(row: bytes, encoding: str) -> Any:
    try:
        return json.loads(row.decode("utf-8"))
    except UnicodeDecodeError:
        return undecodable(encoding)
    # On brackets nested thousands deep `json` raises RecursionError, which is no ValueError.
    except (ValueError, RecursionError) as exc:
        return Rejected("bad_json", f"is not JSON ({exc})")


def _rows(item: Any, names: set[str], lookup: x_api.Lookup, depth: int) -> Iterator[Any]:
    if isinstance(item, list) and depth and all(isinstance(part, dict | list) for part in item):
        for part in item:
            yield from _rows(part, names, lookup, depth - 1)
    elif isinstance(item, dict) and x_api.is_page(item):
        yield from x_api.rows_of(item, lookup)
    elif isinstance(item, dict) and depth and (wrapped := _wrapped(item, names)) is not None:
        yield from _rows(wrapped, names, lookup, depth - 1)
    else:
        yield item


def _wrapped(item: Mapping[str, Any], names: set[str]) -> Any:
    """The list of rows that an object wraps; None: it is a row itself, or what rows it has cannot
    be told."""
    if _is_row(item, names):
        return None
    lists = {
        name: value
        for name, value in item.items()
        if isinstance(value, list) and all(isinstance(part, dict) for part in value)
    }
    # Else a row's own list, of its media or comments, would pass for rows.
    candidates = [name for name, value in lists.items() if value and _is_row(value[0], names)]
    candidates = candidates or [name for name in lists if name in _WRAPPERS]
    if len(candidates) > 1:
        return Rejected(
            "bad_json",
            f"holds several lists of objects ({', '.join(candidates)}); save that of the posts alone",
        )
    if candidates:
        return lists[candidates[0]]
    inner = [value for value in item.values() if isinstance(value, dict)]
    return inner[0] if len(inner) == 1 and _wrapped(inner[0], names) is not None else None


def _is_row(item: Mapping[str, Any], names: set[str]) -> bool:
    return len(names & item.keys()) > 1
