"""Sources: where the rows of an export come from, streamed one by one from files on disk, in S3 or
on the web.

JSONL is the main form, of rows or of X API pages; a ``.json`` file is a list of them, or one page;
CSV is read row by row, Parquet batch by batch. All but Parquet may be gzipped. Leaves out: what
makes a row good (see `posts`).
"""

from __future__ import annotations

import csv
import fnmatch
import io
import itertools
import json
import re
from collections.abc import Iterator
from typing import IO, Any, Final

from boig_core.config import Data
from boig_core.data import x_api
from boig_core.data.dialects import FileDialect
from boig_core.data.json_items import json_items
from boig_core.data.opening import open_posts, parquet_rows, path_of
from boig_core.data.rejects import Rejected
from boig_core.errors import BoigError, InputError
from boig_core.storage import store
from boig_core.storage.credentials import refuse_secrets

_TEXTS: Final = (".jsonl", ".ndjson", ".json", ".csv")
SUFFIXES: Final = (*_TEXTS, ".parquet", *(f"{suffix}.gz" for suffix in _TEXTS))
_LONGEST_LINE: Final = 16 * 2**20
"""Bytes of a line that can be a row or a page, of which the X API fills at most some MB; a longer
one is a file of another kind. As objects of Python it may take twenty times as much memory."""

Row = tuple[int, Any]
"""Line or place in the file, from 1, and the row: a mapping, or why there is none."""


def find_sources(location: str) -> list[str]:
    """Files of an export: the file itself, every file that a glob matches, or the ``posts.*`` file
    of a folder; sorted.

    Args:
        location: a local path, ``s3://`` or ``http(s)://``; ``*``, ``?`` and ``[...]`` make a glob
            (not on the web).

    Raises:
        InputError: there is none, or its suffix is not known.
    """
    if re.match(r"https?://", location):
        refuse_secrets(location)
        if not _suffixed(location):
            raise InputError(
                location, f"is no {', '.join(SUFFIXES)} file", "export the posts as JSON lines"
            )
        return [location]
    # A file whose own name holds such signs is no glob.
    if re.search(r"[*?\[]", location) and not store.exists(location):
        return _match(location)
    if _suffixed(location):
        if not store.exists(location):
            raise InputError(
                location,
                "does not exist",
                "give the posts file of an export, its folder, or a glob",
            )
        return [location]
    for suffix in SUFFIXES:
        if store.exists(store.join(location, f"posts{suffix}")):
            return [store.join(location, f"posts{suffix}")]
    if store.exists(location):
        raise InputError(
            location, f"is no {', '.join(SUFFIXES)} file", "export the posts as JSON lines"
        )
    raise InputError(
        location,
        f"holds no posts{'|'.join(SUFFIXES)}",
        "give the posts file of an export, its folder, or a glob",
    )


def read_export(location: str, data: Data) -> Iterator[tuple[str, Iterator[Row]]]:
    """Each file of an export with its rows; arguments and errors are those of `find_sources` and
    `read_rows`."""
    for file in find_sources(location):
        yield file, read_rows(file, data)


def describe_file(uri: str, data: Data) -> FileDialect:
    """How a file will be read, told from its start; arguments and errors are those of
    `read_rows`."""
    kind = path_of(uri).removesuffix(".gz").rsplit(".", 1)[-1]
    columns: dict[str, None] = {}
    for _, row in itertools.islice(read_rows(uri, data), 20):
        columns |= dict.fromkeys(map(str, row)) if isinstance(row, dict) else {}
    if kind == "csv":
        return FileDialect("csv", "utf-8", ",", '"', "", tuple(columns), frozenset())
    if kind == "parquet":
        return FileDialect("parquet", None, None, None, None, tuple(columns), frozenset())
    return FileDialect(
        "json" if kind == "json" else "jsonl",
        "utf-8",
        None,
        None,
        None,
        tuple(columns),
        frozenset(),
    )


def read_rows(uri: str, data: Data) -> Iterator[Row]:
    """Rows of one file, streamed; empty lines are passed over.

    Args:
        uri: the file, as `find_sources` names it.
        data: limits of the recipe, which hold for a file on the web.

    Raises:
        InputError: the file cannot be read as what its suffix says, or holds more than one may.
        StorePermissionError, StoreUnavailableError.
    """
    kind = path_of(uri).removesuffix(".gz").rsplit(".", 1)[-1]
    if kind == "parquet":
        yield from enumerate(parquet_rows(uri, data), start=1)
        return
    with open_posts(uri, data) as file:
        yield from {"json": _json, "csv": _csv}.get(kind, _json_lines)(uri, file)


def _line(exc: Exception) -> str:
    return " ".join(str(exc).split())


def _suffixed(location: str) -> bool:
    return path_of(location).endswith(SUFFIXES)


def _match(pattern: str) -> list[str]:
    """Files below the last folder without a wildcard; ``*`` stays within a folder, ``**`` does
    not."""
    parts = pattern.split("/")
    fixed = next(i for i, part in enumerate(parts) if re.search(r"[*?\[]", part))
    root, rest = "/".join(parts[:fixed]) or ".", parts[fixed:]
    files = [
        path
        for path, _ in store.list_files(root)
        if _matches(path.split("/"), rest) and path.endswith(SUFFIXES)
    ]
    if not files:
        raise InputError(
            pattern,
            f"matches no {', '.join(SUFFIXES)} file",
            "check the pattern, and quote it against the shell",
        )
    return [store.join(root, path) for path in sorted(files)]


def _matches(path: list[str], pattern: list[str]) -> bool:
    if not pattern:
        return not path
    if pattern[0] == "**":
        return any(_matches(path[i:], pattern[1:]) for i in range(len(path) + 1))
    return (
        bool(path) and fnmatch.fnmatchcase(path[0], pattern[0]) and _matches(path[1:], pattern[1:])
    )


def _json_lines(uri: str, file: IO[bytes]) -> Iterator[Row]:
    line = 0
    while row := file.readline(_LONGEST_LINE):
        line += 1
        if len(row) == _LONGEST_LINE:
            while row and not row.endswith(b"\n"):
                row = file.readline(_LONGEST_LINE)
            yield line, _too_long("line")
        # Some programs put a byte order mark before the first row, which `json` refuses.
        elif row := (row.removeprefix(b"\xef\xbb\xbf") if line == 1 else row).strip():
            yield from ((line, flat) for flat in _parse_json(row))


def _too_long(what: str) -> Rejected:
    return Rejected("row_too_large", f"the {what} has {_LONGEST_LINE} bytes or more")


def _json(uri: str, file: IO[bytes]) -> Iterator[Row]:
    try:
        for place, item in enumerate(json_items(file, _LONGEST_LINE), start=1):
            yield from ((place, flat) for flat in _flatten(item))
    except (ValueError, RecursionError) as exc:
        if isinstance(exc, BoigError):  # of the stream below, and said already
            raise
        raise InputError(
            uri, f"is not JSON ({_line(exc)})", "export the posts again, or as JSON lines"
        ) from exc


def _csv(uri: str, file: IO[bytes]) -> Iterator[Row]:
    """Rows by the names of the first one; ``line`` is where a row ends, since texts may hold line
    breaks."""
    # A byte that is not UTF-8 comes through as a lone surrogate, so that its row alone is rejected:
    # an error of the decoder would end the file.
    text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")
    lines = _CsvLines(text)
    rows = csv.reader(lines)
    header: list[str] | None = None
    # Asked by `next`, the reader goes on after a bad row, at which a `for` would end.
    while True:
        lines.taken = 0
        try:
            row = next(rows)
        except StopIteration:
            return
        except (csv.Error, Rejected) as exc:
            known = isinstance(exc, Rejected)
            yield lines.number, exc if known else Rejected("bad_json", f"is no CSV row ({exc})")
            continue
        if header is None:
            header = row
            # Rows by name would silently keep the last of the two.
            if len(set(header)) != len(header):
                raise InputError(
                    f"{uri}, line 1", "has two columns of one name", "name each column once"
                )
        elif row and any("\udc80" <= letter <= "\udcff" for cell in row for letter in cell):
            yield lines.number, Rejected("encoding", "a byte is not UTF-8")
        elif row and len(row) != len(header):
            yield (
                lines.number,
                Rejected("bad_json", f"has {len(row)} columns, the first line names {len(header)}"),
            )
        elif row:
            yield lines.number, dict(zip(header, row, strict=True))


class _CsvLines:
    """Lines of a CSV file. A row may go over many, but not without end: a quote that is never
    closed would take the whole file."""

    def __init__(self, text: io.TextIOWrapper) -> None:
        self._text = text
        self.number = self.taken = 0

    def __iter__(self) -> _CsvLines:
        return self

    def __next__(self) -> str:
        line = self._text.readline(_LONGEST_LINE)
        if not line:
            raise StopIteration
        self.number += 1
        self.taken += len(line)
        if self.taken >= _LONGEST_LINE:
            while line and not line.endswith("\n"):
                line = self._text.readline(_LONGEST_LINE)
            raise _too_long("row")
        return line


def _parse_json(row: bytes) -> list[Any]:
    """The rows that a line holds, or why it holds none."""
    try:
        return _flatten(json.loads(row.decode("utf-8")))
    except UnicodeDecodeError as exc:
        return [Rejected("encoding", f"byte {exc.start} is not UTF-8")]
    # On brackets nested thousands deep `json` raises RecursionError, which is no ValueError.
    except (ValueError, RecursionError) as exc:
        return [Rejected("bad_json", f"is not JSON ({exc})")]


def _flatten(item: Any) -> list[Any]:
    """A row as it is, or the rows of an X API page."""
    return x_api.rows_of(item) if isinstance(item, dict) and x_api.is_page(item) else [item]
