"""Ingestion from rows to a version: what is chosen, what a new version adds, what a kill leaves,
what order and workers do not change."""

import random
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from boig_core.config import Data
from boig_core.data import card, dataset, selection, staging, tables
from boig_core.data.ingestion import OneProcess
from boig_core.data.inspect import diff
from boig_core.data.staging import FetchChunk
from boig_core.errors import InputError
from boig_core.storage import manifest, store

from .conftest import Archive, picture, row

ROWS = [row(f"p{i:02}", 30.0 + i, f"{i}.png", account="ab"[i % 2]) for i in range(24)]
IMAGES = {f"{i}.png": picture(i) for i in range(30)}


def rejects(uri: str) -> list[dict[str, Any]]:
    return pq.read_table(Path(uri) / tables.REJECTS).to_pylist()


def content(uri: str) -> dict[str, str]:
    """Hash by name of all that a version is made of but where its rows stood, of which the card's
    examples of rejects tell too."""
    parts = manifest.read_manifest(uri)
    messages = {tables.SOURCES, tables.REJECTS, card.CARD, manifest.PAGE}
    return {entry.path: entry.sha256 for entry in parts.files if entry.path not in messages}


class Threads(OneProcess):
    """A crew of several threads that hand in their chunks in any order."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def fetch(self, chunks: Iterable[FetchChunk], data: Data, root: str) -> Iterator[pa.Table]:
        with ThreadPoolExecutor(3) as pool:
            result = list(pool.map(lambda chunk: staging.stage(chunk, data, root), chunks))
        self._random.shuffle(result)
        yield from result


class Dying(OneProcess):
    """A crew that dies after some chunks, or after all."""

    def __init__(self, chunks: int) -> None:
        self._chunks = chunks

    def fetch(self, chunks: Iterable[FetchChunk], data: Data, root: str) -> Iterator[pa.Table]:
        for table in super().fetch(chunks, data, root):
            if self._chunks == 0:
                raise KeyboardInterrupt
            self._chunks -= 1
            yield table


def test_one_post_an_id_the_latest_with_the_largest_kpi(archive: Archive) -> None:
    rows = [
        row("1", 5, "0.png"),
        row("1", 70, "1.png"),
        row("1", 60, "2.png"),
        row("2", 50, "3.png"),
        row("2", 9, "4.png", day="2020-02-02"),
    ]
    uri = archive.ingest(archive.export([*rows, {"id": 1}], IMAGES))
    assert [(sample.id, sample.kpi) for sample in dataset.read_samples(uri)] == [
        ("1", 70.0),
        ("2", 9.0),
    ]
    result = rejects(uri)
    assert [(item["line"], item["post"], item["code"]) for item in result] == [
        (1, "1", "duplicate_id"),
        (3, "1", "duplicate_id"),
        (4, "2", "duplicate_id"),
        (6, "1", "missing_field"),
    ]
    assert result[0]["reason"] == "id 1 stands in line 2 too"
    meta = manifest.read_manifest(uri).meta
    assert (meta["posts"], meta["accepted"], meta["rejected"]) == (6, 2, 4)


def test_small_accounts_and_large_ones(archive: Archive) -> None:
    rows = [row(f"{i}", 50 + i, f"{i}.png", account="big") for i in range(20)] + [
        row("alone", 50, "20.png", account="small")
    ]
    uris = [
        archive.ingest(archive.export(order, IMAGES), min_posts=2, max_posts=8)
        for order in (rows, rows[::-1])
    ]
    assert sorted(item["code"] for item in rejects(uris[0])) == ["account_sampled"] * 12 + [
        "account_too_small"
    ]
    kept = [{sample.id for sample in dataset.read_samples(uri)} for uri in uris]
    assert len(kept[0]) == 8
    assert kept[0] == kept[1]
    other = archive.ingest(archive.export(rows, IMAGES), seed=1, min_posts=2, max_posts=8)
    assert {sample.id for sample in dataset.read_samples(other)} != kept[0]


def test_images_that_are_lost_and_posts_that_are_left(archive: Archive) -> None:
    rows = [
        row("p", 100, "0.png"),
        row("q", 50, "1.png", "2.png"),
        row("r", 25, "none.png", "3.png"),
        row("s", 5, "none.png"),
    ]
    uri = archive.ingest(archive.export(rows, IMAGES))
    samples = {sample.id: sample for sample in dataset.read_samples(uri)}
    assert samples.keys() == {"p", "q", "q-2", "r-2"}
    assert samples["q"].split == samples["q-2"].split
    # Percentiles are over p, q and r: s has no image and must not move them.
    assert [round(samples[name].kpi_normalized, 1) for name in ("r-2", "q", "p")] == [
        16.7,
        50.0,
        83.3,
    ]
    assert [(item["post"], item["image"], item["code"]) for item in rejects(uri)] == [
        ("r", "none.png", "image_missing"),
        ("s", "none.png", "image_missing"),
    ]
    meta = manifest.read_manifest(uri).meta
    assert (meta["posts"], meta["accepted"], meta["rejected"], meta["images"], meta["samples"]) == (
        4,
        3,
        2,
        4,
        4,
    )
    lineage = {item["id"]: item for item in pq.read_table(Path(uri) / tables.SOURCES).to_pylist()}
    assert (lineage["q-2"]["line"], lineage["q-2"]["opt_out"]) == (2, "not asked")
    assert lineage["q-2"]["address"].endswith("/export/2.png")


@pytest.mark.slow
@settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(order=st.permutations(ROWS), seed=st.integers(0, 99))
def test_neither_order_nor_workers_change_a_bit(
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    order: list[dict[str, Any]],
    seed: int,
) -> None:
    monkeypatch.setattr(staging, "CHUNK", 5)
    archive = Archive(tmp_path_factory.mktemp("archive"))
    rules: dict[str, Any] = {"shard_mb": 0.004, "negatives": 0.5, "near_duplicates": 3}
    straight = archive.ingest(archive.export(ROWS, IMAGES), **rules)
    other = archive.ingest(archive.export(order, IMAGES), crew=Threads(seed), **rules)
    assert len(content(straight)) > 4
    assert content(straight) == content(other)


def test_a_new_day_adds_shards_and_moves_percentiles(archive: Archive) -> None:
    first = archive.ingest(archive.export(ROWS[:16], IMAGES))
    blobs = {
        path: (Path(archive.root) / "blobs" / path).stat().st_mtime_ns
        for path, _ in store.list_files(f"{archive.root}/blobs")
    }
    day = [
        *ROWS[16:],
        {**ROWS[0], "likes": 500},
        {**ROWS[1], "text": "Another text for a post whose text was mended afterwards, a bit"},
    ]
    second = archive.ingest(
        archive.export(
            day, {name: IMAGES[name] for name in (f"{i}.png" for i in range(16, 24))}, "day-2"
        ),
        first,
    )
    changes = diff(first, second)
    assert changes["added"] == [f"p{i}" for i in range(16, 24)]
    assert (changes["removed"], changes["changed"]["kpi"], changes["changed"]["text"]) == (
        [],
        ["p00"],
        ["p01"],
    )
    assert not {"image", "split", "account"} & changes["changed"].keys()
    after = {
        path: (Path(archive.root) / "blobs" / path).stat().st_mtime_ns
        for path, _ in store.list_files(f"{archive.root}/blobs")
    }
    assert blobs.items() < after.items()
    assert content(first).keys() - {tables.LABELS} < content(second).keys()
    # As if all had been ingested at once.
    whole = {**{item["id"]: item for item in ROWS}, **{item["id"]: item for item in day}}
    at_once = archive.ingest(archive.export(list(whole.values()), IMAGES, "all"))
    assert dataset.read_samples(second) == dataset.read_samples(at_once)


def test_the_images_of_an_earlier_version_are_not_fetched_again(archive: Archive) -> None:
    location = archive.export(ROWS[:6], IMAGES)
    first = archive.ingest(location)
    for path in Path(location).glob("*.png"):
        path.unlink()
    second = archive.ingest(location, first)
    assert diff(first, second) == {"added": [], "removed": [], "changed": {}}
    assert content(first) == content(second)


def test_rejects_are_tried_again_one_by_one(archive: Archive) -> None:
    rows = [
        row("p", 100, "0.png"),
        row("q", 50, "1.png", "2.png"),
        row("s", 60, "3.png"),
        row("t", 70, "none.png"),
        {**row("u", 1, "4.png"), "likes": "x"},
    ]
    location = archive.export(rows, {name: IMAGES[name] for name in ("0.png", "1.png")})
    first = archive.ingest(location)
    assert [sample.id for sample in dataset.read_samples(first)] == ["p", "q"]
    archive.export(rows, IMAGES)
    (Path(location) / "posts.jsonl").unlink()  # the rows themselves are kept with the rejects
    (Path(location) / "0.png").unlink()  # and what was good is not fetched again
    # A version on top of the first leaves what was rejected for good alone.
    again = archive.ingest(archive.export([row("w", 80, "5.png")], {}, "day-2"), first)
    assert [sample.id for sample in dataset.read_samples(again)] == ["p", "q"]
    assert {item["post"] for item in rejects(again)} == {"q", "s", "t", "u", "w"}
    second = archive.ingest(None, first, retry=True)
    assert [sample.id for sample in dataset.read_samples(second)] == ["p", "q", "q-2", "s"]
    assert [(item["post"], item["code"]) for item in rejects(second)] == [
        ("t", "image_missing"),
        ("u", "bad_kpi"),
    ]
    at_once = archive.ingest(archive.export(rows, IMAGES, "mended"))
    assert dataset.read_samples(at_once) == dataset.read_samples(second)


def test_a_row_that_comes_again_is_looked_at_anew(archive: Archive) -> None:
    rows = [row("p", 100, "0.png"), row("q", 50, "1.png", "2.png"), row("s", 60, "3.png")]
    first = archive.ingest(
        archive.export(rows, {name: IMAGES[name] for name in ("0.png", "1.png")})
    )
    assert [(item["post"], item["image"]) for item in rejects(first)] == [
        ("q", "2.png"),
        ("s", "3.png"),
    ]
    second = archive.ingest(archive.export([rows[1]], IMAGES, "day-2"), first)
    assert [sample.id for sample in dataset.read_samples(second)] == ["p", "q", "q-2"]
    assert [(item["post"], item["image"]) for item in rejects(second)] == [("s", "3.png")]


def test_what_waited_for_a_larger_account_comes_in_with_the_next_version(archive: Archive) -> None:
    first = archive.ingest(archive.export([*ROWS[:6:2], ROWS[1]], IMAGES), min_posts=2)
    assert {sample.account for sample in dataset.read_samples(first)} == {"a"}
    second = archive.ingest(archive.export([ROWS[3]], IMAGES, "day-2"), first, min_posts=2)
    assert [sample.id for sample in dataset.read_samples(second)] == [
        "p00",
        "p01",
        "p02",
        "p03",
        "p04",
    ]
    assert rejects(second) == []
    # And one that was taken before and is not drawn any more comes back as a whole.
    third = archive.ingest(None, second, min_posts=2, max_posts=2)
    assert len(dataset.read_samples(third)) == 4
    fourth = archive.ingest(None, third, min_posts=2)
    assert dataset.read_samples(fourth) == dataset.read_samples(second)


@pytest.mark.parametrize("chunks", [0, 1, 6])
def test_a_kill_loses_nothing_that_was_staged_and_the_restart_makes_the_same_version(
    archive: Archive, monkeypatch: pytest.MonkeyPatch, chunks: int
) -> None:
    monkeypatch.setattr(staging, "CHUNK", 5)
    undisturbed = Archive(archive.folder / "undisturbed")
    undisturbed.folder.mkdir()
    location = archive.export(ROWS, IMAGES)
    expected = undisturbed.ingest(location, shard_mb=0.004)
    with pytest.raises(KeyboardInterrupt):
        archive.make(location, shard_mb=0.004, crew=Dying(chunks))
    assert not store.list_files(f"{archive.root}/v1")
    staged = Path(archive.root, "staging").glob("*.parquet")
    safe = [address for path in staged for address in pq.read_table(path)["address"].to_pylist()]
    assert 5 <= len(safe) < 24
    fetched: list[str] = []
    fetch = staging.Fetcher.fetch

    def noting(self: Any, references: Any, reach: Any) -> Any:
        fetched.extend(reference.address for reference in references)
        return fetch(self, references, reach)

    monkeypatch.setattr(staging.Fetcher, "fetch", noting)
    uri = archive.ingest(location, shard_mb=0.004)
    assert content(uri) == content(expected)
    assert len(fetched) == len({*fetched} - {*safe}) == 24 - len(safe)
    assert not store.list_files(f"{archive.root}/staging")


def test_a_version_of_other_rules_or_another_place_is_refused(archive: Archive) -> None:
    location = archive.export(ROWS, IMAGES)
    first = archive.ingest(location)
    with pytest.raises(InputError, match=r"data\.kpi = shares.*was likes"):
        archive.ingest(location, first, kpi="shares")
    other = Archive(archive.folder / "other")
    other.folder.mkdir()
    with pytest.raises(InputError, match="does not lie in"):
        other.ingest(location, first)


def test_nothing_usable_says_what_is_most_often_wrong(archive: Archive) -> None:
    with pytest.raises(
        InputError,
        match=r"no usable post among 3 rows.*most often missing_field \(2 times\), "
        r"first in line 2: account is missing; then bad_kpi \(1 times\)",
    ):
        archive.ingest(
            archive.export(
                [{**ROWS[0], "likes": "x"}, {**ROWS[1], "account": ""}, {**ROWS[2], "account": ""}],
                {},
            )
        )
    with pytest.raises(InputError, match="no post with an image that can be read"):
        archive.ingest(archive.export(ROWS, {}, "bare"))


def test_too_little_memory_for_the_tables_names_the_field(tmp_path: Path) -> None:
    with (
        pytest.raises(InputError, match=r"^data.tables_mb = 8: is too little"),
        selection.connect(tmp_path, 8) as con,
    ):
        con.execute(
            "CREATE TABLE longest AS SELECT list(sha256(i::VARCHAR)) AS all FROM range(1_000_000) t(i)"
        )


def test_an_image_of_several_posts_is_stored_once(archive: Archive) -> None:
    rows = [row(str(i), 50 + i, f"{i}.png") for i in range(4)]
    images = {f"{i}.png": picture(i % 2) for i in range(4)}
    uri = archive.ingest(archive.export(rows, images))
    assert len({sample.image for sample in dataset.read_samples(uri)}) == 2
    assert (
        sum(
            dataset.shard_rows(uri, entry)
            for entry in dataset.shards(manifest.read_manifest(uri), tables.IMAGES)
        )
        == 2
    )
    assert {sample.group for sample in dataset.read_samples(uri)} == {
        sample.image for sample in dataset.read_samples(uri)
    }


def test_images_encoded_anew(archive: Archive) -> None:
    uri = archive.ingest(archive.export(ROWS, IMAGES), image_format="webp")
    entry = dataset.shards(manifest.read_manifest(uri), tables.IMAGES)[0]
    assert all(stored.data[8:12] == b"WEBP" for stored in dataset.shard_images(uri, entry))
