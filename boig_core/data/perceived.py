"""Perceived: what perception saw in images, kept by image and perception key for every run and
every dataset.

    STORE/perception/KEY/perception-HASH.parquet    one row per image, as datasets name it; never
                                                    rewritten
    STORE/perception/KEY/part-HASH.parquet          the same rows, safe as soon as they are seen,
                                                    until they stand in the former

An image that was looked at under a key is never looked at again. Where a detector is given words to
look for, they belong to the question: ``asked`` is their hash. Leaves out: the key (see
`perception.version`), and who looks (see `cluster.perceive`).
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from boig_core.data import tables
from boig_core.errors import StoreUnavailableError
from boig_core.storage import store
from boig_core.storage.manifest import FileEntry
from boig_core.vocabulary import Perceived

if TYPE_CHECKING:
    import pyarrow as pa

_PART: Final = "part"
_READERS: Final = 16
"""Files of the index that are read at a time."""


@dataclass(frozen=True, order=True)
class Question:
    """An image by its SHA-256, and the words that its detector is given, if they are the image's
    own."""

    sha256: str
    words: tuple[str, ...] = ()

    @property
    def asked(self) -> str:
        """Hash of the words; empty without any."""
        return (
            hashlib.sha256(json.dumps(self.words).encode()).hexdigest()[:16] if self.words else ""
        )


def folder_of(store_root: str, key: str) -> str:
    """Where results of a key are kept."""
    return store.join(store_root, "perception", key)


def known(folder: str, questions: Iterable[Question]) -> dict[Question, str]:
    """The file that answers each question, for those that one answers; shards before parts."""
    import pyarrow.parquet as pq

    wanted = {(question.sha256, question.asked): question for question in questions}
    # "perception-" comes after "part-".
    names = sorted((name for name, _ in store.list_files(folder)), reverse=True)

    def answered(name: str) -> list[tuple[str, str]]:
        filesystem, path = store.filesystem(store.join(folder, name))
        try:
            table = pq.read_table(path, columns=["sha256", "asked"], filesystem=filesystem)
        except FileNotFoundError:  # a part that another run has just cleared up
            return []
        return [
            pair
            for pair in zip(table["sha256"].to_pylist(), table["asked"].to_pylist(), strict=True)
            if pair in wanted
        ]

    part_of: dict[Question, str] = {}
    with ThreadPoolExecutor(_READERS) as pool:
        for name, pairs in zip(names, pool.map(answered, names), strict=True):
            for pair in pairs:
                # The first file stays, and shards come first: a part may be cleared up by another
                # run.
                part_of.setdefault(wanted[pair], name)
    return part_of


def table_of(seen: Mapping[Question, Perceived], sizes: Mapping[str, tuple[int, int]]) -> pa.Table:
    """Results as rows, sorted.

    Args:
        seen: by question, boxes in pixels of the stored image.
        sizes: width and height of each stored image by its hash.
    """
    import pyarrow as pa

    rows: list[dict[str, Any]] = [
        {
            "sha256": question.sha256,
            "asked": question.asked,
            "colors": list(look.description.colors.items()),
            "tones": list(look.description.tones.items()),
            "objects": [(name, list(box)) for name, box in look.description.objects.items()],
            "caption": look.caption,
            "keywords": None if look.keywords is None else list(look.keywords),
            "width": sizes[question.sha256][0],
            "height": sizes[question.sha256][1],
        }
        # Equal results make equal bytes, and so one file of one name.
        for question, look in sorted(seen.items(), key=lambda item: item[0])
    ]
    return pa.Table.from_pylist(rows, _schema())


def keep_part(table: pa.Table, folder: str) -> str:
    """Make results safe; returns the file's name."""
    return tables.write_named(table, _PART, folder).path


def build_shard(
    folder: str, questions: Sequence[Question], files: Mapping[Question, str]
) -> FileEntry:
    """The perception shard of an image shard, out of results that are safe.

    Args:
        folder: of the key.
        questions: one an image of the shard.
        files: where each is answered.

    Returns:
        Its entry, with a path relative to a version's folder ``STORE/datasets/NAME/VERSION``.

    Raises:
        StoreUnavailableError: a part is gone, because another run has cleared up; a new attempt
            looks again.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    by_file: defaultdict[str, set[tuple[str, str]]] = defaultdict(set)
    for question in questions:
        by_file[files[question]].add((question.sha256, question.asked))
    pieces = []
    for name, pairs in sorted(by_file.items()):
        filesystem, path = store.filesystem(store.join(folder, name))
        try:
            table = pq.read_table(path, filesystem=filesystem)
        except FileNotFoundError as exc:
            raise StoreUnavailableError(store.join(folder, name), "is gone", "try again") from exc
        known_rows = zip(table["sha256"].to_pylist(), table["asked"].to_pylist(), strict=True)
        pieces.append(table.filter(pa.array([pair in pairs for pair in known_rows], pa.bool_())))
    # In one order and one piece, so that the file is the same whichever parts its rows came from.
    whole = (
        pa.concat_tables(pieces)
        .sort_by([("sha256", "ascending"), ("asked", "ascending")])
        .combine_chunks()
    )
    entry = tables.write_named(whole, tables.PERCEPTION, folder)
    return entry.model_copy(
        update={"path": f"../../../perception/{store.name(folder)}/{entry.path}"}
    )


def clear(folder: str, names: Iterable[str]) -> None:
    """Remove parts whose rows stand in shards of a committed dataset."""
    for name in names:
        # Shards are what datasets name, and stay.
        if name.startswith(f"{_PART}-"):
            store.delete_file(store.join(folder, name))


def _schema() -> pa.Schema:
    import pyarrow as pa

    shares = pa.map_(pa.string(), pa.float64())
    return tables.schema_of(
        {
            "sha256": pa.string(),
            "asked": pa.string(),
            "colors": shares,
            "tones": shares,
            "objects": pa.map_(pa.string(), pa.list_(pa.float64())),
            "caption": pa.string(),
            "keywords": pa.list_(pa.string()),
            "width": pa.int32(),
            "height": pa.int32(),
        }
    )
