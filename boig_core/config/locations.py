"""Whether a location lies below a root: the one comparison by which boig tells what may be read.

By text alone for ``s3://`` and web addresses; folders are compared after links and ``..`` are
resolved. Leaves out: which roots are allowed (see `policy`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from typing import Final
from urllib.parse import unquote, urlsplit

from boig_core.errors import InputError

_SCHEME: Final = re.compile(r"(?:(https?):([/\\]+)|(s3)[an]?:(/+)|(file):(/+))", re.IGNORECASE)


_WINDOWS: Final = re.compile(r"[A-Za-z]:[\\/](?!/)|\\")


def is_windows(text: str) -> bool:
    """Whether a text is an absolute path of a Windows machine, on a drive or on a server."""
    return _WINDOWS.match(text) is not None


def as_meant(location: str) -> str:
    """A location of an input as whoever names it means it: without white space around it, and with
    a scheme that boig knows.

    Raises:
        InputError: a path of a Windows machine.
    """
    # What exists under the very name that was given is meant by it.
    if os.path.lexists(location):
        return location
    location = with_plain_scheme(location.strip())
    if is_windows(location):
        raise InputError(
            location,
            "is a path of a Windows machine",
            "give the path that this machine has it under",
        )
    return location


def with_plain_scheme(location: str) -> str:
    """A location with its scheme as boig writes it: ``S3://b``, ``s3a://b`` and ``s3:/b``, which is
    what tools that tidy paths leave of two slashes, are ``s3://b``. Anything else stays."""
    match = _SCHEME.match(location)
    if match is None:
        return location
    scheme, slashes = (part for part in match.groups() if part)
    scheme = scheme.lower()
    if scheme == "file":
        # Of a host, which may stand behind two slashes, there is none behind one.
        slashes = "///" if slashes == "/" else slashes
    # Behind three slashes the host or the bucket is missing, which is a fault to name.
    elif len(slashes) <= 2:
        slashes = "//"
    return f"{scheme}:{slashes}{location[match.end() :]}"


def file_url_path(location: str) -> str:
    """Path of a ``file://`` address, which is quoted. It has neither query nor fragment: whoever
    writes ``?`` or ``#`` there means the file of that name.

    Raises:
        InputError: the file lies on another machine.
    """
    host, slash, path = location[len("file://") :].partition("/")
    if host.lower() not in {"", "localhost"}:
        raise InputError(
            location, "lies on another machine", "write file:///FOLDER, or the path alone"
        )
    return unquote(slash + path)


def canonical(location: str) -> str | None:
    """A location in the one form in which it is compared; None: it has none, such as an address
    with ``..`` in it, whose server would resolve it elsewhere."""
    if "\0" in location:
        return None
    scheme, separator, rest = location.partition("://")
    if not separator:
        return without_links(os.path.expanduser(location))
    scheme = scheme.lower()
    if scheme == "file":
        try:
            return without_links(file_url_path(location))
        except InputError:
            return None
    if {".", ".."} & set(unquote(rest).replace("\\", "/").split("/")):
        return None
    host, _, path = rest.partition("/")
    if scheme == "s3":
        # A bucket's name knows no upper case, a key does.
        return f"s3://{host}/{path}".rstrip("/") if host else None
    if scheme not in {"http", "https"}:
        return None
    try:
        parts = urlsplit(location)
        port = parts.port or {"http": 80, "https": 443}[scheme]
    except ValueError:
        return None
    # Credentials before the host could make one host look like another.
    if not parts.hostname or "@" in parts.netloc:
        return None
    return f"{scheme}://{parts.hostname}:{port}{parts.path}".rstrip("/")


def without_links(path: str) -> str | None:
    """A path without links and ``..``, whether or not something is there; None: its links lead in a
    circle."""
    resolved = os.path.realpath(path)
    # After a circle the rest of the path is left as it is, links that lead out included.
    return resolved if os.path.realpath(resolved) == resolved else None


def is_below(location: str, roots: Iterable[str]) -> bool:
    """Whether a location is one of the roots, or lies below one."""
    place = canonical(location)
    if place is None:
        return False
    return any(
        place == root or lies_below(place, root)
        for root in map(canonical, roots)
        if root is not None
    )


def lies_below(location: str, folder: str) -> bool:
    """Whether a location lies below a folder, by their text."""
    # With the slash: the root /store must not allow /store-of-another.
    return location.startswith(f"{folder.rstrip('/')}/")
