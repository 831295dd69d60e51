"""Places: the files of a store name what lies in the same store by its path below the root, such as
``models/boigsd/VERSION``, so that a store can be copied, mirrored or renamed.

In memory all is locations; only files hold places. What lies elsewhere (posts, a web address) has
no place and keeps its location. A file that is read says its own place, so its own location leads
to the root. Leaves out: which files these are (see `manifest`, `commit`, `job`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from boig_core.errors import CorruptError, InputError
from boig_core.storage import store
from boig_core.storage.paths import is_inner, printable

SCHEMA: Final = 2
"""Layout of the files that hold places. In layout 1 they held locations, and no store could be
moved."""


def require_schema(uri: str, tree: Mapping[str, Any], what: str) -> None:
    """Refuse a file in another layout than `SCHEMA`.

    Args:
        uri: the file.
        tree: its content.
        what: what it is, such as ``a manifest``.

    Raises:
        CorruptError: it is in another one.
    """
    schema = tree.get("schema_version", 1)
    if schema == 1:
        raise CorruptError(
            uri, f"is {what} of schema 1", "run `boig store migrate` on its store once"
        )
    if schema != SCHEMA:
        raise CorruptError(
            uri,
            f"is {what} of schema {printable(str(schema))}, not {SCHEMA}",
            "read it by the boig that wrote it",
        )


def place_of(uri: str, root: str) -> str:
    """What a file of the store calls a location: its place where it lies below ``root``, else the
    location itself."""
    place = _path(uri).removeprefix(f"{_path(root)}/")
    # A path that cannot be a place would be refused when it is read.
    if place != _path(uri) and is_place(place):
        return place
    return uri if _is_location(uri) else store.normalize(uri)


def locate(name: str, root: str) -> str:
    """The location that a file of the store at ``root`` calls so.

    Raises:
        CorruptError: it is neither a place nor a location.
    """
    return name if _is_location(name) else store.join(root, checked(name))


def in_copy(uri: str, root: str, copy: str, file: str = "") -> str:
    """The same in a copy of the store at ``root``, if it is there.

    Args:
        uri: a file or a folder.
        root: of the store that holds it.
        copy: root of what may be a copy of this store.
        file: by which a folder is known to be there.
    """
    place = place_of(uri, root)
    there = locate(place, copy)
    return there if place != uri and store.exists(store.join(there, file).rstrip("/")) else uri


def is_place(name: str) -> bool:
    """Whether a name can stand for what lies in a store: a path that leads nowhere else."""
    return is_inner(name) and not _is_location(name)


def checked(name: str) -> str:
    """A place that a file names.

    Raises:
        CorruptError: it leads out of the store.
    """
    if not is_place(name):
        raise CorruptError(
            printable(name), "is no place in a store", "restore the file that names it"
        )
    return name


def root_of(uri: str, place: str) -> str:
    """Root of the store that holds a file or folder, by its place.

    Raises:
        CorruptError: it does not lie in its place.
    """
    home = _path(uri)
    # Of the file, and not of the place alone: who reads it must learn which file is wrong.
    if not is_place(place):
        raise CorruptError(
            uri, f"names {printable(place)!r}, which is no place in a store", "restore it"
        )
    if not home.endswith(f"/{place}"):
        raise CorruptError(
            uri,
            f"has been taken out of its store, in which it is {printable(place)}",
            "name it in its store, or copy the whole store with `boig store copy`",
        )
    return home.removesuffix(f"/{place}")


def common_root(*uris: str) -> str:
    """Root of the store of an attempt and its outputs: the nearest folder that holds all of them.

    Raises:
        InputError: they lie in different stores.
    """
    split = [_path(uri).split("/") for uri in uris]
    common = []
    for parts in zip(*split, strict=False):
        if len(set(parts)) > 1:
            break
        common.append(parts[0])
    root = "/".join(common)
    below = ["/".join(parts[len(common) :]) for parts in split]
    if root in {"", "s3:", "s3:/"} or not all(map(is_place, below)):
        raise InputError(
            ", ".join(uris), "do not lie in one store", "keep an attempt and its outputs together"
        )
    return root


def _path(uri: str) -> str:
    """A location without a trailing slash; a folder absolute, others as they are."""
    return (
        uri.rstrip("/") if re.match(r"^(?!file:)[A-Za-z][\w+.-]*://", uri) else store.normalize(uri)
    )


def _is_location(name: str) -> bool:
    return name.startswith("/") or re.match(r"^[A-Za-z][\w+.-]*://", name) is not None
