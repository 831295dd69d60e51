"""The store: every input and output lives at a URI, ``s3://bucket/prefix`` or a local folder.

Bulk bytes go through `pyarrow.fs`; control (conditional put, read after write) goes through boto3,
because only a single-part conditional put is atomic on every server. Credentials come from the
standard AWS variables or the instance's role; nothing of them passes through here. Leaves out: what
the files mean (see `manifest`), when they become true (see `commit`), and how S3 and the system are
spoken to (see `s3` and `disk`).
"""

from __future__ import annotations

import os
import re
import shutil
import time
import uuid
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from boig_core.config.locations import as_meant, file_url_path
from boig_core.errors import (
    InputError,
    NotFoundInStoreError,
    StoreUnavailableError,
)
from boig_core.storage import disk, paths, s3
from boig_core.storage.credentials import refuse_secrets

if TYPE_CHECKING:
    from pyarrow import fs as pafs

PROBE: Final = ".probe"
"""Folder below a store's root of files that are written to learn something of it, and removed."""
_CONFLICT_TRIES: Final = 5


def join(uri: str, *parts: str) -> str:
    """Append path parts to a location."""
    return "/".join([uri.rstrip("/"), *(part.strip("/") for part in parts)])


def name(uri: str) -> str:
    """Last part of a location."""
    return uri.rstrip("/").rsplit("/", 1)[-1]


def is_s3(uri: str) -> bool:
    """Whether the location is in an S3-compatible store."""
    return uri.startswith("s3://")


def normalize(uri: str) -> str:
    """An absolute location without a trailing slash.

    Raises:
        InputError: a scheme other than ``s3`` or ``file``, an S3 location without a bucket, or one
            that carries credentials.
    """
    refuse_secrets(uri)
    if is_s3(uri):
        if not bucket_and_key(uri)[0]:
            raise InputError(uri, "names no bucket", "write s3://BUCKET/PREFIX")
        return uri.rstrip("/")
    if uri.startswith("file://"):
        # A file:// address is a URL, so its path is quoted; a plain path is taken as it stands.
        uri = file_url_path(uri)
    elif re.match(r"^[A-Za-z][A-Za-z0-9+.-]*://", uri):
        raise InputError(uri, "is no store", "use s3://BUCKET/PREFIX or a local folder")
    return os.path.abspath(os.path.expanduser(uri))


def normalize_source(uri: str) -> str:
    """Like `normalize`, for a location that is only read: as it was meant, and a web address stays.

    Raises:
        InputError: as `normalize`, or a path of a Windows machine.
    """
    uri = as_meant(uri)
    if re.match(r"https?://", uri):
        refuse_secrets(uri)
        return uri
    return normalize(uri)


def filesystem(uri: str) -> tuple[pafs.FileSystem, str]:
    """The pyarrow filesystem of a location and the path in it, for bulk reads and writes."""
    from pyarrow import fs

    if not is_s3(uri):
        return fs.LocalFileSystem(), normalize(uri)
    return s3.new_filesystem(), normalize(uri).removeprefix("s3://")


def read_bytes(uri: str, most: int | None = None) -> bytes:
    """Content of a file.

    Args:
        uri: the file.
        most: read no more than so many bytes; None: all of them.

    Raises:
        NotFoundInStoreError: there is no such file.
        StorePermissionError: the store refuses this identity.
        StoreUnavailableError: the store does not answer.
    """
    if not is_s3(uri):
        with disk.errors(uri), Path(normalize(uri)).open("rb") as file:
            return file.read(-1 if most is None else most)
    bucket, key = bucket_and_key(uri)

    def read() -> bytes:
        with closing(s3.client().get_object(Bucket=bucket, Key=key)["Body"]) as body:
            if most is None:
                return bytes(body.read())
            content = b""
            # Up to an empty piece: there the length is checked, so that a connection which was cut
            # is no short file.
            while len(content) < most and (piece := body.read(most - len(content))):
                content += piece
            return content

    body: bytes = s3.call(uri, read)
    return body


def write_bytes(uri: str, data: bytes) -> None:
    """Write a small file, whole or not at all; an existing one is replaced."""
    if not is_s3(uri):
        with disk.errors(uri):
            disk.write(Path(normalize(uri)), data)
        return
    bucket, key = bucket_and_key(uri)
    s3.call(uri, lambda: s3.client().put_object(Bucket=bucket, Key=key, Body=data))


def put_if_absent(uri: str, data: bytes) -> bool:
    """Create a small file unless it exists, atomically: exactly one of many racing writers gets
    True.

    On S3 a single-part put with ``If-None-Match: *``; locally an exclusive hard link. After a lost
    race or an unclear answer the file is read back: finding one's own bytes means success, so
    ``data`` must hold a token of its writer.
    """
    if not is_s3(uri):
        with disk.errors(uri):
            return disk.create(Path(normalize(uri)), data) or read_bytes(uri) == data
    bucket, key = bucket_and_key(uri)
    for left in reversed(range(_CONFLICT_TRIES)):
        try:
            s3.call(
                uri,
                lambda: s3.client().put_object(Bucket=bucket, Key=key, Body=data, IfNoneMatch="*"),
            )
            return True
        except s3.TakenError:
            # The client repeats a put whose answer was lost, so its first try may have the key.
            return read_bytes(uri) == data
        except s3.ConflictError:  # a writer that races at this moment: nothing is decided yet
            if not left:
                raise
            time.sleep(0.2)
        except StoreUnavailableError:  # the answer is lost, not necessarily the write
            if exists(uri):
                return read_bytes(uri) == data
            raise
    raise AssertionError("unreachable")


def exists(uri: str) -> bool:
    """Whether a file exists (for a folder ask for its manifest or commit)."""
    if not is_s3(uri):
        with disk.errors(uri):
            return Path(normalize(uri)).is_file()
    bucket, key = bucket_and_key(uri)
    try:
        s3.call(uri, lambda: s3.client().head_object(Bucket=bucket, Key=key))
        return True
    except NotFoundInStoreError:
        return False


class File(NamedTuple):
    """A file below a folder: ``path`` relative to it, ``size`` in bytes, ``modified`` in seconds
    since 1970."""

    path: str
    size: int
    modified: float


def list_files(uri: str) -> list[tuple[str, int]]:
    """Files below a folder as (path relative to it, size in bytes), sorted."""
    return [(file.path, file.size) for file in list_with_times(uri)]


def list_with_times(uri: str) -> list[File]:
    """Files below a folder, sorted by path."""
    return sorted(walk(uri))


def children(uri: str) -> list[str]:
    """Names right below a folder, sorted, those of folders with a slash at their end; empty when
    there is no such folder."""
    if is_s3(uri):
        bucket, key = bucket_and_key(uri)
        return sorted(s3.children(uri, bucket, f"{key}/" if key else ""))
    with disk.errors(uri):
        return sorted(disk.children(Path(normalize(uri))))


def walk(uri: str) -> Iterator[File]:
    """Files below a folder in any order, as they come: for whoever looks for one of many."""
    if not is_s3(uri):
        with disk.errors(uri):
            yield from (File(*file) for file in disk.files(Path(normalize(uri))))
        return
    bucket, key = bucket_and_key(uri)
    # With the slash: a listing of `datasets/posts` must not hold `datasets/posts-2`.
    prefix = f"{key}/" if key else ""
    for item in s3.objects(uri, bucket, prefix):
        path = item["Key"][len(prefix) :]
        # What consoles show as a folder is an empty object whose key ends in a slash.
        if item["Size"] or not item["Key"].endswith("/"):
            yield File(path, item["Size"], item["LastModified"].timestamp())


def modified(uri: str) -> float:
    """When a file was last written, by the store's clock, in seconds since 1970.

    Raises:
        NotFoundInStoreError: there is no such file.
    """
    if not is_s3(uri):
        with disk.errors(uri):
            return Path(normalize(uri)).stat().st_mtime
    bucket, key = bucket_and_key(uri)
    answer = s3.call(uri, lambda: s3.client().head_object(Bucket=bucket, Key=key))
    return float(answer["LastModified"].timestamp())


def move_file(uri: str, target: str, before: float) -> bool:
    """Move a file within a store, on S3 by a copy that the server makes.

    A move that is cut short leaves the file in its old place, or in both.

    Args:
        uri: the file.
        target: where it goes.
        before: a file that was written since (by the store's clock) stays.

    Returns:
        Whether it was moved; False: it has changed, or is gone.
    """
    try:
        if modified(uri) >= before:
            return False
        if not is_s3(uri):
            with disk.errors(uri):
                disk.rename(Path(normalize(uri)), Path(normalize(target)))
            return True
        s3.copy(uri, bucket_and_key(uri), bucket_and_key(target))
        # Asked once more: what came in while the server copied would be lost with the old file.
        if modified(uri) >= before:
            delete_file(target)
            return False
    except NotFoundInStoreError:
        return False
    delete_file(uri)
    return True


def upload_folder(local: Path, uri: str) -> None:
    """Copy a local folder's files into the store, synced; files of the same name are replaced."""
    folders = set()
    for path in sorted(p for p in local.rglob("*") if p.is_file()):
        folders.add(_place(path, join(uri, path.relative_to(local).as_posix()), move=False))
    _sync(uri, folders)


def upload_file(local: Path, uri: str, move: bool = False) -> None:
    """Copy one local file into the store, synced; on S3 in parts when it is large. ``move``: the
    local file may be gone afterwards."""
    _sync(uri, {_place(local, uri, move)})


def _place(local: Path, uri: str, move: bool) -> Path | None:
    """Copy one file; returns the folder that has to be synced, if any."""
    if not is_s3(uri):
        target = Path(normalize(uri))
        with disk.errors(uri):
            disk.place(local, target, move)
        return target.parent
    bucket, key = bucket_and_key(uri)
    s3.call(uri, lambda: s3.client().upload_file(str(local), bucket, key))
    return None


def _sync(uri: str, folders: Iterable[Path | None]) -> None:
    with disk.errors(uri):
        disk.sync_folders(folder for folder in folders if folder is not None)


def download_file(uri: str, local: Path) -> None:
    """Copy one file of the store to a local path, whole or not at all."""
    temporary = local.with_name(f".{local.name}.{uuid.uuid4().hex}")
    # Outside, what this side refuses: its disk may be full, or a file stand in the way.
    with disk.errors(local):
        local.parent.mkdir(parents=True, exist_ok=True)
        try:
            if is_s3(uri):
                bucket, key = bucket_and_key(uri)
                s3.call(uri, lambda: s3.client().download_file(bucket, key, str(temporary)))
            else:
                with disk.errors(uri, target=local):
                    shutil.copyfile(normalize(uri), temporary)
            os.replace(temporary, local)
        finally:
            temporary.unlink(missing_ok=True)


def download_folder(uri: str, local: Path) -> None:
    """Copy all files below a folder of the store.

    Raises:
        InputError: a file's key is no path below ``local``; nothing was copied.
    """
    targets = {path: paths.below(local, path) for path, _ in list_files(uri)}
    for path, target in targets.items():
        download_file(join(uri, path), target)


def probe(root: str) -> None:
    """Prove that a store can be written, read and conditionally put, once a process and store.

    Raises:
        StorePermissionError: this identity may not write there.
        InputError: the server does not hold ``If-None-Match`` against racing or later writers.
        StoreUnavailableError: no answer.
    """
    _probe_once(normalize(root))


# An exception is not cached: a store that has failed is probed again.
@cache
def _probe_once(root: str) -> None:
    # A key of its own, since several machines may probe one store at the same time.
    uri = join(root, PROBE, uuid.uuid4().hex)
    writers = [f"writer {n}".encode() for n in range(4)]
    try:
        with ThreadPoolExecutor(
            len(writers)
        ) as pool:  # some servers hold the condition against writers in turn, not against a race
            won = list(pool.map(lambda data: put_if_absent(uri, data), writers))
        exclusive = (
            won.count(True) == 1
            and read_bytes(uri) == writers[won.index(True)]
            and not put_if_absent(uri, b"late")
        )
    finally:
        delete_file(uri)
    if not exclusive:
        raise InputError(
            root,
            "the store does not hold If-None-Match, so commits would not be exclusive",
            "use a server that does",
        )


def delete_file(uri: str) -> None:
    """Remove one file; a missing one is no error."""
    if not is_s3(uri):
        with disk.errors(uri):
            Path(normalize(uri)).unlink(missing_ok=True)
        return
    bucket, key = bucket_and_key(uri)
    s3.call(uri, lambda: s3.client().delete_object(Bucket=bucket, Key=key))


def remove_unfinished(uri: str) -> None:
    """Remove what writers that were killed have left below a folder, where nobody writes now; on S3
    nothing shows before it is whole."""
    if not is_s3(uri):
        with disk.errors(uri):
            disk.remove_unfinished(Path(normalize(uri)))


def bucket_and_key(uri: str) -> tuple[str, str]:
    """Bucket and key of an S3 location; ``?`` and ``#`` are ordinary characters of a key."""
    bucket, _, key = uri.removeprefix("s3://").rstrip("/").partition("/")
    return bucket, key
