"""A dataset in the store: one small table per version, and immutable content-addressed shards
beside it.

    datasets/NAME/blobs/posts-HASH.parquet         id, account, company, timestamp, text, keywords,
                                                   licence, images (references), held_out
    datasets/NAME/blobs/images-HASH.parquet        sha256, image (encoded bytes), width, height,
                                                   fingerprint
    perception/KEY/perception-HASH.parquet         what is seen in images, for all datasets (see
                                                   `perceived`)
    datasets/NAME/VERSION/labels.parquet           one row per sample: its shards, KPIs, bucket,
                                                   split, near-duplicate group
    datasets/NAME/VERSION/sources.parquet          where each sample comes from: file, line,
                                                   address, licence, opt-out
    datasets/NAME/VERSION/rejects.parquet          what was left out, and why, with the row itself
                                                   where it could be read
    datasets/NAME/VERSION/card.json, card.html     the numbers of the version
    datasets/NAME/VERSION/manifest.json            names the shards that the version is made of

A new version adds shards and rewrites none. Leaves out: how rows are made (see `ingestion`) and
many machines (see `cluster.ingest`).
"""

from __future__ import annotations

import hashlib
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from boig_core.data.images import Pixels, StoredImage, decode, resize
from boig_core.errors import CorruptError, InputError
from boig_core.storage import manifest, store
from boig_core.storage.manifest import FileEntry, Manifest
from boig_core.vocabulary import Box, Description, KpiValue, Perceived, Sample

if TYPE_CHECKING:
    import pyarrow as pa

KIND: Final = "dataset"
LABELS: Final = "labels.parquet"
REJECTS: Final = "rejects.parquet"
SOURCES: Final = "sources.parquet"
POSTS: Final = "posts"
IMAGES: Final = "images"
PERCEPTION: Final = "perception"
_BLOBS: Final = "../blobs/"
_ROWS: Final = 16384
"""Rows of a row group, so that equal rows make equal files however they arrive."""


def read_samples(dataset_uri: str) -> list[Sample]:
    """All samples of a dataset, every split, sorted by id; with descriptions once it was perceived.

    Raises:
        NotFoundInStoreError: no such dataset.
        CorruptError: a file differs from its manifest, or an image of a perceived dataset has no
            description.
    """
    parts = manifest.read_manifest(dataset_uri, kind=KIND)
    rows = read_table(dataset_uri, parts, LABELS).to_pylist()
    seen: dict[str, Perceived] | None = (
        read_seen(dataset_uri, parts) if parts.meta.get("perceived") else None
    )
    if seen is not None and (lost := {row["image"] for row in rows} - seen.keys()):
        raise CorruptError(
            dataset_uri, f"has no description of image {min(lost)}", "run perceive again"
        )
    posts = _posts_of(dataset_uri, parts, rows)
    return [
        _sample(row, posts[row["post"]], seen)
        for row in sorted(rows, key=lambda row: str(row["id"]))
    ]


def _posts_of(
    dataset_uri: str, parts: Manifest, rows: Iterable[Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    """The post of each label by id, from the shard that the label names."""
    wanted: defaultdict[str, set[str]] = defaultdict(set)
    for row in rows:
        wanted[row["post_shard"]].add(row["post"])
    posts: dict[str, dict[str, Any]] = {}
    for entry in shards(parts, POSTS):
        ids = wanted.pop(shard_name(entry), set())
        in_shard = {
            post["id"]: post
            for post in (read_shard(dataset_uri, entry).to_pylist() if ids else [])
            if post["id"] in ids
        }
        if len(in_shard) != len(ids):
            raise CorruptError(
                dataset_uri,
                f"post {min(ids - in_shard.keys())} is not in its shard {entry.path}",
                "run ingest again",
            )
        posts |= in_shard
    if wanted:
        raise CorruptError(
            dataset_uri, f"its manifest names no posts shard {min(wanted)}", "run ingest again"
        )
    return posts


def _sample(
    row: Mapping[str, Any], post: Mapping[str, Any], seen: Mapping[str, Perceived] | None
) -> Sample:
    look = seen[row["image"]] if seen is not None else None
    keywords = post["keywords"] if look is None or look.keywords is None else look.keywords
    return Sample(
        id=row["id"],
        post=row["post"],
        account=post["account"],
        company=post["company"],
        timestamp=post["timestamp"],
        text=post["text"],
        keywords=tuple(keywords),
        kpi=row["kpi"],
        kpi_normalized=row["kpi_normalized"],
        bucket=row["bucket"],
        split=row["split"],
        image=row["image"],
        width=row["width"],
        height=row["height"],
        description=None if look is None else look.description,
        group=row["group"],
        negative=row["negative"],
        more_kpis={
            more["name"]: KpiValue(more["value"], more["normalized"], more["bucket"])
            for more in row["more_kpis"]
        },
        caption=None if look is None else look.caption,
    )


def read_images(
    dataset_uri: str, hashes: Iterable[str] | None = None, side: int | None = None
) -> dict[str, Pixels]:
    """Decoded images by SHA-256, each uint8 (H, W, 3), in the order of their hashes.

    Args:
        dataset_uri: a committed dataset.
        hashes: which images; None: all.
        side: bring each to a square of this side as `images.resize` does; None: as stored.

    Raises:
        InputError: a hash that the dataset does not hold.
        CorruptError: a shard differs from its manifest.
    """
    parts = manifest.read_manifest(dataset_uri, kind=KIND)
    wanted = None if hashes is None else set(hashes)
    pixels_of: dict[str, Pixels] = {}
    for entry in shards(parts, IMAGES):
        for stored in shard_images(dataset_uri, entry):
            if wanted is None or stored.sha256 in wanted:
                pixels = decode(stored.data)
                pixels_of[stored.sha256] = pixels if side is None else resize(pixels, side)
        if wanted is not None and len(pixels_of) == len(wanted):
            break
    if wanted is not None and (lost := wanted - pixels_of.keys()):
        raise InputError(
            f"image {min(lost)}",
            f"is not in {dataset_uri}",
            "ask for hashes of this dataset's samples",
        )
    return dict(sorted(pixels_of.items()))


def read_seen(dataset_uri: str, parts: Manifest) -> dict[str, Perceived]:
    """What perception saw, by SHA-256 of the image, boxes in pixels of the stored image."""
    return dict(
        seen for entry in shards(parts, PERCEPTION) for seen in shard_seen(dataset_uri, entry)
    )


def shard_seen(dataset_uri: str, entry: FileEntry) -> Iterator[tuple[str, Perceived]]:
    """Image and what was seen in it, of one perception shard; the shard is verified."""
    for row in read_shard(dataset_uri, entry).to_pylist():
        objects: dict[str, Box] = {
            name: (box[0], box[1], box[2], box[3]) for name, box in row["objects"]
        }
        keywords = None if row["keywords"] is None else tuple(row["keywords"])
        yield (
            row["sha256"],
            Perceived(
                Description(dict(row["colors"]), dict(row["tones"]), objects),
                row["caption"],
                keywords,
            ),
        )


def images_by_shard(
    dataset_uri: str, parts: Manifest, words: int
) -> dict[str, dict[str, tuple[str, ...]]]:
    """The images of each image shard (by `shard_name`), each with the keywords of its posts, sorted
    and at most ``words``."""
    rows = (
        read_table(dataset_uri, parts, LABELS)
        .select(["image_shard", "image", "post", "post_shard", "negative"])
        .to_pylist()
    )
    posts = _posts_of(dataset_uri, parts, rows) if words else {}
    hashes: defaultdict[str, defaultdict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for row in rows:
        own = posts[row["post"]]["keywords"] if words and not row["negative"] else ()
        hashes[row["image_shard"]][row["image"]].update(own)
    return {
        shard: {image: tuple(sorted(own)[:words]) for image, own in images.items()}
        for shard, images in hashes.items()
    }


def must_lie_in(dataset_uri: str, dataset_root: str) -> None:
    """A version that is built on must lie among those that share its shards.

    Raises:
        InputError: it lies elsewhere.
    """
    if store.normalize(dataset_uri).rsplit("/", 1)[0] != store.normalize(dataset_root):
        remedy = "set data.name and the store to the dataset's"
        raise InputError(
            dataset_uri, f"does not lie in {dataset_root}, where its shards are shared", remedy
        )


def shards(parts: Manifest, family: str) -> list[FileEntry]:
    """The shards of one family (`POSTS`, `IMAGES` or `PERCEPTION`) that a manifest names."""
    return [
        entry
        for entry in parts.files
        if entry.path.startswith("../") and store.name(entry.path).startswith(f"{family}-")
    ]


def shard_name(entry: FileEntry) -> str:
    """What labels call a shard: the hash in its file's name."""
    return entry.path.rsplit("-", 1)[1].removesuffix(".parquet")


def shard_entry(family: str, name: str, sha256: str, size: int) -> FileEntry:
    """The entry of a shard by its name."""
    return FileEntry(path=f"{_BLOBS}{family}-{name}.parquet", size=size, sha256=sha256)


def shard_images(dataset_uri: str, entry: FileEntry) -> Iterator[StoredImage]:
    """The images of one shard, sorted by hash; the shard is verified.

    Raises:
        CorruptError: the shard differs from its manifest.
    """
    table = read_shard(dataset_uri, entry)
    columns = (table[name] for name in ("image", "sha256", "width", "height", "fingerprint"))
    for values in zip(*columns, strict=True):
        yield StoredImage(*(value.as_py() for value in values))


def shard_rows(dataset_uri: str, entry: FileEntry) -> int:
    """How many rows a shard holds, read from its footer alone."""
    import pyarrow.parquet as pq

    filesystem, path = store.filesystem(manifest.resolve(dataset_uri, entry.path))
    rows: int = pq.read_metadata(path, filesystem=filesystem).num_rows
    return rows


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


def image_table(images: Iterable[StoredImage]) -> pa.Table:
    """Images, in the order given, as an image shard."""
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
    columns = zip(
        *(
            (image.sha256, image.data, image.width, image.height, image.fingerprint)
            for image in images
        ),
        strict=True,
    )
    return pa.table(
        [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)],
        schema=schema,
    )


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
    return entry.model_copy(update={"path": _BLOBS + entry.path})


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
    data = store.read_bytes(source)
    if len(data) != entry.size or hashlib.sha256(data).hexdigest() != entry.sha256:
        raise CorruptError(source, "differs from its manifest", "make the dataset again")
    # In this thread alone: `read_table` leaves threads that let go of `data` a little later, and a
    # process that ends meanwhile aborts.
    return pq.ParquetFile(pa.BufferReader(data)).read(use_threads=False)
