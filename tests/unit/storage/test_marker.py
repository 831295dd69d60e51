"""A store says that it is one; a folder that holds other things never becomes one by accident."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from boig_core.errors import CorruptError, InputError
from boig_core.storage import marker, store
from boig_core.storage.job import JOB, write_job
from tests.unit.storage.test_job import make_job


def test_an_empty_folder_becomes_a_store_once(root: str) -> None:
    with pytest.raises(InputError, match="nothing says that it is a store of boig"):
        marker.require(root)
    with ThreadPoolExecutor(4) as pool:
        marks = list(pool.map(marker.ensure, [root] * 4))
    assert len({mark.id for mark in marks if mark}) == 1, "of racing writers one marks it"
    assert marker.ensure(root) == marker.read(root) == marks[0]
    marker.require(root)
    assert store.list_files(root) == [
        (marker.MARKER, len(store.read_bytes(f"{root}/{marker.MARKER}")))
    ]
    tree = json.loads(store.read_bytes(store.join(root, marker.MARKER)))
    assert "boig keeps this folder as a store" in tree["what"]
    assert (tree["schema_version"], tree["id"]) == (1, marks[0].id if marks[0] else "")


def test_a_marker_that_comes_amid_the_look_is_seen(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_empty = marker._is_empty

    def late(place: str) -> bool:
        monkeypatch.setattr(marker, "_is_empty", is_empty)
        assert marker.ensure(place) is not None
        return is_empty(place)

    monkeypatch.setattr(marker, "_is_empty", late)
    assert marker.ensure(root) == marker.read(root) is not None


def test_stores_are_told_apart(root: str) -> None:
    one, other = (marker.ensure(store.join(root, name)) for name in ("one", "other"))
    assert one is not None
    assert other is not None
    assert one.id != other.id


@pytest.mark.parametrize(
    "path",
    [
        *("photo.jpg", "datasets/x/v/notes.txt", "runs/2026/mine/train/attempt-1/model.bin"),
        *("runs/a/b/c/attempt-1/job.json", "job.json"),
    ],
)
def test_a_folder_of_other_things_is_not_marked(root: str, path: str) -> None:
    store.write_bytes(store.join(root, path), b'{"task": "/elsewhere", "attempt": 1, "stage": "x"}')
    assert marker.ensure(root) is None
    with pytest.raises(InputError, match="the next run in a store of an older version marks it"):
        marker.require(root)
    assert store.list_files(root) == [(path, 50)]


def test_an_older_store_is_known_by_its_jobs(root: str) -> None:
    store.write_bytes(store.join(root, "posts.jsonl"), b"a person's")
    write_job(make_job(root, run="one"))
    assert marker.ensure(root) == marker.read(root) is not None


def test_an_alert_before_the_first_run_keeps_no_store_from_being_marked(root: str) -> None:
    store.write_bytes(store.join(root, "alerts", "key-1.json"), b"{}")
    assert marker.ensure(root) is not None


def test_a_job_says_whose_attempt_it_is(root: str) -> None:
    this = make_job(root, run="one")
    path = write_job(this).removeprefix(f"{root}/")
    assert marker.is_job(root, path)
    copy = path.replace("/one/", "/copied/")
    store.write_bytes(store.join(root, copy), store.read_bytes(store.join(root, path)))
    assert not marker.is_job(root, copy)
    assert not marker.is_job(root, path.replace(JOB, "missing.json"))


def test_a_marker_that_cannot_be_read_is_told(root: str) -> None:
    store.write_bytes(store.join(root, marker.MARKER), b"[]")
    for ask in (marker.read, marker.require, marker.ensure):
        with pytest.raises(CorruptError, match=r"boig-store\.json: is not the marker of a store"):
            ask(root)
