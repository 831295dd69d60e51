"""A dataset written and read back: labels, images, descriptions, and what happens when a file was
tampered with."""

import io
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from boig_core.data import dataset, perceived, tables
from boig_core.data.imaging.images import resize
from boig_core.data.inspect import diff, verify_dataset
from boig_core.data.perceived import Question
from boig_core.errors import CorruptError, InputError, StoreUnavailableError
from boig_core.storage import manifest, store
from boig_core.vocabulary import Description, KpiValue, Perceived

from .conftest import Archive, picture, row

IMAGES = {f"{i}.png": picture(i, side=8) for i in range(6)}
ROWS = [
    row("p", 100, "0.png", shares=7),
    row("q", 50, "1.png", "2.png"),
    row("r", 25, "none.png", "3.png"),
    row("t", 70, "4.png", account="b"),
]
DESCRIPTION = Description(
    {"Red": 0.6, "Blue": 0.4},
    {"warm": 0.6, "neutral": 0.0, "cool": 0.4},
    {"ball": (1.0, 2.0, 3.5, 4.0)},
)
SEEN = Perceived(DESCRIPTION, "a red ball", ("red", "ball"))


def publish(archive: Archive, *, described: bool = False) -> str:
    # One image a shard, so that readers have to look into several.
    created = archive.make(archive.export(ROWS, IMAGES), shard_mb=1e-6, more_kpis=("shares",))
    if described:
        questions = [Question(name) for name in sorted(dataset_images(created.blobs, archive.root))]
        folder = perceived.folder_of(archive.store, "key")
        table = perceived.table_of(
            dict.fromkeys(questions, SEEN), {question.sha256: (8, 8) for question in questions}
        )
        part = perceived.keep_part(table, folder)
        entry = perceived.build_shard(folder, questions, dict.fromkeys(questions, part))
        created = replace(created, blobs=(*created.blobs, entry))
    return archive.publish(created, perceived=described)


def dataset_images(blobs: tuple[manifest.FileEntry, ...], root: str) -> list[str]:
    shards = [entry for entry in blobs if f"{tables.IMAGES}-" in entry.path]
    assert len(shards) == 5
    return [
        stored.sha256 for entry in shards for stored in dataset.shard_images(f"{root}/v", entry)
    ]


def test_read_back(archive: Archive) -> None:
    uri = publish(archive)
    samples = dataset.read_samples(uri)
    assert [sample.id for sample in samples] == ["p", "q", "q-2", "r-2", "t"]
    p = samples[0]
    assert (p.post, p.account, p.company, p.timestamp, p.kpi) == (
        "p",
        "a",
        "a",
        "2020-01-01T00:00:00Z",
        100.0,
    )
    assert (p.width, p.height, p.text) == (8, 8, ROWS[0]["text"])
    assert p.more_kpis == {"shares": KpiValue(7.0, 50.0, "low")}
    assert samples[1].more_kpis == {}
    result = dataset.read_images(uri, [samples[0].image, samples[2].image], side=4)
    assert list(result) == sorted([samples[0].image, samples[2].image])
    assert {pixels.shape for pixels in result.values()} == {(4, 4, 3)}
    assert len(dataset.read_images(uri)) == 5
    with Image.open(io.BytesIO(IMAGES["0.png"])) as expected:
        assert np.array_equal(dataset.read_images(uri, [p.image])[p.image], np.asarray(expected))
        assert np.array_equal(
            dataset.read_images(uri, [p.image], side=4)[p.image], resize(expected, 4)
        )


def test_descriptions_after_perceive(archive: Archive) -> None:
    uri = publish(archive, described=True)
    samples = dataset.read_samples(uri)
    assert [(sample.description, sample.caption, sample.keywords) for sample in samples] == [
        (DESCRIPTION, "a red ball", ("red", "ball"))
    ] * 5


def test_reading_leaves_no_thread_that_could_abort_the_end_of_a_process(archive: Archive) -> None:
    uri = publish(archive)
    code = f"""
import os
import pyarrow.parquet
from boig_core.data import dataset, tables
from boig_core.storage import manifest
parts = manifest.read_manifest({uri!r}, kind="dataset")
before = set(os.listdir("/proc/self/task"))
tables.read_table({uri!r}, parts, tables.LABELS)
dataset.read_samples({uri!r})
print(sorted(set(os.listdir("/proc/self/task")) - before))
"""
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout
        == "[]\n"
    )


def test_an_unknown_image_is_an_error(archive: Archive) -> None:
    uri = publish(archive)
    with pytest.raises(InputError, match="is not in"):
        dataset.read_images(uri, ["0" * 64])


@pytest.mark.parametrize("family", [tables.IMAGES, tables.POSTS])
def test_an_altered_shard_is_an_error(archive: Archive, family: str) -> None:
    uri = publish(archive)
    for shard in (Path(archive.root) / "blobs").glob(f"{family}-*"):
        data = bytearray(shard.read_bytes())
        data[100] ^= 1
        shard.write_bytes(data)
    with pytest.raises(CorruptError, match="differs from its manifest"):
        dataset.read_images(uri) if family == tables.IMAGES else dataset.read_samples(uri)


def test_a_whole_dataset_is_counted_and_a_torn_one_is_named(archive: Archive) -> None:
    uri = publish(archive, described=True)
    result = verify_dataset(uri)
    assert (result["files"], result["samples"], result["images"]) == (12, 5, 5)
    for name in (tables.LABELS, tables.REJECTS):
        kept = (Path(uri) / name).read_bytes()
        (Path(uri) / name).write_bytes(kept[:50] + bytes([kept[50] ^ 1]) + kept[51:])
        with pytest.raises(CorruptError, match="differs from its manifest"):
            verify_dataset(uri)
        (Path(uri) / name).write_bytes(kept)
    next((Path(archive.store) / "perception" / "key").glob("perception-*")).unlink()
    with pytest.raises(CorruptError, match="has none"):
        verify_dataset(uri)


def test_what_changed_between_two_datasets(archive: Archive) -> None:
    old = archive.ingest(archive.export(ROWS, IMAGES))
    later = [
        {**item, "likes": item["likes"] + (item["id"] == "p")} for item in ROWS if item["id"] != "t"
    ]
    new = archive.ingest(
        archive.export([*later, row("u", 90, "5.png", account="c")], IMAGES, "later")
    )
    assert diff(old, new) == {"added": ["u"], "removed": ["t"], "changed": {"kpi": ["p"]}}
    assert diff(new, new) == {"added": [], "removed": [], "changed": {}}


@given(cuts=st.lists(st.integers(0, 70), max_size=6))
def test_the_same_rows_make_the_same_file_however_they_come(
    tmp_path_factory: pytest.TempPathFactory, cuts: list[int]
) -> None:
    folder = tmp_path_factory.mktemp("tables")
    schema = tables.sources_schema()
    rows = [{"id": str(i), "line": i} for i in range(70)]
    edges = [0, *sorted(cuts), 70]
    pieces = [pa.RecordBatch.from_pylist(rows[a:b], schema) for a, b in pairwise(edges)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables, "_ROWS", 16)
        tables.write_table(pieces, schema, folder / "cut")
        tables.write_table([pa.RecordBatch.from_pylist(rows, schema)], schema, folder / "whole")
    assert (folder / "cut").read_bytes() == (folder / "whole").read_bytes()


def test_an_image_is_known_by_what_was_asked_and_shards_come_before_parts(tmp_path: Path) -> None:
    folder = perceived.folder_of(str(tmp_path), "key")
    plain, worded, other = Question("a" * 64), Question("a" * 64, ("ball",)), Question("b" * 64)
    seen = {plain: SEEN, worded: Perceived(DESCRIPTION), other: replace(SEEN, keywords=())}
    sizes = {"a" * 64: (8, 8), "b" * 64: (8, 8)}
    assert perceived.known(folder, seen) == {}
    first = perceived.keep_part(perceived.table_of({plain: seen[plain]}, sizes), folder)
    second = perceived.keep_part(
        perceived.table_of({worded: seen[worded], other: seen[other]}, sizes), folder
    )
    files = perceived.known(folder, seen)
    assert files == {plain: first, worded: second, other: second}
    assert perceived.known(folder, [Question("a" * 64, ("box",))]) == {}
    entry = perceived.build_shard(folder, [worded, other], files)
    assert dict(dataset.shard_seen(f"{tmp_path}/datasets/d/v1", entry)) == {
        "a" * 64: seen[worded],
        "b" * 64: seen[other],
    }
    # The same rows out of other parts are the same shard.
    again = perceived.keep_part(perceived.table_of({other: seen[other]}, sizes), folder)
    assert perceived.build_shard(folder, [other, worded], {worded: second, other: again}) == entry
    perceived.clear(folder, [first, second, again, store.name(entry.path)])
    assert perceived.known(folder, seen) == dict.fromkeys((worded, other), store.name(entry.path))
    with pytest.raises(StoreUnavailableError, match="is gone"):
        perceived.build_shard(folder, [plain], files)


def test_images_come_with_the_words_of_their_own_first_post_out_of_few_shards(
    archive: Archive,
) -> None:
    rows = [row(f"p{i}", i, f"{i}.png") for i in range(6)]
    rows += [row("p9", 9, "0.png", text="Another text of the first image that comes after it")]
    uri = archive.ingest(
        archive.export(rows, {f"{i}.png": picture(i, side=96) for i in range(6)}),
        min_text=0,
        shard_mb=0.03,
        negatives=0.4,
    )
    parts, samples = manifest.read_manifest(uri), dataset.read_samples(uri)
    own: dict[str, str] = {}
    for sample in samples:
        if not sample.negative:
            own.setdefault(sample.image, sample.text)
    every = dataset.images_with_words(uri, parts, 100)
    assert {image: text for words in every.values() for image, text in words.items()} == own
    assert len(every) > 1
    for entry, words in every.items():
        assert words.keys() <= {stored.sha256 for stored in dataset.shard_images(uri, entry)}
    few = dataset.images_with_words(uri, parts, 2)
    assert sum(map(len, few.values())) == 2
    assert few == dataset.images_with_words(uri, parts, 2)
    assert sorted(post["id"] for post in dataset.read_posts(uri, parts)) == sorted(
        {sample.post for sample in samples}
    )
