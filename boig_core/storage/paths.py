"""Paths that others have listed, such as keys of S3 and a manifest's files: they may hold anything,
and none may lead out of the folder that it is meant for.

Leaves out: which locations a recipe or a post may name (see
`config.policy`).
"""

from __future__ import annotations

from pathlib import Path

from boig_core.errors import InputError


def is_inner(path: str) -> bool:
    """Whether a path names a place below a folder, on any system: parts between single ``/``, none
    of them ``.`` or ``..``, no backslash, no NUL, and text that has bytes in UTF-8."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return not (set(path) & {"\\", "\0"} or set(path.split("/")) & {"", ".", ".."})


def below(folder: Path, path: str) -> Path:
    """Place of a listed path below a local folder.

    Raises:
        InputError: it would lie elsewhere, or there is no such name on a disk.
    """
    if not is_inner(path):
        raise InputError(
            printable(path),
            f"cannot be the path of a file below {folder}",
            "rename or remove it where it was listed",
        )
    return folder / path


def printable(path: str) -> str:
    """A listed path for a terminal or a log: what is no visible character becomes its escape."""
    return "".join(
        sign if sign.isprintable() else sign.encode("unicode_escape", "surrogatepass").decode()
        for sign in path
    )
