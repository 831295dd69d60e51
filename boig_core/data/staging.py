"""Staging: images fetched chunk by chunk straight into shards, so that a restart does not fetch
again what is safe.

References come in chunks by a hash of their names: which chunk an image is in, and so in which
shard, is a pure function of the references and what they lead to, whatever the number of workers. A
chunk's images become one shard (more when they are large), sorted by hash and each once; then its
index appears at ``datasets/NAME/staging/KEY.parquet``, whole or not at all: the key says what was
asked for, and where the index is, the shards are. Leaves out: spreading chunks over workers (see
`cluster.ingest`).
"""

from __future__ import annotations

import hashlib
import json
import math
import mmap
import tempfile
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice
from typing import IO, TYPE_CHECKING, Any, Final

from boig_core.config import Data
from boig_core.data import dataset, tables
from boig_core.data.fetching.fetch import Fetcher
from boig_core.data.fetching.reach import ImageReference, Reach
from boig_core.data.imaging.images import StoredImage
from boig_core.data.rejects import Rejected
from boig_core.storage import store

if TYPE_CHECKING:
    import pyarrow as pa

CHUNK: Final = 256
"""References of the first chunk; the following have as many as fill a shard, at the size that
images of the first one have."""
# Where images are tiny, this bounds what is fetched again when a worker dies.
_LARGEST_CHUNK: Final = 4096
_INDEX: Final = (
    "chunk",
    "base",
    "address",
    "sha256",
    "width",
    "height",
    "fingerprint",
    "shard",
    "shard_sha256",
    "shard_bytes",
    "code",
    "reason",
)
_LIMITS: Final = (
    "max_image_mb",
    "max_pixels",
    "image_format",
    "image_quality",
    "shard_mb",
    "allow_private_hosts",
    "user_agent",
)
"""Fields of the recipe that decide what becomes of a reference."""


@dataclass(frozen=True)
class FetchChunk:
    """References to fetch together: its ``number`` in the ingestion, its ``key``, the
    ``references``, and how far they may ``reach``."""

    number: int
    key: str
    references: tuple[ImageReference, ...]
    reach: Reach


def make_chunks(
    references: Iterable[ImageReference], data: Data, reach: Reach, size: int, first: int = 0
) -> Iterator[FetchChunk]:
    """Cut references, which come in their final order, into chunks of ``size``, numbered from
    ``first``."""
    limits = data.model_dump(mode="json", include=set(_LIMITS)) | {"roots": reach.roots}
    waiting = iter(references)
    for number in count(first):
        batch = tuple(islice(waiting, size))
        if not batch:
            return
        # Limits belong to the question: under others a reference may come out otherwise, and an
        # index from before must not answer for it.
        asked = json.dumps([limits, batch], sort_keys=True).encode()
        yield FetchChunk(number, hashlib.sha256(asked).hexdigest()[:32], batch, reach)


def chunk_size(index: pa.Table, data: Data) -> int:
    """References that fill a shard, by the index of the first chunk."""
    # By shard, since a shard's size stands in the row of each of its images.
    total = sum(
        {
            row["shard"]: int(row["shard_bytes"])
            for row in index.to_pylist()
            if row["shard"] is not None
        }.values()
    )
    return (
        max(1, min(_LARGEST_CHUNK, round(data.shard_mb * 2**20 * index.num_rows / total)))
        if total
        else CHUNK
    )


def stage(chunk: FetchChunk, data: Data, root: str) -> pa.Table:
    """Fetch a chunk into shards, unless it is staged already.

    Args:
        chunk: what to fetch.
        data: limits of the recipe.
        root: URI of ``datasets/NAME``.

    Returns:
        Its index: one row per reference: ``sha256``, sizes and shard, or ``code`` and ``reason``.

    Raises:
        StoreUnavailableError: the store is away.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    uri = _uri(root, chunk.key)
    if not store.exists(uri):
        with tempfile.TemporaryFile(prefix="boig-stage-") as file:
            spool = _Spool(file, _most(data))
            rows = _fetch_into(spool, chunk, data)
            shards = _write_shards(spool, rows, data, root)
        for row in rows:
            row |= shards.get(row.get("sha256", ""), {})
        sink = pa.BufferOutputStream()
        # Images come in any order; sorted, the index is the same whichever came first.
        pq.write_table(
            pa.Table.from_pylist(
                sorted(rows, key=lambda row: (row["address"], row["base"])), _schema()
            ),
            sink,
        )
        # Last of all: after a kill, an index that is there is trusted.
        store.write_bytes(uri, sink.getvalue().to_pybytes())
    # Read back even when just written, so that a restart goes on with the very same table.
    filesystem, path = store.filesystem(uri)
    table = pq.read_table(path, filesystem=filesystem)
    # The same chunk may have had another number in an ingestion of more references.
    return table.set_column(0, "chunk", pa.array([chunk.number] * table.num_rows, pa.int64()))


class _Spool:
    """Images of a chunk by their hashes: a shard's worth in memory, and what goes beyond it, as the
    first chunk may hold it, on disk.

    Args:
        file: an empty scratch file.
        room: bytes that are kept in memory.

    Attributes:
        size: bytes of all images.
    """

    def __init__(self, file: IO[bytes], room: float) -> None:
        self._file, self._room, self.size = file, room, 0
        self._held: dict[str, bytes] = {}
        self._places: dict[str, tuple[int, int]] = {}

    def add(self, sha256: str, data: bytes) -> None:
        """Take in an image, unless it is there."""
        if sha256 in self._held or sha256 in self._places:
            return
        self.size += len(data)
        if self.size <= self._room:
            self._held[sha256] = data
        else:
            self._places[sha256] = self._file.tell(), len(data)
            self._file.write(data)

    def names(self) -> list[str]:
        """All hashes, sorted."""
        return sorted([*self._held, *self._places])

    def take(self, sha256: str) -> bytes:
        """Hand out an image, once."""
        if (data := self._held.pop(sha256, None)) is not None:
            return data
        at, length = self._places[sha256]
        self._file.seek(at)
        return self._file.read(length)


def _most(data: Data) -> float:
    """Bytes of images that stay one shard: a little more than it should have."""
    return 1.5 * data.shard_mb * 2**20


def _fetch_into(spool: _Spool, chunk: FetchChunk, data: Data) -> list[dict[str, Any]]:
    """Fetch into a spool; returns a row per reference."""
    rows: list[dict[str, Any]] = []
    for reference, image in _fetcher(data).fetch(chunk.references, chunk.reach):
        if isinstance(image, Rejected):
            rows.append(reference._asdict() | {"code": image.code, "reason": image.reason})
            continue
        rows.append(
            {
                **reference._asdict(),
                **{
                    name: getattr(image, name)
                    for name in ("sha256", "width", "height", "fingerprint")
                },
            }
        )
        spool.add(image.sha256, image.data)
    return rows


def _write_shards(
    spool: _Spool, rows: Sequence[dict[str, Any]], data: Data, root: str
) -> dict[str, dict[str, Any]]:
    """Cut the images, sorted by hash, into shards; returns name, hash and size of its shard for
    each image."""
    shard_of: dict[str, dict[str, Any]] = {}
    looks = {row["sha256"]: row for row in rows if "sha256" in row}
    names = spool.names()
    parts = min(len(names), math.ceil(spool.size / _most(data)))
    room = _ROOMS.of(int(_most(data)))
    for part in range(parts):
        chosen = names[part * len(names) // parts : (part + 1) * len(names) // parts]
        images = (
            StoredImage(
                spool.take(name),
                name,
                *(looks[name][key] for key in ("width", "height", "fingerprint")),
            )
            for name in chosen
        )
        entry = tables.write_shard(tables.image_table(images, room), tables.IMAGES, root)
        shard = {
            "shard": dataset.shard_name(entry),
            "shard_sha256": entry.sha256,
            "shard_bytes": entry.size,
        }
        shard_of |= dict.fromkeys(chosen, shard)
    return shard_of


class _Rooms(threading.local):
    """Memory for a shard, the same for each that a thread writes: new memory has to be cleared,
    which takes as long as writing the shard. What is not used takes none."""

    def __init__(self) -> None:
        self._room = memoryview(b"")

    def of(self, size: int) -> memoryview:
        """Room for so many bytes."""
        if len(self._room) < size:
            memory = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            self._room = memoryview(memory)
        return self._room


_ROOMS: Final = _Rooms()


def clear(root: str, keys: Iterable[str]) -> None:
    """Remove the indexes of chunks whose images stand in a committed dataset."""
    for key in keys:
        store.delete_file(_uri(root, key))


_fetchers: dict[str, Fetcher] = {}


def _fetcher(data: Data) -> Fetcher:
    """One per process and recipe, so that connections and the limits of hosts outlive a chunk."""
    # By its content, since each task of a worker brings a copy of the recipe.
    return _fetchers.setdefault(data.model_dump_json(), Fetcher(data))


def _uri(root: str, key: str) -> str:
    return store.join(root, "staging", f"{key}.parquet")


def _schema() -> pa.Schema:
    import pyarrow as pa

    types: dict[str, Any] = dict.fromkeys(_INDEX, pa.string())
    types |= {name: pa.int32() for name in ("width", "height")} | {
        name: pa.int64() for name in ("chunk", "shard_bytes")
    }
    return tables.schema_of(types)
