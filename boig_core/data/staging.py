"""Staging: fetched images kept safe chunk by chunk until they stand in shards, so that a restart does not fetch again what is there.

References come in chunks by a hash of their names: which chunk an image is in, and so in which shard, is a pure function of the references,
whatever the number of workers. A chunk is fetched into one Parquet file, ``datasets/NAME/staging/KEY.parquet``, which appears whole or not
at all; its key says what was asked for. Shards are cut from chunks in their order. Leaves out: spreading chunks over workers (see
`cluster.ingest`).
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from boig_core.config import Data
from boig_core.data import dataset
from boig_core.data.fetch import Fetcher
from boig_core.data.images import StoredImage
from boig_core.data.rejects import Rejected
from boig_core.errors import StoreUnavailableError
from boig_core.storage import store
from boig_core.storage.manifest import FileEntry

if TYPE_CHECKING:
    import pyarrow as pa

CHUNK: Final = 256
"""References that are fetched into one file."""
_BUFFER: Final = 16 * 2**20
"""Bytes of images that a worker holds before it writes them to its scratch file."""
_INDEX: Final = ("chunk", "address", "sha256", "width", "height", "fingerprint", "bytes", "code", "reason")
_SHARD: Final = ["sha256", "data", "width", "height", "fingerprint"]
_LIMITS: Final = ("max_image_mb", "max_pixels", "image_format", "image_quality", "allow_private_hosts", "user_agent")
"""Fields of the recipe that decide what becomes of a reference."""


@dataclass(frozen=True)
class Chunk:
    """References to fetch together: its ``number`` in the ingestion, its ``key`` and the ``addresses``."""

    number: int
    key: str
    addresses: tuple[str, ...]


def make_chunks(addresses: Iterable[str], data: Data) -> Iterator[Chunk]:
    """Cut addresses, which come in their final order, into chunks."""
    limits = data.model_dump(mode="json", include=set(_LIMITS))
    batch: list[str] = []
    number = 0

    def chunk() -> Chunk:
        asked = json.dumps([limits, batch], sort_keys=True).encode()
        return Chunk(number, hashlib.sha256(asked).hexdigest()[:32], tuple(batch))

    for address in addresses:
        batch.append(address)
        if len(batch) == CHUNK:
            yield chunk()
            batch, number = [], number + 1
    if batch:
        yield chunk()


def stage(chunk: Chunk, data: Data, folder: str) -> pa.Table:
    """Fetch a chunk, unless it is staged already.

    Args:
        chunk: what to fetch.
        data: limits of the recipe.
        folder: URI of the staging folder.

    Returns:
        Its index: one row an address, without the images: ``sha256`` and sizes, or ``code`` and ``reason``.

    Raises:
        StoreUnavailableError: the store is away.
    """
    import pyarrow.parquet as pq

    uri = _uri(folder, chunk.key)
    if not store.exists(uri):
        with tempfile.TemporaryDirectory(prefix="boig-stage-") as scratch:
            local = Path(scratch) / "chunk.parquet"
            with pq.ParquetWriter(local, _schema(), compression="none", use_dictionary=False, write_statistics=False) as writer:
                for rows in _buffered(_fetcher(data).fetch(chunk.addresses)):
                    writer.write_table(_table(chunk.number, rows))
            store.upload_file(local, uri, move=True)
    return read_index(folder, chunk)


def read_index(folder: str, chunk: Chunk) -> pa.Table:
    """What `stage` returned."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    filesystem, path = store.filesystem(_uri(folder, chunk.key))
    table = pq.read_table(path, columns=list(_INDEX), filesystem=filesystem)
    # The same chunk may have had another number in an ingestion of more references.
    numbers = pa.array([chunk.number] * table.num_rows, pa.int64())
    return table.set_column(0, "chunk", numbers).sort_by("address")


def build_shard(folder: str, keys: Sequence[str], wanted: Sequence[str], dataset_root: str) -> FileEntry:
    """Write one image shard from staged chunks.

    Args:
        folder: URI of the staging folder.
        keys: of the chunks that hold its images.
        wanted: SHA-256 of the images, which become the shard's rows, sorted.
        dataset_root: URI of ``datasets/NAME``.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    names = pa.array(sorted(wanted), pa.string())
    pieces = []
    for key in keys:
        filesystem, path = store.filesystem(_uri(folder, key))
        with pq.ParquetFile(path, filesystem=filesystem) as file:
            for group in range(file.num_row_groups):
                hashes = file.read_row_group(group, columns=["sha256"])["sha256"]
                if pc.any(pc.is_in(hashes, value_set=names)).as_py():
                    rows = file.read_row_group(group, columns=_SHARD)
                    pieces.append(rows.filter(pc.is_in(hashes, value_set=names)))
    held = pa.concat_tables(pieces)
    places = pc.index_in(names, value_set=held["sha256"].combine_chunks())  # where each stands first
    if places.null_count:
        raise StoreUnavailableError(folder, f"{places.null_count} images are in no staged chunk any more", "run ingest again")
    shard = held.take(places).rename_columns(["sha256", "image", "width", "height", "fingerprint"]).combine_chunks()
    return dataset.write_shard(shard, dataset.IMAGES, dataset_root)


def clear(folder: str, keys: Iterable[str]) -> None:
    """Remove staged chunks whose images stand in a committed dataset."""
    for key in keys:
        store.delete_file(_uri(folder, key))


_fetchers: dict[str, Fetcher] = {}


def _fetcher(data: Data) -> Fetcher:
    """One a process and recipe, so that connections and the limits of hosts outlive a chunk."""
    return _fetchers.setdefault(data.model_dump_json(), Fetcher(data))


def _uri(folder: str, key: str) -> str:
    return store.join(folder, f"{key}.parquet")


def _schema() -> pa.Schema:
    import pyarrow as pa

    types: dict[str, Any] = dict.fromkeys((*_INDEX, "data"), pa.string())
    types |= {name: pa.int32() for name in ("width", "height")} | {name: pa.int64() for name in ("chunk", "bytes")} | {"data": pa.binary()}
    return dataset.schema_of(types)


def _buffered(found: Iterable[tuple[str, StoredImage | Rejected]]) -> Iterator[list[tuple[str, StoredImage | Rejected]]]:
    rows: list[tuple[str, StoredImage | Rejected]] = []
    size = 0
    for address, one in found:
        rows.append((address, one))
        size += len(one.data) if isinstance(one, StoredImage) else 0
        if size >= _BUFFER:
            yield rows
            rows, size = [], 0
    if rows:
        yield rows


def _table(number: int, rows: Sequence[tuple[str, StoredImage | Rejected]]) -> pa.Table:
    """Column by column, since Arrow takes far longer over rows."""
    import pyarrow as pa

    found = [one for _, one in rows]

    def of(kind: type, name: str) -> list[Any]:
        return [getattr(one, name) if isinstance(one, kind) else None for one in found]

    columns: dict[str, list[Any]] = {"chunk": [number] * len(rows), "address": [address for address, _ in rows]}
    columns |= {name: of(StoredImage, name) for name in ("sha256", "width", "height", "fingerprint", "data")}
    columns |= {name: of(Rejected, name) for name in ("code", "reason")}
    columns["bytes"] = [None if data is None else len(data) for data in columns["data"]]
    schema = _schema()
    return pa.Table.from_pydict({name: columns[name] for name in schema.names}, schema)
