"""Opening a posts file: its bytes or rows from disk, S3 or the web, unpacked where they are packed,
and never more than a posts file may hold.

A file from the web comes through the same door as an image: each address is checked, redirects too,
and all of it must come in time. Leaves out: what the bytes say (see `sources`).
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import re
import tempfile
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import IO, Any, Final, cast

from boig_core.config import Data
from boig_core.data.fetching.pages import START, describe_page
from boig_core.data.fetching.web import MAX_REDIRECTS, REDIRECTS, TRANSIENT, TooSlow, Web, next_hop
from boig_core.data.reading.parquet import UnreadableParquetError, read_parquet
from boig_core.data.rejects import Again, Rejected
from boig_core.errors import (
    InfrastructureError,
    InputError,
    NotFoundInStoreError,
    StoreUnavailableError,
)
from boig_core.storage import store

_WEB_SECONDS: Final = 3600.0
"""Time for a posts file from the web, redirects included: 32 GiB at 9 MiB/s."""
_WEB_BYTES: Final = 32 * 2**30
"""Bytes of a posts file from the web, which goes by way of this machine's disk: some hundred
million posts, packed. What is larger belongs into the store, from which it is streamed."""
MOST_UNPACKED: Final = 512 * 2**30
"""Bytes of a posts file, unpacked: some five hundred million posts."""
_PIECE: Final = 2**20
_PLAIN_START: Final = 256 * 2**20
_RATIO: Final = 200
"""From so many bytes on, a packed file may unpack to at most so many times its size. Posts as JSON
or CSV shrink to a fifth or a twentieth, what is made to fill memory and disks to a thousandth."""


_kept: ContextVar[Path | None] = ContextVar("kept", default=None)
"""Folder of files from the web that are opened again."""


@contextmanager
def keep_downloads() -> Iterator[None]:
    """As long as this lasts, a posts file from the web is fetched once, however often this thread
    opens it."""
    with tempfile.TemporaryDirectory(prefix="boig-posts-") as folder:
        token = _kept.set(Path(folder))
        try:
            yield
        finally:
            _kept.reset(token)


@contextmanager
def open_posts(uri: str, data: Data) -> Iterator[IO[bytes]]:
    """A posts file, unpacked where its bytes are gzip.

    Args:
        uri: a local path, ``s3://`` or ``http(s)://``.
        data: limits of the recipe, which hold for the web.

    Raises:
        InputError: there is none, its host is refused, or it holds more than a posts file may; the
            latter also while it is read, as what is torn.
        StorePermissionError, StoreUnavailableError.
    """
    try:
        with _stored(uri, data) as place:
            filesystem, path = store.filesystem(place)
            with filesystem.open_input_file(path) as file:
                # In large pieces, since each piece of an object in S3 is a request.
                source = io.BufferedReader(cast(Any, file), _PIECE)
                # By its bytes, whatever its name: on its way here HTTP or a browser may have
                # unpacked what is called .gz, and no text starts like this.
                packed = source.peek(2)[:2] == b"\x1f\x8b"
                plain = cast(IO[bytes], gzip.GzipFile(fileobj=source) if packed else source)
                bounded = _BoundedStream(uri, plain, source if packed else None)
                stream = io.BufferedReader(bounded, _PIECE)
                if kind := describe_page(stream.peek(START)):
                    raise InputError(
                        uri, f"is {kind}, and no posts file", "give the address of the file itself"
                    )
                yield cast(IO[bytes], stream)
    except FileNotFoundError as exc:
        raise NotFoundInStoreError(uri, "does not exist", "check the location") from exc
    # A torn gzip shows only when it is read, maybe after many good rows.
    except (gzip.BadGzipFile, EOFError, zlib.error) as exc:
        raise InputError(
            uri,
            f"cannot be unpacked ({' '.join(str(exc).split())})",
            "export the posts again, or without gzip",
        ) from exc


def peek_start(file: IO[bytes]) -> tuple[bytes, bool]:
    """The first bytes of a stream that `open_posts` gives, which stay in it, and whether they are
    all."""
    start = cast(io.BufferedReader, file).peek(1)
    return start, len(start) < _PIECE


def parquet_rows(uri: str, data: Data) -> Iterator[dict[str, Any] | Rejected]:
    """Rows of a Parquet file, or why there is none; arguments and errors are those of
    `open_posts`."""
    unpacked = 0
    with _stored(uri, data) as place:
        try:
            for row, size in read_parquet(place):
                yield (
                    Rejected("row_too_large", f"the row has {size} characters")
                    if row is None
                    else row
                )
                unpacked += size
                if unpacked > MOST_UNPACKED:
                    raise _unpacks_too_far(uri, f"{MOST_UNPACKED} bytes")
        except UnreadableParquetError as exc:
            raise InputError(uri, str(exc), "export the posts again, or as JSON lines") from exc


def path_of(uri: str) -> str:
    """A location without the query and fragment of a web address, which stand behind the suffix."""
    return re.sub(r"[?#].*$", "", uri) if re.match(r"https?://", uri) else uri


class _BoundedStream(io.RawIOBase):
    """A stream that ends in an error where it gives more than a posts file may hold."""

    def __init__(self, uri: str, stream: IO[bytes], packed: IO[bytes] | None) -> None:
        super().__init__()
        self._uri, self._stream, self._packed, self._given = uri, stream, packed, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        piece = self._stream.read(len(buffer))
        buffer[: len(piece)] = piece
        self._given += len(piece)
        bomb = (
            self._packed is not None
            and self._given > _PLAIN_START
            and self._given > _RATIO * self._packed.tell()
        )
        if bomb or self._given > MOST_UNPACKED:
            raise _unpacks_too_far(
                self._uri,
                f"{_RATIO} times its size" if bomb else f"{MOST_UNPACKED} bytes",
            )
        return len(piece)


def _unpacks_too_far(uri: str, most: str) -> InputError:
    return InputError(
        uri,
        f"unpacks to more than {most}",
        "see what it holds; posts are cut into several files and named by a glob",
    )


@contextmanager
def _stored(uri: str, data: Data) -> Iterator[str]:
    """Where a posts file can be read in any order: a path, or a location in S3."""
    if not re.match(r"https?://", uri):
        if not store.exists(uri):
            raise InputError(
                uri, "does not exist", "give the posts file of an export, its folder, or a glob"
            )
        yield uri
        return
    folder = _kept.get()
    kept = folder and folder / hashlib.sha256(uri.encode()).hexdigest()
    if kept and kept.exists():
        yield str(kept)
        return
    with tempfile.NamedTemporaryFile(prefix="boig-posts-", dir=folder) as spool:
        _download(uri, data, cast(IO[bytes], spool))
        spool.flush()
        if kept:
            os.link(spool.name, kept)
        yield spool.name


def _keep(spool: IO[bytes], piece: bytes) -> None:
    try:
        spool.write(piece)
    except OSError as exc:
        raise InfrastructureError(
            tempfile.gettempdir(),
            f"cannot hold the posts file ({exc.strerror})",
            "free space there, or set TMPDIR",
        ) from exc


def _download(uri: str, data: Data, spool: IO[bytes]) -> None:
    web, deadline, place = Web(data), time.monotonic() + _WEB_SECONDS, uri
    try:
        for _ in range(MAX_REDIRECTS + 1):
            with web.get(place, deadline - time.monotonic()) as answer:
                status, headers = answer.response.status, answer.response.headers
                if status in REDIRECTS and headers.get("Location"):
                    place = next_hop(place, str(headers["Location"]))
                    continue
                if status in TRANSIENT:
                    raise Again(f"answers {status}")
                if status != 200:
                    raise InputError(uri, f"answers {status}", "check the address of the posts")
                written = 0
                for piece in answer.pieces():
                    written += len(piece)
                    if written > _WEB_BYTES:
                        raise InputError(
                            uri,
                            f"has more than {_WEB_BYTES} bytes",
                            "copy it into the store, and name that place",
                        )
                    _keep(spool, piece)
                return
        raise InputError(uri, f"redirects more than {MAX_REDIRECTS} times", "give its last address")
    except (Again, TooSlow) as exc:
        raise StoreUnavailableError(
            uri, f"cannot be read ({exc})", "check the address and try again"
        ) from exc
    except Rejected as exc:
        raise InputError(
            uri, exc.reason, "give another address, or copy the file into the store"
        ) from exc
