"""`boig forget` that is killed, overtaken or hindered: a next try finishes it, and nothing that
runs beside it brings a post back."""

from __future__ import annotations

import re
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from boig_core.data import dataset, forgotten
from boig_core.data.forgetting import erasure
from boig_core.data.forgetting.erasure import forget
from boig_core.data.forgotten import Subject
from boig_core.errors import (
    CorruptError,
    FencedError,
    InfrastructureError,
    InputError,
    NotFoundInStoreError,
    StoreUnavailableError,
)
from boig_core.storage import commit, store, withdrawn
from boig_core.storage.check import check_store
from boig_core.storage.job import Stage
from boig_core.storage.stage import Workspace
from ray_jobs import ingest as ingest_stage
from ray_jobs import perceive as perceive_stage

from .forgetting import ACCOUNT, LEAVER, Grown, grow, needles_of, posts, silent, traces


@pytest.fixture
def local(tmp_path: Path) -> str:
    """URI of an empty store on a disk."""
    return str(tmp_path / "store")


class Cut(Exception):
    """A kill."""


class Cutting:
    """Notes each write to the store, and cuts at one of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.cut, self.writes = -1, list[str]()
        for name in ("write_bytes", "put_if_absent", "upload_file", "upload_folder", "delete_file"):
            monkeypatch.setattr(store, name, self._noting(name, getattr(store, name)))

    def _noting(self, name: str, act: Callable[..., Any]) -> Callable[..., Any]:
        def write(*args: Any, **kwargs: Any) -> Any:
            uri = str(args[1] if name.startswith("upload") else args[0])
            # What kind of write: names without hashes and numbers, places without versions.
            self.writes.append(f"{name} {re.sub(r'[0-9a-f]{8,}|[0-9]+|copy-.*?/', '', uri)}")
            if len(self.writes) == self.cut:
                raise Cut
            return act(*args, **kwargs)

        return write


@pytest.mark.slow
def test_a_kill_at_any_write_is_finished_by_the_next_try(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("boig_core.storage.check.READERS", 1)
    # A kill loses nothing that was written, so nothing has to wait for the disk.
    monkeypatch.setattr("os.fsync", lambda file: None)
    # And the page of each version takes a quarter of the time.
    monkeypatch.setattr("boig_core.data.card_page.render", lambda *args: "page")
    first = Grown(str(tmp_path / "store"), tmp_path)
    grow(first)
    needles = needles_of(first)
    cutting = Cutting(monkeypatch)

    def start(number: int) -> str:
        root = str(tmp_path / f"copy-{number}")
        shutil.copytree(first.root, root)
        cutting.writes.clear()
        return root

    root = start(0)
    whole = forget(root, ACCOUNT, None, None, silent)
    writes = list(cutting.writes)
    # Writes of one kind are alike, so each kind is cut at its first.
    edges = [number for number, kind in enumerate(writes, 1) if kind not in writes[: number - 1]]
    assert len(edges) > 20
    for number in edges:
        root, cutting.cut = start(number), number
        with pytest.raises(Cut):
            forget(root, ACCOUNT, None, None, silent)
        cutting.cut = -1
        done = forget(root, ACCOUNT, None, None, silent)
        where = (number, writes[number - 1])
        assert done.withdrawn.keys() == whole.withdrawn.keys(), where
        assert done.models == whole.models, where
        assert traces(root, needles) == [], where
        [version] = {
            withdrawn.successor_of(store.join(root, place))
            for place in whole.withdrawn
            if place.startswith("datasets/")
        }
        assert len(dataset.read_samples(str(version))) == 12, where
        assert check_store(root, silent).faults == [], where
        assert not store.exists(store.join(root, forgotten.ERASING))
        shutil.rmtree(root)


def test_an_ingestion_that_has_begun_cannot_bring_it_back(local: str, tmp_path: Path) -> None:
    grown = Grown(local, tmp_path)
    first = grown.ingest(posts=grown.export(posts(0, 9)))
    job = grown.job(Stage.INGEST, previous=first, posts=grown.export(posts(9, 6)))
    late = grown.publish(job)
    half = Path(late) / f".labels.parquet.{uuid.uuid4().hex}"
    half.write_text(LEAVER)
    done = forget(local, ACCOUNT, None, None, silent)
    assert not half.exists()
    assert job.attempt_uri.removeprefix(f"{local}/") in done.fenced
    with pytest.raises(FencedError):
        commit.commit(job.attempt_uri, {"dataset": late}, {})
    assert traces(local, [LEAVER]) == []
    with pytest.raises(NotFoundInStoreError):
        dataset.read_samples(late)


def test_what_commits_at_the_last_moment_is_withdrawn_too(
    local: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grown = Grown(local, tmp_path)
    first = grown.ingest(posts=grown.export(posts(0, 9)))
    job = grown.job(Stage.INGEST, previous=first, posts=grown.export(posts(9, 6)))
    late = grown.publish(job)
    fence = commit.fence

    def too_late(attempt: str) -> dict[str, Any] | None:
        if attempt == job.attempt_uri:
            commit.commit(attempt, {"dataset": late}, {})
        return fence(attempt)

    monkeypatch.setattr(commit, "fence", too_late)
    done = forget(local, ACCOUNT, None, None, silent)
    assert late.removeprefix(f"{local}/") in done.withdrawn
    assert traces(local, [LEAVER]) == []
    posts_left = {s.post for s in dataset.read_samples(str(withdrawn.successor_of(late)))}
    assert posts_left == {p["id"] for p in posts(0, 9) + posts(9, 6) if p["account"] != LEAVER}


def test_no_version_is_begun_during_an_erasure_and_two_take_turns(
    local: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grown = Grown(local, tmp_path)
    grown.ingest(posts=grown.export(posts(0, 9)))
    with monkeypatch.context() as patch:
        patch.setattr(erasure, "_withdraw", lambda *args: (_ for _ in ()).throw(Cut))
        with pytest.raises(Cut):
            forget(local, ACCOUNT, None, None, silent)
    with pytest.raises(InfrastructureError, match="an erasure is under way, or was broken off"):
        forgotten.require_no_erasure(local)
    # As the stages ask, before they read anything.
    for stage, work in (("ingest", ingest_stage.work), ("perceive", perceive_stage.work)):
        job = grown.job(Stage(stage), dataset="x", posts="x")
        with pytest.raises(InfrastructureError, match="an erasure is under way"):
            work(Workspace(job, tmp_path))
    with pytest.raises(InputError, match="another erasure is under way"):
        forget(local, Subject("id", "al-0"), None, None, silent)
    forget(local, ACCOUNT, None, None, silent)
    forgotten.require_no_erasure(local)
    forget(local, Subject("id", "al-0"), None, None, silent)
    assert traces(local, [LEAVER, "al-0"]) == []


def test_a_store_away_or_damaged_changes_nothing_half(
    local: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grown = Grown(local, tmp_path)
    first = grown.ingest(posts=grown.export(posts(0, 9)))
    store.write_bytes(store.join(first, "manifest.json"), b"{")
    before = {path for path, _ in store.list_files(local)}
    with pytest.raises(CorruptError, match="see `boig store check`"):
        forget(local, ACCOUNT, None, None, silent)
    assert {path for path, _ in store.list_files(local)} == before
    with pytest.raises(InputError, match=r"has no boig-store\.json"):
        forget(str(tmp_path), ACCOUNT, None, None, silent)
    other = Grown(str(tmp_path / "other"), tmp_path / "o")
    uri = other.ingest(posts=other.export(posts(0, 9)))
    [attempt] = [path for path, _ in store.list_files(other.root) if path.endswith("commit.json")]
    store.write_bytes(store.join(other.root, attempt), b"{")
    tables_before = store.list_files(uri)
    with pytest.raises(CorruptError, match="see `boig store check`"):
        forget(other.root, ACCOUNT, None, None, silent)
    assert store.list_files(uri) == tables_before, "it does not pass for one that never counted"
    salt = store.join(local, "forgotten", "salt.json")
    forgotten.write(local, "acme", ACCOUNT, "2026-01-01T00:00:00Z")
    store.delete_file(salt)
    with pytest.raises(CorruptError, match="is lost, and tombstones need it"):
        forgotten.read(store.join(local, "datasets", "acme"))
    monkeypatch.setattr(
        store,
        "put_if_absent",
        lambda *args: (_ for _ in ()).throw(StoreUnavailableError(local, "is away", "try again")),
    )
    with pytest.raises(StoreUnavailableError):
        forgotten.write(local, "acme", ACCOUNT, "2026-01-01T00:00:00Z")
