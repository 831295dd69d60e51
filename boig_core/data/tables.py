"""Tables of a dataset as Parquet: their columns, and how one is written and read whole.

Leaves out: which tables make a version (see `dataset`).
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from boig_core.data.imaging.images import StoredImage
from boig_core.errors import CorruptError
from boig_core.storage import manifest, store
from boig_core.storage.manifest import FileEntry, Manifest

if TYPE_CHECKING:
    import pyarrow as pa

POSTS: Final = "posts"
IMAGES: Final = "images"
PERCEPTION: Final = "perception"
BLOBS: Final = "../blobs/"
LABELS: Final = "labels.parquet"
REJECTS: Final = "rejects.parquet"
SOURCES: Final = "sources.parquet"
_ROWS: Final = 16384
"""Rows of a row group, so that equal rows make equal files however they arrive."""


def labels_schema() -> pa.Schema:
    """Columns of ``labels.parquet``."""
    import pyarrow as pa

    text = (
        "id",
        "post",
        "post_shard",
        "image",
        "image_shard",
        "fingerprint",
        "bucket",
        "split",
        "group",
    )
    more = pa.struct(
        [
            ("name", pa.string()),
            ("value", pa.float64()),
            ("normalized", pa.float64()),
            ("bucket", pa.string()),
        ]
    )
    types: dict[str, Any] = dict.fromkeys(text, pa.string())
    types |= dict.fromkeys(("kpi", "kpi_normalized"), pa.float64()) | dict.fromkeys(
        ("place", "width", "height"), pa.int32()
    )
    return schema_of({**types, "negative": pa.bool_(), "more_kpis": pa.list_(more)})


def posts_schema() -> pa.Schema:
    """Columns of a posts shard."""
    import pyarrow as pa

    types: dict[str, Any] = dict.fromkeys(
        ("id", "account", "company", "timestamp", "text", "licence"), pa.string()
    )
    return schema_of(
        {
            **types,
            "keywords": pa.list_(pa.string()),
            "images": pa.list_(pa.string()),
            "held_out": pa.bool_(),
        }
    )


def sources_schema() -> pa.Schema:
    """Columns of ``sources.parquet``."""
    import pyarrow as pa

    return schema_of(
        {
            **dict.fromkeys(("id", "post", "file", "address", "licence", "opt_out"), pa.string()),
            "line": pa.int64(),
        }
    )


def write_table(batches: Iterable[pa.RecordBatch], schema: pa.Schema, path: Path) -> None:
    """Write rows as they come into a Parquet file; the same rows make the same bytes, however they
    are cut into batches."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        # Row groups are cut by count alone, and each in one piece: where batches ended would else
        # show in the file.
        pending = schema.empty_table()
        for batch in batches:
            pending = pa.concat_tables(
                [pending, pa.Table.from_batches([batch]).select(schema.names).cast(schema)]
            )
            while pending.num_rows >= _ROWS:
                writer.write_table(pending.slice(0, _ROWS).combine_chunks(), row_group_size=_ROWS)
                pending = pending.slice(_ROWS)
        if pending.num_rows:
            writer.write_table(pending.combine_chunks(), row_group_size=_ROWS)


def image_table(images: Iterable[StoredImage], room: memoryview | None = None) -> pa.Table:
    """Images, in the order given, as an image shard.

    Args:
        images: they are held until the table is there.
        room: memory that the table may use, which is of no use once the room has another one;
            None: memory of its own.
    """
    import pyarrow as pa

    schema = schema_of(
        {
            "sha256": pa.string(),
            "image": pa.binary(),
            "width": pa.int32(),
            "height": pa.int32(),
            "fingerprint": pa.string(),
        }
    )
    rows = list(images)
    columns: list[Any] = [
        _binary([image.data for image in rows], room)
        if field.name == "image"
        else pa.array([getattr(image, field.name) for image in rows], field.type)
        for field in schema
    ]
    return pa.table(columns, schema=schema)


def _binary(values: Sequence[bytes], room: memoryview | None) -> Any:
    """An Arrow array of bytes that are copied once: `pa.array` does not know how many come, and
    doubles its room until they fit."""
    import numpy as np
    import pyarrow as pa

    ends = np.cumsum([0, *map(len, values)], dtype=np.int64)
    # What Arrow can name in one array.
    if ends[-1] >= 2**31:
        return pa.array(values, pa.binary())
    if room is None or len(room) < ends[-1]:
        room = memoryview(bytearray(int(ends[-1])))
    for start, value in zip(ends.tolist(), values, strict=False):
        room[start : start + len(value)] = value
    whole = pa.py_buffer(room[: ends[-1]])
    buffers = [None, pa.py_buffer(ends.astype(np.int32).tobytes()), whole]
    return pa.Array.from_buffers(pa.binary(), len(values), buffers)


def write_shard(table: pa.Table, family: str, dataset_root: str) -> FileEntry:
    """Put a shard below ``datasets/NAME/blobs`` under the hash of its bytes, unless it is there
    already.

    Args:
        table: the shard.
        family: `POSTS` or `IMAGES`.
        dataset_root: URI of ``datasets/NAME``.

    Returns:
        Its entry, with a path relative to a version's folder.
    """
    entry = write_named(table, family, store.join(dataset_root, "blobs"))
    return entry.model_copy(update={"path": BLOBS + entry.path})


def write_named(table: pa.Table, family: str, folder: str) -> FileEntry:
    """Put a table into a folder under the hash of its bytes, unless it is there already; ``path``
    of the entry is its name.

    Equal tables give equal bytes under one version of pyarrow. Goes by way of a file, since a shard
    of images is large.
    """
    import pyarrow.parquet as pq

    with tempfile.TemporaryDirectory(prefix="boig-shard-") as scratch:
        path = Path(scratch) / "shard.parquet"
        packed = family != IMAGES  # encoded images grow when they are compressed
        pq.write_table(table, path, compression="zstd" if packed else "none", use_dictionary=packed)
        sha256 = manifest.sha256_file(path)
        entry = FileEntry(
            path=f"{family}-{sha256[:16]}.parquet", size=path.stat().st_size, sha256=sha256
        )
        # A name says the content, so what is there is the same, and other versions may be reading
        # it.
        if not store.exists(store.join(folder, entry.path)):
            store.upload_file(path, store.join(folder, entry.path), move=True)
    return entry


def schema_of(types: Mapping[str, Any]) -> pa.Schema:
    """An Arrow schema from column names and types, in their order."""
    import pyarrow as pa

    return pa.schema(list(types.items()))


def read_table(dataset_uri: str, parts: Manifest, path: str) -> pa.Table:
    """One of a version's own tables, verified.

    Raises:
        CorruptError: the manifest does not name it, or it differs.
    """
    entry_of_path = next((entry for entry in parts.files if entry.path == path), None)
    if entry_of_path is None:
        raise CorruptError(dataset_uri, f"its manifest names no {path}", "make the dataset again")
    return read_shard(dataset_uri, entry_of_path)


def read_shard(uri: str, entry: FileEntry) -> pa.Table:
    """A Parquet file of a dataset, verified.

    Raises:
        CorruptError: it differs from its manifest.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    source = manifest.resolve(uri, entry.path)
    # Read once: the bytes that are parsed are those that were compared.
    data = store.read_bytes(source)
    if len(data) != entry.size or hashlib.sha256(data).hexdigest() != entry.sha256:
        raise CorruptError(source, "differs from its manifest", "make the dataset again")
    # In this thread alone: `read_table` leaves threads that let go of `data` a little later, and a
    # process that ends meanwhile aborts.
    return pq.ParquetFile(pa.BufferReader(data)).read(use_threads=False)
