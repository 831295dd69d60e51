"""The store: every input and output lives at a URI, ``s3://bucket/prefix`` or a local folder.

Bulk bytes go through `pyarrow.fs`; control (conditional put, read after write) goes through boto3,
because only a single-part conditional put is atomic on every server. Credentials come from the
standard AWS variables or the instance's role; nothing of them passes through here. Leaves out: what
the files mean (see `manifest`) and when they become true (see `commit`).
"""

from __future__ import annotations

import os
import re
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar
from urllib.parse import unquote, urlsplit

from boig_core.errors import (
    BoigError,
    InputError,
    NotFoundInStoreError,
    StorePermissionError,
    StoreUnavailableError,
)

if TYPE_CHECKING:
    from pyarrow import fs as pafs

T = TypeVar("T")
_DENIED = {
    "403",
    "AccessDenied",
    "Forbidden",
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "AllAccessDisabled",
}
_MISSING = {"404", "NoSuchKey", "NoSuchBucket", "NotFound"}
_TAKEN = {"412", "PreconditionFailed"}
_CONFLICT = {"409", "ConditionalRequestConflict", "OperationAborted"}
_CONFLICT_TRIES: Final = 5
CREDENTIALS: Final = (
    r"://([^/]*@|.*[?&](X-(Amz|Goog)-(Signature|Credential|Security-Token)|Signature|sig)=)"
)
"""A location with a user, a password or a signature, as a regular expression that JSON Schema
understands, too."""
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
        if not _split(uri)[0]:
            raise InputError(uri, "names no bucket", "write s3://BUCKET/PREFIX")
        return uri.rstrip("/")
    if uri.startswith("file://"):
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


def refuse_secrets(uri: str) -> None:
    """Keep credentials out of locations, since those end in job files, logs and manifests.

    Raises:
        InputError: the location carries a user, a password or a signature; the message does not
            repeat them.
    """
    if re.search(CREDENTIALS, uri):
        scheme = uri.partition("://")[0]
        raise InputError(
            f"{scheme}://...",
            "carries credentials",
            "give them through the standard AWS variables, never in a location",
        )


def filesystem(uri: str) -> tuple[pafs.FileSystem, str]:
    """The pyarrow filesystem of a location and the path in it, for bulk reads and writes."""
    from pyarrow import fs

    if not is_s3(uri):
        return fs.LocalFileSystem(), normalize(uri)
    return _s3_filesystem(), normalize(uri).removeprefix("s3://")


def read_bytes(uri: str) -> bytes:
    """Whole content of a file.

    Raises:
        NotFoundInStoreError, StorePermissionError, StoreUnavailableError.
    """
    if not is_s3(uri):
        with _local_errors(uri):
            return Path(normalize(uri)).read_bytes()
    bucket, key = _split(uri)
    body: bytes = _s3_call(
        uri, lambda: _s3_client().get_object(Bucket=bucket, Key=key)["Body"].read()
    )
    return body


def write_bytes(uri: str, data: bytes) -> None:
    """Write a small file, whole or not at all; an existing one is replaced."""
    if not is_s3(uri):
        with _local_errors(uri), _written_beside(Path(normalize(uri)), data) as temporary:
            os.replace(temporary, normalize(uri))
        return
    bucket, key = _split(uri)
    _s3_call(uri, lambda: _s3_client().put_object(Bucket=bucket, Key=key, Body=data))


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
                os.link(temporary, normalize(uri))
                return True
            except FileExistsError:
                return read_bytes(uri) == data
    bucket, key = _split(uri)
    for left in reversed(range(_CONFLICT_TRIES)):
        try:
            _s3_call(
                uri,
                lambda: _s3_client().put_object(Bucket=bucket, Key=key, Body=data, IfNoneMatch="*"),
            )
            return True
        except _TakenError:
            return read_bytes(uri) == data
        except _ConflictError:  # a writer that races at this moment: nothing is decided yet
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
    bucket, key = _split(uri)
    try:
        _s3_call(uri, lambda: _s3_client().head_object(Bucket=bucket, Key=key))
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
    bucket, key = _split(uri)
    prefix = f"{key}/" if key else ""

    def pages() -> list[File]:
        pages_of_keys = (
            _s3_client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        )
        items = (item for page in pages_of_keys for item in page.get("Contents", []))
        return sorted(
            File(item["Key"][len(prefix) :], item["Size"], item["LastModified"].timestamp())
            for item in items
        )

    return _s3_call(uri, pages)


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
            temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
            try:
                (shutil.move if move else shutil.copyfile)(local, temporary)
                os.replace(temporary, target)
            finally:
                temporary.unlink(missing_ok=True)
        return
    bucket, key = _split(uri)
    _s3_call(uri, lambda: _s3_client().upload_file(str(local), bucket, key))


def download_file(uri: str, local: Path) -> None:
    """Copy one file of the store to a local path, whole or not at all."""
    local.parent.mkdir(parents=True, exist_ok=True)
    temporary = local.with_name(f".{local.name}.{uuid.uuid4().hex}")
    try:
        if is_s3(uri):
            bucket, key = _split(uri)
            _s3_call(uri, lambda: _s3_client().download_file(bucket, key, str(temporary)))
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


@cache
def _probe_once(root: str) -> None:
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
    bucket, key = _split(uri)
    _s3_call(uri, lambda: _s3_client().delete_object(Bucket=bucket, Key=key))


class _TakenError(BoigError):
    """A conditional put found the key taken."""


class _ConflictError(StoreUnavailableError):
    """A put met another writer of the same key; S3 asks to try again."""


def _split(uri: str) -> tuple[str, str]:
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


def _s3_call(uri: str, call: Callable[[], T]) -> T:
    with _clients_lock:
        from boto3.exceptions import Boto3Error, S3UploadFailedError
        from botocore.exceptions import (
            BotoCoreError,
            ClientError,
            NoCredentialsError,
            ParamValidationError,
        )

    try:
        return call()
    except ClientError as exc:
        raise _s3_error(uri, exc.response) from exc
    except S3UploadFailedError as exc:
        cause = exc.__context__
        raise (
            _s3_error(uri, cause.response) if isinstance(cause, ClientError) else _away(uri, exc)
        ) from exc
    except NoCredentialsError as exc:
        raise StorePermissionError(
            uri,
            "no AWS credentials were found",
            "set the standard AWS variables or an instance role",
        ) from exc
    except ParamValidationError as exc:  # before any request: nothing can be stored there
        first = str(exc).partition("\n")[2].partition("\n")[0]
        rule = re.split(r": |, value", first)[0] or "is no address of S3"
        raise NotFoundInStoreError(uri, rule, "write s3://BUCKET/KEY") from exc
    except (BotoCoreError, Boto3Error) as exc:
        raise _away(uri, exc) from exc


def _away(uri: str, exc: Exception) -> StoreUnavailableError:
    return StoreUnavailableError(
        uri, f"the store does not answer ({exc})", "check AWS_ENDPOINT_URL and the network"
    )


def _s3_error(uri: str, response: Any) -> BoigError:
    code = str(response.get("Error", {}).get("Code", ""))
    status = str(response.get("ResponseMetadata", {}).get("HTTPStatusCode", ""))
    if code in _TAKEN or status == "412":
        return _TakenError(uri, "exists", "read it")
    if code in _CONFLICT or status == "409":
        return _ConflictError(uri, f"another writer is at the same key ({code})", "try again")
    if code == "NotImplemented" or status == "501":
        return InputError(
            uri,
            "the server does not know this request (If-None-Match?)",
            "use a server with conditional puts",
        )
    if code in _DENIED or status == "403":
        return StorePermissionError(
            uri,
            f"the store refuses this identity ({code})",
            "grant read and write on the bucket and prefix",
        )
    if code == "NoSuchBucket":
        return NotFoundInStoreError(
            uri, "the bucket does not exist", "create it, or correct the store's URI"
        )
    if code in _MISSING or status == "404":
        return NotFoundInStoreError(uri, "does not exist", "check the location")
    return StoreUnavailableError(
        uri, f"the store answered {status} {code}", "try again; see the server's log"
    )


_clients: dict[tuple[int, str | None], Any] = {}
_clients_lock = threading.Lock()


def _endpoint() -> str | None:
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")


def _s3_client() -> Any:
    """One boto3 client a process and endpoint (clients do not survive a fork)."""
    key = (os.getpid(), _endpoint())
    with (
        _clients_lock
    ):  # threads that import boto3 or make a client at the same time meet it half-made
        if key not in _clients:
            _clients[key] = _new_client()
        return _clients[key]


def _new_client() -> Any:
    from boto3.session import Session
    from botocore.config import Config

    config = Config(
        retries={
            "mode": "standard",
            "total_max_attempts": int(os.environ.get("AWS_MAX_ATTEMPTS", "5")),
        },
        connect_timeout=10,
        read_timeout=60,
        s3={"addressing_style": "path" if _endpoint() else "auto"},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    return Session().client("s3", config=config)


def _reset_after_fork() -> None:
    """A thread of the parent may have held the lock at the fork; nobody would release it here."""
    global _clients_lock
    _clients_lock = threading.Lock()


os.register_at_fork(after_in_child=_reset_after_fork)


def _s3_filesystem() -> pafs.FileSystem:
    from pyarrow import fs

    endpoint = _endpoint()
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
    if not endpoint:
        return fs.S3FileSystem(region=region)
    parts = urlsplit(endpoint)
    return fs.S3FileSystem(
        region=region,
        endpoint_override=parts.netloc,
        scheme="https" if parts.scheme == "https" else "http",
    )
