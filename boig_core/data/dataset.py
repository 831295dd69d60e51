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

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from boig_core.data.imaging.images import Pixels, StoredImage, decode, resize
from boig_core.data.rejects import CODES
from boig_core.data.tables import (
    BLOBS,
    IMAGES,
    LABELS,
    PERCEPTION,
    POSTS,
    REJECTS,
    read_shard,
    read_table,
)
from boig_core.errors import CorruptError, InputError
from boig_core.storage import manifest, store
from boig_core.storage.manifest import FileEntry, Manifest
from boig_core.vocabulary import Box, Description, KpiValue, Perceived, Sample

KIND: Final = "dataset"


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
        # What is left over at the end names shards that the manifest lacks.
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


def read_rejects(uri: str, code: str | None = None) -> dict[str, list[dict[str, Any]]]:
    """What was left out of a dataset, as `posts.Reject` has it.

    Args:
        uri: of a dataset.
        code: only of this reason, one of `rejects.CODES`; None: of all.

    Returns:
        Rows by their code, the most frequent first, each in the order of files and lines.

    Raises:
        InputError: no such code.
        NotFoundInStoreError, CorruptError: the dataset cannot be read.
    """
    if code is not None and code not in CODES:
        raise InputError(f"--code {code}", "is no reason", f"use one of {', '.join(CODES)}")
    parts = manifest.read_manifest(uri, kind=KIND)
    by_code: dict[str, list[dict[str, Any]]] = {}
    for row in read_table(uri, parts, REJECTS).to_pylist():
        if code in (None, row["code"]):
            by_code.setdefault(row["code"], []).append(row)
    return dict(sorted(by_code.items(), key=lambda item: (-len(item[1]), item[0])))


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
        # A shard is read whole, so those after the last wanted image are spared.
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
        # The image of a negative is another post's: its own post's words say nothing about it.
        own = posts[row["post"]]["keywords"] if words and not row["negative"] else ()
        hashes[row["image_shard"]][row["image"]].update(own)
    return {
        shard: {image: tuple(sorted(own)[:words]) for image, own in images.items()}
        for shard, images in hashes.items()
    }


def read_posts(dataset_uri: str, parts: Manifest) -> Iterator[dict[str, Any]]:
    """The posts of a version, shard by shard; each shard is verified."""
    for entry in shards(parts, POSTS):
        yield from read_shard(dataset_uri, entry).to_pylist()


def images_with_words(
    dataset_uri: str, parts: Manifest, most: int
) -> dict[FileEntry, dict[str, str]]:
    """Images and the texts of their posts.

    Args:
        dataset_uri: a committed dataset.
        parts: its manifest.
        most: this many images at most, by the hashes of shards and of images, so that few shards
            are read and the choice is the same each time.
    """
    rows = [
        # The image of a negative is another post's: its own post's words say nothing about it.
        row
        for row in read_table(dataset_uri, parts, LABELS)
        .select(["image_shard", "image", "post", "post_shard", "negative"])
        .to_pylist()
        if not row["negative"]
    ]
    chosen = sorted({(row["image_shard"], row["image"]) for row in rows})[:most]
    post_of = {
        (row["image_shard"], row["image"]): row
        # The first of several posts is read last and stays.
        for row in sorted(rows, key=lambda row: str(row["post"]), reverse=True)
    }
    posts = _posts_of(dataset_uri, parts, [post_of[place] for place in chosen])
    words: dict[FileEntry, dict[str, str]] = {}
    entries = {shard_name(entry): entry for entry in shards(parts, IMAGES)}
    for shard, image in chosen:
        text = posts[post_of[shard, image]["post"]]["text"]
        words.setdefault(entries[shard], {})[image] = text
    return words


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
        # A version's own tables lie in its folder; shards lie beside it, shared with other
        # versions.
        if entry.path.startswith("../") and store.name(entry.path).startswith(f"{family}-")
    ]


def shard_name(entry: FileEntry) -> str:
    """What labels call a shard: the hash in its file's name."""
    return entry.path.rsplit("-", 1)[1].removesuffix(".parquet")


def shard_entry(family: str, name: str, sha256: str, size: int) -> FileEntry:
    """The entry of a shard by its name."""
    return FileEntry(path=f"{BLOBS}{family}-{name}.parquet", size=size, sha256=sha256)


def shard_images(dataset_uri: str, entry: FileEntry) -> Iterator[StoredImage]:
    """The images of one shard, sorted by hash; the shard is verified.

    Raises:
        CorruptError: the shard differs from its manifest.
    """
    table = read_shard(dataset_uri, entry)
    # Image by image: lists of whole columns would hold a second copy of all bytes.
    columns = (table[name] for name in ("image", "sha256", "width", "height", "fingerprint"))
    for values in zip(*columns, strict=True):
        yield StoredImage(*(value.as_py() for value in values))


def shard_rows(dataset_uri: str, entry: FileEntry) -> int:
    """How many rows a shard holds, read from its footer alone."""
    import pyarrow.parquet as pq

    filesystem, path = store.filesystem(manifest.resolve(dataset_uri, entry.path))
    rows: int = pq.read_metadata(path, filesystem=filesystem).num_rows
    return rows
