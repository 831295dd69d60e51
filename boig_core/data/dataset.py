"""A dataset in the store: labels as one small table, images and perception as content-addressed shards beside it.

    datasets/NAME/blobs/images-HASH.parquet        sha256, image (encoded bytes), width, height
    datasets/NAME/blobs/perception-HASH.parquet    sha256, colors, tones, objects (boxes in pixels of width x height), width, height
    datasets/NAME/VERSION/labels.parquet           one row a `Sample`, without its description
    datasets/NAME/VERSION/rejects.parquet          what was left out, and why
    datasets/NAME/VERSION/manifest.json            names the shards that the version is made of

A new version never rewrites a shard. Leaves out: how rows are made (see `posts`, `fetch`, `kpi`) and many machines (see `cluster.data`).
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any, Final

from boig_core.data.images import Pixels, StoredImage, decode, resize
from boig_core.data.posts import Reject
from boig_core.errors import CorruptError, InputError
from boig_core.storage import manifest, store
from boig_core.storage.manifest import FileEntry, Manifest
from boig_core.vocabulary import Box, Description, Sample

if TYPE_CHECKING:
    import pyarrow as pa

KIND: Final = "dataset"
LABELS: Final = "labels.parquet"
REJECTS: Final = "rejects.parquet"
IMAGES: Final = "images"
PERCEPTION: Final = "perception"
_BLOBS: Final = "../blobs/"


def read_samples(dataset_uri: str) -> list[Sample]:
    """All samples of a dataset, every split, sorted by id; with descriptions once it was perceived.

    Raises:
        NotFoundInStoreError: no such dataset.
        CorruptError: a file differs from its manifest, or an image of a perceived dataset has no description.
    """
    parts = manifest.read_manifest(dataset_uri, kind=KIND)
    rows = _read(dataset_uri, _entry(parts, LABELS, dataset_uri)).to_pylist()
    seen: dict[str, Description] | None = read_descriptions(dataset_uri, parts) if parts.meta.get("perceived") else None
    if seen is not None and (lost := {row["image"] for row in rows} - seen.keys()):
        raise CorruptError(dataset_uri, f"has no description of image {min(lost)}", "run perceive again")
    samples = [Sample(**{**row, "keywords": tuple(row["keywords"])}, description=seen[row["image"]] if seen else None) for row in rows]
    return sorted(samples, key=lambda sample: sample.id)


def read_images(dataset_uri: str, hashes: Iterable[str] | None = None, side: int | None = None) -> dict[str, Pixels]:
    """Decoded images by SHA-256, each uint8 (H, W, 3), in the order of their hashes.

    Args:
        dataset_uri: a committed dataset.
        hashes: which images; none: all.
        side: bring each to a square of this side as `images.resize` does; none: as stored.

    Raises:
        InputError: a hash that the dataset does not hold.
        CorruptError: a shard differs from its manifest.
    """
    parts = manifest.read_manifest(dataset_uri, kind=KIND)
    wanted = None if hashes is None else set(hashes)
    found: dict[str, Pixels] = {}
    for entry in shards(parts, IMAGES):
        for stored in shard_images(dataset_uri, entry):
            if wanted is None or stored.sha256 in wanted:
                pixels = decode(stored.data)
                found[stored.sha256] = pixels if side is None else resize(pixels, side)
        if wanted is not None and len(found) == len(wanted):
            break
    if wanted is not None and (lost := wanted - found.keys()):
        raise InputError(f"image {min(lost)}", f"is not in {dataset_uri}", "ask for hashes of this dataset's samples")
    return dict(sorted(found.items()))


def read_descriptions(dataset_uri: str, parts: Manifest) -> dict[str, Description]:
    """What perception measured, by SHA-256 of the image, in pixels of the stored image."""
    found: dict[str, Description] = {}
    for entry in shards(parts, PERCEPTION):
        for row in _read(dataset_uri, entry).to_pylist():
            objects: dict[str, Box] = {name: (box[0], box[1], box[2], box[3]) for name, box in row["objects"]}
            found[row["sha256"]] = Description(dict(row["colors"]), dict(row["tones"]), objects)
    return found


def shards(parts: Manifest, family: str) -> list[FileEntry]:
    """The shards of one family (`IMAGES` or `PERCEPTION`) that a manifest names."""
    return [entry for entry in parts.files if entry.path.startswith(f"{_BLOBS}{family}-")]


def shard_images(dataset_uri: str, entry: FileEntry) -> Iterator[StoredImage]:
    """The images of one shard, sorted by hash; the shard is verified.

    Raises:
        CorruptError: the shard differs from its manifest.
    """
    table = _read(dataset_uri, entry)
    columns = (table[name] for name in ("image", "sha256", "width", "height"))
    for data, sha256, width, height in zip(*columns, strict=True):
        yield StoredImage(data.as_py(), sha256.as_py(), width.as_py(), height.as_py())


def shard_rows(dataset_uri: str, entry: FileEntry) -> int:
    """How many rows a shard holds, read from its footer alone."""
    import pyarrow.parquet as pq

    filesystem, path = store.filesystem(manifest.resolve(dataset_uri, entry.path))
    rows: int = pq.read_metadata(path, filesystem=filesystem).num_rows
    return rows


def rejects_table(rejects: Sequence[Reject]) -> pa.Table:
    """Rejects as the table of ``rejects.parquet``, sorted by line."""
    import pyarrow as pa

    schema = schema_of({"line": pa.int64(), **dict.fromkeys(("post", "image", "code", "reason"), pa.string())})
    return pa.Table.from_pylist([asdict(reject) for reject in sorted(rejects, key=lambda r: (r.line, r.image or ""))], schema)


def labels_table(samples: Sequence[Sample]) -> pa.Table:
    """Samples as the table of ``labels.parquet``, sorted by id."""
    import pyarrow as pa

    text = ("id", "post", "account", "company", "timestamp", "text", "bucket", "split", "image")
    types: dict[str, Any] = dict.fromkeys(text, pa.string())
    types |= {"keywords": pa.list_(pa.string()), "kpi": pa.float64(), "kpi_normalized": pa.float64()}
    types |= {"width": pa.int32(), "height": pa.int32()}
    schema = schema_of({field.name: types[field.name] for field in fields(Sample) if field.name != "description"})
    rows = [{name: getattr(sample, name) for name in schema.names} for sample in sorted(samples, key=lambda s: s.id)]
    return pa.Table.from_pylist(rows, schema)


def image_shards(images: Iterable[StoredImage], target_mb: float) -> Iterator[pa.Table]:
    """Cut images, sorted by hash and each once, into tables of about ``target_mb`` MiB of image bytes.

    The cut depends on the images alone, so equal images make equal shards.
    """
    import pyarrow as pa

    schema = schema_of({"sha256": pa.string(), "image": pa.binary(), "width": pa.int32(), "height": pa.int32()})

    def table(rows: list[StoredImage]) -> pa.Table:
        return pa.Table.from_pylist([{"sha256": r.sha256, "image": r.data, "width": r.width, "height": r.height} for r in rows], schema)

    rows: list[StoredImage] = []
    size = 0
    for image in sorted({image.sha256: image for image in images}.values(), key=lambda i: i.sha256):
        rows.append(image)
        size += len(image.data)
        if size >= target_mb * 2**20:
            yield table(rows)
            rows, size = [], 0
    if rows:
        yield table(rows)


def perception_table(described: Mapping[str, Description], sizes: Mapping[str, tuple[int, int]]) -> pa.Table:
    """Descriptions by image hash as a perception shard.

    Args:
        described: by SHA-256, boxes in pixels of the stored image.
        sizes: width and height of each stored image.
    """
    import pyarrow as pa

    shares = pa.map_(pa.string(), pa.float64())
    schema = schema_of(
        {
            "sha256": pa.string(),
            "colors": shares,
            "tones": shares,
            "objects": pa.map_(pa.string(), pa.list_(pa.float64())),
            "width": pa.int32(),
            "height": pa.int32(),
        }
    )
    rows: list[dict[str, Any]] = [
        {
            "sha256": sha256,
            "colors": list(seen.colors.items()),
            "tones": list(seen.tones.items()),
            "objects": [(name, list(box)) for name, box in seen.objects.items()],
            "width": sizes[sha256][0],
            "height": sizes[sha256][1],
        }
        for sha256, seen in sorted(described.items())
    ]
    return pa.Table.from_pylist(rows, schema)


def write_shard(table: pa.Table, family: str, dataset_root: str) -> FileEntry:
    """Put a shard below ``datasets/NAME/blobs`` under the hash of its bytes, unless it is there already.

    Args:
        table: the shard.
        family: `IMAGES` or `PERCEPTION`.
        dataset_root: URI of ``datasets/NAME``.

    Returns:
        Its entry, with a path relative to a version's folder.
    """
    data = parquet_bytes(table, compress=family != IMAGES)
    sha256 = hashlib.sha256(data).hexdigest()
    name = f"{family}-{sha256[:16]}.parquet"
    uri = store.join(dataset_root, "blobs", name)
    if not store.exists(uri):
        store.write_bytes(uri, data)
    return FileEntry(path=_BLOBS + name, size=len(data), sha256=sha256)


def schema_of(types: Mapping[str, Any]) -> pa.Schema:
    """An Arrow schema from column names and types, in their order."""
    import pyarrow as pa

    return pa.schema(list(types.items()))


def parquet_bytes(table: pa.Table, compress: bool = True) -> bytes:
    """A table as a Parquet file; equal tables give equal bytes under one version of pyarrow."""
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd" if compress else "none", store_schema=True)
    return buffer.getvalue()


def _entry(parts: Manifest, path: str, uri: str) -> FileEntry:
    found = next((entry for entry in parts.files if entry.path == path), None)
    if found is None:
        raise CorruptError(uri, f"its manifest names no {path}", "make the dataset again")
    return found


def _read(uri: str, entry: FileEntry) -> pa.Table:
    """A Parquet file of a dataset, verified."""
    import pyarrow.parquet as pq

    source = manifest.resolve(uri, entry.path)
    data = store.read_bytes(source)
    if len(data) != entry.size or hashlib.sha256(data).hexdigest() != entry.sha256:
        raise CorruptError(source, "differs from its manifest", "make the dataset again")
    return pq.read_table(io.BytesIO(data))
