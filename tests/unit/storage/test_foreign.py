"""What `boig clean` never takes: files that are not boig's, and anything at all where ages or the
root are in doubt; and how a clean-up that was cut short goes on."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from boig_core.errors import InputError
from boig_core.storage import commit, manifest, marker, retention, s3, store
from boig_core.storage.job import Stage
from tests.unit.storage.test_retention import DAY, Aging, begin, make, paths, time_, uris

pytestmark = pytest.mark.slow  # of the whole suite, not of its quick part

__all__ = ["time_"]  # a fixture

FOREIGN = [
    "photo.jpg",
    "thesis/chapter 1\x1b[31m.txt",
    "datasets/acme/my-own/table.parquet",
    "datasets/acme/README.md",
    "datasets/acme/blobs/holiday.parquet",
    "datasets/acme/staging/notes.txt",
    "datasets/others/blobs/images-0123456789abcdef.parquet",
    "models/boigsd/downloaded/unet.bin",
    "reports/2024/report.pdf",
    "runs/2024/mine/notes.txt",
    "runs/2024/mine/recipe.json",
    "runs/2024/mine/train/attempt-1/checkpoints/model.bin",
    "runs/2024/other/train/attempt-1/job.json",
    "runs/dag/old/notes.txt",
    "runs/dag/old/ingest/attempt-1/notes.txt",
    ".trash/mine.txt",
    ".trash/2024-02-31T00-00-00Z-01234567/x",
]


def test_a_root_that_is_no_store_loses_nothing(root: str, tmp_path: Path, time_: Aging) -> None:
    make(root, tmp_path, Stage.INGEST, "datasets/acme", "old", {})
    make(root, tmp_path, Stage.INGEST, "datasets/acme", "young", {})
    time_.pass_(root)
    assert uris(retention.survey(root, [], 30), "output")
    store.delete_file(store.join(root, marker.MARKER))
    before = paths(root)
    for act in (retention.survey, retention.clean):
        with pytest.raises(InputError, match=r"has no boig-store\.json.*the next run .* marks it"):
            act(root, [], 30)
    assert paths(root) == before


def test_a_person_s_files_stay_and_are_told(root: str, tmp_path: Path, time_: Aging) -> None:
    old = make(root, tmp_path, Stage.INGEST, "datasets/acme", "old", {})
    make(root, tmp_path, Stage.INGEST, "datasets/acme", "young", {})
    beside = f"{old.removeprefix(f'{root}/')}/notes.txt"
    foreign = sorted([*FOREIGN, beside])
    for path in foreign:
        store.write_bytes(store.join(root, path), b"mine")
    time_.pass_(root)
    for _ in range(3):  # what was beside a manifest is not boig's once that is gone, either
        result = retention.clean(root, [], 30)
        assert [file.path for file in result.foreign] == foreign
        assert all(store.read_bytes(store.join(root, path)) == b"mine" for path in foreign)
    assert not store.exists(store.join(old, manifest.MANIFEST))
    lines = list(retention.summary(result))
    assert f"foreign       {len(foreign):7,} files" in "\n".join(lines)
    assert lines[-1].startswith("trash waits")
    assert all(line.isprintable() for line in lines)
    told = retention.as_json(result)["foreign"]
    assert (told["files"], told["bytes"], len(told["first"])) == (len(foreign), 4 * len(foreign), 5)


def test_an_output_that_was_never_finished_is_known_by_its_job(
    root: str, tmp_path: Path, time_: Aging
) -> None:
    marker.ensure(root)
    died, fenced, done = (begin(root, run, Stage.DDPO, {}) for run in ("died", "fenced", "done"))
    commit.fence(fenced.attempt_uri)
    commit.commit(done.attempt_uri, {}, {})
    for this in (died, fenced, done):
        store.write_bytes(store.join(this.output("models/boigsd"), "unet.bin"), b"half")
    time_.pass_(root)
    result = retention.survey(root, [], 30)
    assert uris(result, "output") == [this.output("models/boigsd") for this in (died, fenced)]
    assert [store.join(root, file.path) for file in result.foreign] == [
        store.join(done.output("models/boigsd"), "unet.bin")
    ], "a committed one had a manifest: what it did not name is not boig's"


def test_shards_that_no_manifest_names_are_known_by_their_dataset(
    root: str, tmp_path: Path, time_: Aging
) -> None:
    marker.ensure(root)
    begin(root, "died", Stage.INGEST, {})
    shard = f"datasets/acme/blobs/images-{'a' * 16}.parquet"
    for path in (shard, shard.replace("acme", "not-boig-s")):
        store.write_bytes(store.join(root, path), b"x")
    time_.pass_(root)
    result = retention.survey(root, [], 30)
    assert [
        file.path for each in result.garbage for file in each.files if "blobs" in file.path
    ] == [shard]
    assert [file.path for file in result.foreign] == [shard.replace("acme", "not-boig-s")]


def test_a_young_half_output_keeps_the_job_that_says_whose_it_is(
    root: str, tmp_path: Path, time_: Aging
) -> None:
    marker.ensure(root)
    this = begin(root, "slow", Stage.DDPO, {})
    time_.pass_(root)
    store.write_bytes(store.join(this.output("models/boigsd"), "unet.bin"), b"half")
    assert retention.survey(root, [], 30).garbage == ()


@pytest.mark.parametrize("cut_after", [1, 2, 4, 7])
def test_a_clean_up_that_was_cut_short_goes_on(
    root: str, tmp_path: Path, time_: Aging, monkeypatch: pytest.MonkeyPatch, cut_after: int
) -> None:
    shard = f"posts-{'b' * 16}.parquet"
    old = make(root, tmp_path, Stage.INGEST, "datasets/acme", "old", {}, (shard,))
    make(root, tmp_path, Stage.INGEST, "datasets/acme", "young", {})
    store.write_bytes(store.join(old, "notes.txt"), b"mine")
    time_.pass_(root)
    whole = {file.path for each in retention.survey(root, [], 30).garbage for file in each.files}
    assert len(whole) > 7
    move = store.move_file
    left = cut_after

    def cut(uri: str, target: str, before: float) -> bool:
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        return move(uri, target, before)

    monkeypatch.setattr(store, "move_file", cut)
    with pytest.raises(KeyboardInterrupt):
        retention.clean(root, [], 30)
    monkeypatch.setattr(store, "move_file", move)
    assert not store.exists(store.join(old, manifest.MANIFEST)), "half an output is none"
    retention.clean(root, [], 30)
    result = retention.survey(root, [], 30)
    assert {entry.was for entry in result.waiting} == whole
    assert not whole & paths(root)
    assert [file.path for file in result.foreign] == [f"{old.removeprefix(f'{root}/')}/notes.txt"]


def test_a_file_that_is_written_while_it_is_moved_stays(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri, target = store.join(root, "a"), store.join(root, "t", "a")
    store.write_bytes(uri, b"old")
    now = retention.store_time(root)
    assert not store.move_file(uri, target, before=now - DAY), "written since"
    assert not store.move_file(store.join(root, "gone"), target, before=now + DAY)
    if store.is_s3(root):
        copy = s3.copy

        def copy_and_write(*places: Any) -> None:
            copy(*places)
            monkeypatch.setattr(store, "modified", lambda uri: now + 2 * DAY)

        monkeypatch.setattr(s3, "copy", copy_and_write)
        assert not store.move_file(uri, target, before=now + DAY)
    assert store.list_files(root) == [("a", 3)]


@pytest.mark.parametrize("days", [365.0, 1.0, -1.0])
def test_a_clock_that_differs_from_the_store_s_removes_nothing(
    root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, days: float
) -> None:
    marker.ensure(root)
    for run in ("old", "young"):
        make(root, tmp_path, Stage.INGEST, "datasets/acme", run, {})
    before, clock = paths(root), time.time
    monkeypatch.setattr(time, "time", lambda: clock() + days * DAY)
    with pytest.raises(InputError, match=r"must be that of the store .* within 10 minutes"):
        retention.clean(root, [], 0.5)
    assert paths(root) == before


def test_clocks_that_are_all_ahead_remove_nothing(root: str, tmp_path: Path, time_: Aging) -> None:
    """A folder on this machine's own disk has no other clock: a store does not age by itself."""
    marker.ensure(root)
    for run in ("old", "young"):
        make(root, tmp_path, Stage.INGEST, "datasets/acme", run, {})
    before = paths(root)
    for path in before:
        time_.age(store.join(root, path), 365)
    assert retention.clean(root, [], 30).garbage == ()
    assert paths(root) == before
