"""The store's side of a disk: files that appear whole, stay after a power loss and have one writer,
and what the system's refusals mean.

A file is synced before it gets its name, and its folder after that. Leaves out: what is read and
written (see `store`).
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import takewhile
from pathlib import Path
from typing import Final

from boig_core.errors import (
    BoigError,
    InfrastructureError,
    InputError,
    NotFoundInStoreError,
    StorePermissionError,
    StoreUnavailableError,
)
from boig_core.storage.paths import printable

# Names that files have while this module writes them: a listing that showed them would name what
# is gone a moment later.
_TEMPORARY = re.compile(r"^\..+\.[0-9a-f]{32}$")
_FULL: Final = (errno.ENOSPC, errno.EDQUOT)
_FULL_WORDS: Final = tuple(os.strerror(number) for number in _FULL)
_NO_LINKS: Final = (
    *(errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP),
    *(errno.ENOSYS, errno.EXDEV, errno.EMLINK),
)


@contextmanager
def errors(place: str | Path, target: Path | None = None) -> Iterator[None]:
    """What the system refuses at a place becomes an error of the store.

    Args:
        place: what is read or written; stands in the errors.
        target: where a copy of it goes, which is the disk that may be full; None: the place itself.
    """
    try:
        yield
    except BoigError:  # some are OSErrors as well
        raise
    except FileNotFoundError as exc:
        raise NotFoundInStoreError(place, "does not exist", "check the location") from exc
    except (NotADirectoryError, FileExistsError, IsADirectoryError) as exc:
        raise InputError(
            place, "a file stands where a folder belongs, or the reverse", "choose another location"
        ) from exc
    except PermissionError as exc:
        raise StorePermissionError(
            place, "permission denied", "give this user read and write access"
        ) from exc
    except OSError as exc:
        if exc.errno in _FULL:
            raise _full(target or place) from exc
        if exc.errno in (errno.ENAMETOOLONG, errno.ELOOP):
            raise InputError(
                place, f"is no path on this system ({exc.strerror})", "choose another location"
            ) from exc
        raise StoreUnavailableError(
            place, f"cannot be used ({exc.strerror})", "check the disk and try again"
        ) from exc
    except ValueError as exc:  # a NUL, or a surrogate that stands for no byte
        raise InputError(
            printable(str(place)), "is no path on this system", "choose another location"
        ) from exc


def full_disk(exc: BaseException) -> InfrastructureError | None:
    """The error to tell where a disk was full while anything was written; None: that was not it."""
    # Libraries such as duckdb and torch raise errors of their own, which hold the system's words.
    if (isinstance(exc, OSError) and exc.errno in _FULL) or any(
        words in str(exc) for words in _FULL_WORDS
    ):
        return _full(getattr(exc, "filename", None) or "a disk of this machine")
    return None


def _full(place: str | Path) -> InfrastructureError:
    return InfrastructureError(
        place, "the disk is full", "free room there, or set TMPDIR to a larger disk, and try again"
    )


def files(root: Path) -> Iterator[tuple[str, int, float]]:
    """Path, size and time of each file below a folder, in any order; what others are just writing
    or removing does not count."""
    for path in root.rglob("*"):
        if _TEMPORARY.match(path.name):
            continue
        with suppress(FileNotFoundError):
            if path.is_file():
                stat = path.stat()
                yield path.relative_to(root).as_posix(), stat.st_size, stat.st_mtime


def children(folder: Path) -> list[str]:
    """Names right below a folder, those of folders with a slash at their end."""
    if not folder.is_dir():
        return []
    return [f"{path.name}/" if path.is_dir() else path.name for path in folder.iterdir()]


def remove_unfinished(root: Path) -> None:
    """Remove what writers that were killed have left below a folder."""
    for path in root.rglob(".*"):
        if _TEMPORARY.match(path.name):
            path.unlink(missing_ok=True)


def write(target: Path, data: bytes) -> None:
    """Write a small file, whole or not at all; an existing one is replaced."""
    with written_beside(target, data) as temporary:
        os.replace(temporary, target)
    sync_folder(target.parent)


def create(target: Path, data: bytes) -> bool:
    """Create a small file, whole; False: there was one.

    Raises:
        InputError: the file system knows no hard links.
    """
    with written_beside(target, data) as temporary:
        try:
            # open(O_EXCL) would show a half-written file, and a rename would replace one that is
            # there; a link does neither.
            os.link(temporary, target)
        except FileExistsError:
            return False
        except OSError as exc:
            if exc.errno not in _NO_LINKS:
                raise
            raise InputError(
                target.parent,
                f"its file system makes no hard links ({exc.strerror}), so commits would not be exclusive",
                "keep the store on one that does, such as ext4, xfs, btrfs, apfs or NFS, or on S3",
            ) from exc
    sync_folder(target.parent)
    return True


def place(source: Path, target: Path, move: bool = False) -> None:
    """Copy a file to its place, whole or not at all; `sync_folder` of the target's folder has to
    follow. ``move``: the source may be gone afterwards."""
    make_folder(target.parent)
    # In the target's folder, since a rename is atomic within one file system only: a reader sees
    # the old file or the new one, wherever the source lies.
    temporary = _beside(target)
    try:
        (shutil.move if move else shutil.copyfile)(source, temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def rename(source: Path, target: Path) -> None:
    """Move a file within a store; parts of a store may be on disks of their own."""
    make_folder(target.parent)
    try:
        os.rename(source, target)
    except OSError as exc:
        if exc.errno != errno.EXDEV:
            raise
        place(source, target)
        source.unlink()
    sync_folder(target.parent)


@contextmanager
def written_beside(target: Path, data: bytes) -> Iterator[Path]:
    """A synced temporary file in the target's folder."""
    make_folder(target.parent)
    temporary = _beside(target)
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            # Before the file gets its name: after a power loss no name may stand for less than the
            # whole content.
            os.fsync(file.fileno())
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, so that they stay."""
    missing = list(takewhile(lambda path: not path.exists(), (folder, *folder.parents)))
    folder.mkdir(parents=True, exist_ok=True)
    sync_folders(path.parent for path in missing)


def sync_folders(folders: Iterable[Path]) -> None:
    """`sync_folder` for each of them, once."""
    for folder in dict.fromkeys(folders):
        sync_folder(folder)


def sync_folder(folder: Path) -> None:
    """See that the names in a folder stay after a power loss."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as exc:
        # Some file systems, those of networks and FUSE among them, sync no folders.
        if exc.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EBADF):
            raise
    finally:
        os.close(descriptor)


def _beside(target: Path) -> Path:
    return target.with_name(f".{target.name}.{uuid.uuid4().hex}")
