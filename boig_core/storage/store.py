"""The store: every input and output lives at a URI, ``s3://bucket/prefix`` or a local folder.

Bulk bytes go through `pyarrow.fs`; control (conditional put, read after write) goes through boto3,
because only a single-part conditional put is atomic on every server. Credentials come from the
standard AWS variables or the instance's role; nothing of them passes through here. Leaves out: what
the files mean (see `manifest`), when they become true (see `commit`), and how S3 is spoken to (see
`s3`).
"""

from __future__ import annotations

import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import unquote, urlsplit

from boig_core.errors import (
    BoigError,
    InputError,
    NotFoundInStoreError,
    StorePermissionError,
    StoreUnavailableError,
)
from boig_core.storage import s3
from boig_core.storage.credentials import refuse_secrets

if TYPE_CHECKING:
    from pyarrow import fs as pafs

_CONFLICT_TRIES: Final = 5
# Names that files have while this module writes them: a listing that showed them would name what
# is gone a moment later.
_TEMPORARY = re.compile(r"^\..+\.[0-9a-f]{32}$")


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
        uri = unquote(urlsplit(uri).path)
    elif re.match(r"^[A-Za-z][A-Za-z0-9+.-]*://", uri):
        raise InputError(uri, "is no store", "use s3://BUCKET/PREFIX or a local folder")
    return os.path.abspath(os.path.expanduser(uri))


def normalize_source(uri: str) -> str:
    """Like `normalize`, for a location that is only read: a web address stays as it is.

    Raises:
        InputError: as `normalize`.
    """
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
        with _local_errors(uri), Path(normalize(uri)).open("rb") as file:
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
        with _local_errors(uri), _written_beside(Path(normalize(uri)), data) as temporary:
            os.replace(temporary, normalize(uri))
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
        with _local_errors(uri), _written_beside(Path(normalize(uri)), data) as temporary:
            try:
                # open(O_EXCL) would show a half-written file, and a rename would replace one that
                # is there; a link does neither.
                os.link(temporary, normalize(uri))
                return True
            except FileExistsError:
                return read_bytes(uri) == data
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
        with _local_errors(uri):
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
    """Files below a folder as (path relative to it, size in bytes), sorted; empty when there are
    none."""
    return [(file.path, file.size) for file in list_with_times(uri)]


def list_with_times(uri: str) -> list[File]:
    """Files below a folder, sorted by path; empty when there are none."""
    if not is_s3(uri):
        root = Path(normalize(uri))
        with _local_errors(uri):
            return sorted(_local_files(root))
    bucket, key = bucket_and_key(uri)
    # With the slash: a listing of `datasets/posts` must not hold `datasets/posts-2`.
    prefix = f"{key}/" if key else ""

    # A function, since later pages are asked for as they are read: their errors, too, have to
    # become those of the store.
    def pages() -> list[File]:
        pages_of_keys = (
            s3.client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        )
        items = (item for page in pages_of_keys for item in page.get("Contents", []))
        return sorted(
            File(item["Key"][len(prefix) :], item["Size"], item["LastModified"].timestamp())
            for item in items
        )

    return s3.call(uri, pages)


def upload_folder(local: Path, uri: str) -> None:
    """Copy a local folder's files into the store; files of the same name are replaced."""
    for path in sorted(p for p in local.rglob("*") if p.is_file()):
        upload_file(path, join(uri, path.relative_to(local).as_posix()))


def upload_file(local: Path, uri: str, move: bool = False) -> None:
    """Copy one local file into the store; on S3 in parts when it is large. ``move``: the local file
    may be gone afterwards."""
    if not is_s3(uri):
        target = Path(normalize(uri))
        with _local_errors(uri):
            target.parent.mkdir(parents=True, exist_ok=True)
            # In the target's folder, since a rename is atomic within one file system only: a reader
            # sees the old file or the new one, wherever `local` lies.
            temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
            try:
                (shutil.move if move else shutil.copyfile)(local, temporary)
                os.replace(temporary, target)
            finally:
                temporary.unlink(missing_ok=True)
        return
    bucket, key = bucket_and_key(uri)
    s3.call(uri, lambda: s3.client().upload_file(str(local), bucket, key))


def download_file(uri: str, local: Path) -> None:
    """Copy one file of the store to a local path, whole or not at all."""
    local.parent.mkdir(parents=True, exist_ok=True)
    temporary = local.with_name(f".{local.name}.{uuid.uuid4().hex}")
    try:
        if is_s3(uri):
            bucket, key = bucket_and_key(uri)
            s3.call(uri, lambda: s3.client().download_file(bucket, key, str(temporary)))
        else:
            with _local_errors(uri):
                shutil.copyfile(normalize(uri), temporary)
        os.replace(temporary, local)
    finally:
        temporary.unlink(missing_ok=True)


def download_folder(uri: str, local: Path) -> None:
    """Copy all files below a folder of the store."""
    for path, _ in list_files(uri):
        download_file(join(uri, path), local / path)


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
    uri = join(root, ".probe", uuid.uuid4().hex)
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
        with _local_errors(uri):
            Path(normalize(uri)).unlink(missing_ok=True)
        return
    bucket, key = bucket_and_key(uri)
    s3.call(uri, lambda: s3.client().delete_object(Bucket=bucket, Key=key))


def bucket_and_key(uri: str) -> tuple[str, str]:
    """Bucket and key of an S3 location; ``?`` and ``#`` are ordinary characters of a key."""
    bucket, _, key = uri.removeprefix("s3://").rstrip("/").partition("/")
    return bucket, key


def _local_files(root: Path) -> Iterator[File]:
    """Each file below a folder; what others are just writing or removing does not count."""
    for path in root.rglob("*"):
        if _TEMPORARY.match(path.name):
            continue
        with suppress(FileNotFoundError):
            if path.is_file():
                stat = path.stat()
                yield File(path.relative_to(root).as_posix(), stat.st_size, stat.st_mtime)


@contextmanager
def _written_beside(target: Path, data: bytes) -> Iterator[Path]:
    """A synced temporary file in the target's folder."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
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


@contextmanager
def _local_errors(uri: str) -> Iterator[None]:
    try:
        yield
    except BoigError:  # some are OSErrors as well
        raise
    except FileNotFoundError as exc:
        raise NotFoundInStoreError(uri, "does not exist", "check the location") from exc
    except (NotADirectoryError, FileExistsError, IsADirectoryError) as exc:
        raise InputError(
            uri, "a file stands where a folder belongs, or the reverse", "choose another location"
        ) from exc
    except PermissionError as exc:
        raise StorePermissionError(
            uri, "permission denied", "give this user read and write access"
        ) from exc
    except OSError as exc:
        raise StoreUnavailableError(
            uri, f"cannot be used ({exc.strerror})", "check the disk and try again"
        ) from exc
