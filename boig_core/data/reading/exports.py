"""Exports: the files that a location names, be it a file, a folder of pages or parts, a glob or a
web address.

Leaves out: what the files hold (see `sources`).
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterator
from typing import Final, Literal
from urllib.parse import unquote

from boig_core.data.reading.opening import path_of
from boig_core.errors import InputError
from boig_core.storage import store
from boig_core.storage.credentials import refuse_secrets

_KINDS: Final = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
}
SUFFIXES: Final = (*_KINDS, *(f"{suffix}.gz" for suffix in _KINDS if suffix != ".parquet"))
_NAMED: Final = (*SUFFIXES, ".txt", ".txt.gz")
"""Suffixes of a file that is named itself: Excel calls a table ``.txt``, as people do their notes
beside an export."""
_WILDCARD: Final = re.compile(r"[*?\[]")
_PARTITION: Final = re.compile(r"([A-Za-z_]\w*)=([^/]*)")
_NO_VALUE: Final = "__HIVE_DEFAULT_PARTITION__"
_REMEDY: Final = "give the posts file of an export, its folder, or a glob"


def find_sources(location: str) -> list[str]:
    """Files of an export: the file itself; every file that a glob matches; of a folder the file
    called ``posts``, else all files with posts if they are of one kind; sorted.

    Args:
        location: a local path, ``s3://`` or ``http(s)://``; ``*``, ``?`` and ``[...]`` make a glob
            (not on the web) unless there is a file or folder of that very name.

    Raises:
        InputError: there is none, its suffix is not known, or a folder holds files of several
            kinds.
    """
    if re.match(r"https?://", location):
        refuse_secrets(location)
        if not _suffixed(location, _NAMED):
            raise _foreign(location)
        return [location]
    if store.exists(location):
        if not _suffixed(location, _NAMED):
            raise _foreign(location)
        return [location]
    # Cheaper than a listing, where a folder holds a million images.
    for suffix in SUFFIXES:
        if store.exists(store.join(location, f"posts{suffix}")):
            return [store.join(location, f"posts{suffix}")]
    if names := store.children(location):
        return _of_folder(location, names)
    if _WILDCARD.search(location):
        return _match(location)
    if _suffixed(location, _NAMED):
        raise InputError(location, "does not exist", _REMEDY)
    raise _empty(location)


def kind_of(uri: str) -> Literal["jsonl", "json", "csv", "parquet"]:
    """What a file holds by its suffix."""
    suffix = re.search(r"(\.\w+?)(\.gz)?$", path_of(uri).lower())
    kind = _KINDS.get(suffix[1], "csv") if suffix else "csv"
    return kind  # type: ignore[return-value]  # the dict's values


def partition_of(uri: str) -> dict[str, str | None]:
    """Columns that stand in the names of the folders around a file, as ``account=acme``, which
    Hive and Spark leave out of the file."""
    columns: dict[str, str | None] = {}
    for folder in reversed(path_of(uri).split("/")[:-1]):
        match = _PARTITION.fullmatch(folder)
        if not match:
            break
        columns[match[1]] = None if match[2] == _NO_VALUE else unquote(match[2])
    return columns


def _foreign(location: str) -> InputError:
    if location.lower().endswith(".js"):
        return InputError(
            location,
            "is of the archive that X sends to a user, which has neither impressions nor accounts",
            "fetch the posts by the X API v2, and save its pages as JSON lines",
        )
    return InputError(
        location, f"is no {', '.join(SUFFIXES)} file", "export the posts as JSON lines"
    )


def _empty(location: str) -> InputError:
    return InputError(location, f"holds no posts{'|'.join(SUFFIXES)}", _REMEDY)


def _suffixed(location: str, suffixes: tuple[str, ...] = SUFFIXES) -> bool:
    return path_of(location).lower().endswith(suffixes)


def _of_folder(folder: str, names: list[str]) -> list[str]:
    """Files of a folder that holds no file called ``posts`` and a suffix in small letters."""
    by_name = {name.lower(): name for name in names}
    for suffix in SUFFIXES:
        if name := by_name.get(f"posts{suffix}"):
            return [store.join(folder, name)]
        if name := by_name.get(f"posts{suffix}/"):
            return find_sources(store.join(folder, name.rstrip("/")))
    files = list(_parts(folder, names))
    kinds = {kind.replace("jsonl", "json"): file for file in files for kind in (kind_of(file),)}
    if not files:
        raise _empty(folder)
    if len(kinds) > 1:
        examples = " and ".join(store.name(file) for file in kinds.values())
        raise InputError(
            folder,
            f"is a folder of several kinds of files, such as {examples}",
            "name the one that holds the posts, or a glob such as '*.parquet'",
        )
    return sorted(files)


def _parts(folder: str, names: list[str]) -> Iterator[str]:
    """Files with posts in a folder and its partitions; names with a dot or underscore in front are
    notes of the program that wrote them."""
    for name in names:
        place = store.join(folder, name.rstrip("/"))
        if name.startswith((".", "_")):
            continue
        if not name.endswith("/"):
            if _suffixed(name):
                yield place
        elif _PARTITION.fullmatch(name.rstrip("/")):
            yield from _parts(place, store.children(place))


def _match(pattern: str) -> list[str]:
    """Files below the last folder without a wildcard; ``*`` stays within a folder, ``**`` does
    not."""
    parts = pattern.split("/")
    fixed = next(i for i, part in enumerate(parts) if _is_wildcard(parts, i, part))
    root, rest = "/".join(parts[:fixed]) or ".", parts[fixed:]
    files = [
        path
        for path, _ in store.list_files(root)
        if _matches(path.split("/"), rest) and _suffixed(path)
    ]
    if not files:
        raise InputError(
            pattern,
            f"matches no {', '.join(SUFFIXES)} file",
            "check the pattern, and quote it against the shell",
        )
    return [store.join(root, path) for path in sorted(files)]


def _is_wildcard(parts: list[str], place: int, part: str) -> bool:
    # A folder may be called "export [2024]".
    return bool(_WILDCARD.search(part)) and not store.children("/".join(parts[: place + 1]))


def _matches(path: list[str], pattern: list[str]) -> bool:
    if not pattern:
        return not path
    if pattern[0] == "**":
        return any(_matches(path[i:], pattern[1:]) for i in range(len(path) + 1))
    return (
        bool(path) and fnmatch.fnmatchcase(path[0], pattern[0]) and _matches(path[1:], pattern[1:])
    )
