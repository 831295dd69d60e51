"""`boig forget`: nothing of a subject is left in any file, all of the others is, a kill at any
write loses neither, and no ingestion brings it back."""

from __future__ import annotations

import json
import re
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from boig_core.cli import app
from boig_core.data import dataset, erasure, forgotten, tables
from boig_core.data.erasure import forget, survey
from boig_core.data.forgotten import Subject
from boig_core.errors import (
    CorruptError,
    FencedError,
    InfrastructureError,
    InputError,
    NotFoundInStoreError,
    StoreUnavailableError,
    WithdrawnError,
)
from boig_core.storage import commit, copying, manifest, store, withdrawn
from boig_core.storage.check import check_store
from boig_core.storage.inventory import Inventory
from boig_core.storage.job import Stage
from boig_core.storage.retention import survey as survey_garbage
from boig_core.storage.stage import Workspace
from ray_jobs import ingest as ingest_stage
from ray_jobs import perceive as perceive_stage

from .conftest import row
from .forgetting import (
    LEAVER,
    Grown,
    accounts_of,
    content,
    digest,
    grow,
    images_of,
    posts,
    traces,
)

ACCOUNT = Subject("account", LEAVER)


def silent(line: str) -> None:
    pass


@pytest.fixture(params=["local", "s3_bucket", "real_s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URI of an empty store."""
    if request.param == "local":
        return str(tmp_path / "store")
    return f"{request.getfixturevalue(request.param)}/{uuid.uuid4().hex}"


@pytest.fixture
def local(tmp_path: Path) -> str:
    """The same on a disk alone."""
    return str(tmp_path / "store")


def needles_of(grown: Grown) -> list[str]:
    """What no file may hold afterwards: name, ids, and hashes of images that only they show."""
    own = images_of(grown, LEAVER) - images_of(grown, "al") - images_of(grown, "bo")
    assert len(own) >= 4
    return [LEAVER, "lost", *sorted(own)]


@pytest.mark.slow
def test_nothing_of_an_account_is_left_and_all_of_the_others_is(root: str, tmp_path: Path) -> None:
    grown = Grown(root, tmp_path)
    outputs = grow(grown)
    needles = needles_of(grown)
    assert len(traces(root, needles)) > 10
    done = forget(root, ACCOUNT, None, ("ann",), silent)
    assert traces(root, needles) == []
    # One of its posts is of the attempt that died.
    assert (done.posts, done.images) == (6, len(needles) - 3)
    held = {
        outputs[name].removeprefix(f"{root}/") for name in ("first", "seen", "second", "newest")
    }
    repeated = {outputs[name].removeprefix(f"{root}/") for name in ("evaluation", "report")}
    assert done.withdrawn.keys() == held | repeated
    [successor] = {done.withdrawn[place] for place in held}
    new = store.join(root, str(successor))
    assert accounts_of(new) == {"al", "bo"}
    # As if they had never posted.
    other = Grown(str(tmp_path / "other"), tmp_path / "o")
    rows = [item for item in posts(0, 9) + posts(9, 6) if item["account"] != LEAVER]
    at_once = other.ingest(posts=other.export(rows))
    assert dataset.read_samples(new) == dataset.read_samples(at_once)
    assert done.models == (outputs["model"].removeprefix(f"{root}/"),)
    assert manifest.verify(outputs["model"])
    assert check_store(root, silent).faults == []
    record = json.loads(store.read_bytes(store.join(root, str(done.record))))
    assert record["withdrawn"] == done.withdrawn
    assert not store.exists(store.join(root, forgotten.ERASING))


def test_who_reads_a_withdrawn_version_is_told_what_to_use(local: str, tmp_path: Path) -> None:
    grown = Grown(local, tmp_path)
    first = grown.ingest(posts=grown.export(posts(0, 9)))
    before = digest(first)
    done = forget(local, ACCOUNT, "acme", None, silent)
    [successor] = done.withdrawn.values()
    readers: list[Callable[[], Any]] = [
        lambda: dataset.read_samples(first),
        lambda: manifest.fetch_folder(first, tmp_path / "x"),
        lambda: manifest.read_file(first, "card.html"),
        lambda: grown.ingest(previous=first, posts=grown.export(posts(9, 3))),
        lambda: grown.perceive(first),
    ]
    for read in readers:
        with pytest.raises(WithdrawnError, match=rf"was withdrawn on 20.*; use .*{successor}$"):
            read()
    result = CliRunner().invoke(app, ["dataset", "show", first])
    assert isinstance(result.exception, WithdrawnError)
    # What was made from it is still verified by its manifest.
    assert digest(first) == before
    assert withdrawn.successor_of(first) == store.join(local, str(successor))
    # Once more for another: the note leads on to the end.
    forget(local, Subject("id", "al-0"), None, None, silent)
    newest = str(withdrawn.successor_of(first))
    assert {sample.post for sample in dataset.read_samples(newest)} == {
        "al-3", "al-6", "bo-1", "bo-4", "bo-7",
    }  # fmt: skip


@pytest.mark.parametrize("spelling", ["mallory", "@MALLORY", "  Mallory ", "Ｍａｌｌｏｒｙ"])
def test_no_ingestion_brings_it_back(local: str, tmp_path: Path, spelling: str) -> None:
    grown = Grown(local, tmp_path)
    first = grown.ingest(posts=grown.export(posts(0, 9)))
    forget(local, Subject("account", spelling), None, None, silent)
    again = [*posts(0, 12), {**row("text", 1.0, "3.png", account=LEAVER), "likes": "no number"}]
    second = grown.ingest(posts=grown.export(again), previous=str(withdrawn.successor_of(first)))
    other = Grown(local, tmp_path / "o", "another")
    third = other.ingest(posts=other.export(again))
    for uri in (second, third):
        assert accounts_of(uri) == {"al", "bo"}
        left_out = [r for r in content(f"{uri}/{tables.REJECTS}") if r["code"] == "forgotten"]
        # Those of the export, and of the version before those that it held.
        count = 8 if uri == second else 5
        assert len(left_out) == count
        assert all(r["post"] is r["row"] is r["image"] is None for r in left_out)
        assert manifest.read_manifest(uri).meta["rejected_by_reason"] == {"forgotten": count}
        card = json.loads(manifest.read_file(uri, "card.json"))
        assert (card["rows"]["rejected"], card["rows"]["left_out"]) == (0, count)
    assert traces(local, [LEAVER, "text that"]) == []


def test_an_id_goes_from_its_dataset_alone_and_other_ids_stay(local: str, tmp_path: Path) -> None:
    one, two = Grown(local, tmp_path, "one"), Grown(local, tmp_path / "two", "two")
    uris = [grown.ingest(posts=grown.export(posts(0, 9))) for grown in (one, two)]
    before = store.list_files(uris[1])
    done = forget(local, Subject("id", " al-0 "), "one", None, silent)
    assert list(done.withdrawn) == [uris[0].removeprefix(f"{local}/")]
    assert store.list_files(uris[1]) == before
    new = str(withdrawn.successor_of(uris[0]))
    left = {sample.post for sample in dataset.read_samples(uris[1])} - {"al-0"}
    assert {sample.post for sample in dataset.read_samples(new)} == left
    again = two.ingest(posts=two.export(posts(0, 9)))
    assert "al-0" in {sample.post for sample in dataset.read_samples(again)}
    with pytest.raises(InputError, match=r"--name three.*use one of one, two"):
        survey(local, ACCOUNT, "three")


def test_without_apply_nothing_is_written(local: str, tmp_path: Path) -> None:
    grown = Grown(local, tmp_path)
    outputs = grow(grown)
    before = {
        file.path: store.read_bytes(store.join(local, file.path)) for file in store.walk(local)
    }
    result = CliRunner().invoke(app, ["forget", "--account", "mallory", "--store", local])
    assert result.exit_code == 0, result.output
    after = {
        file.path: store.read_bytes(store.join(local, file.path)) for file in store.walk(local)
    }
    assert after == before
    for name in ("first", "seen", "second", "newest", "evaluation", "report", "model"):
        assert outputs[name].removeprefix(f"{local}/") in result.output
    assert LEAVER.lower() not in result.output.lower()
    assert "would go: 6 posts" in result.output


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


def test_each_branch_of_a_dataset_keeps_what_others_have_posted(local: str, tmp_path: Path) -> None:
    grown = Grown(local, tmp_path)
    trunk = grown.perceive(grown.ingest(posts=grown.export(posts(0, 9))))
    left = grown.ingest(posts=grown.export(posts(9, 3)), previous=trunk)
    right = grown.perceive(grown.ingest(posts=grown.export(posts(12, 3)), previous=trunk))
    apart = grown.ingest(posts=grown.export([p for p in posts(30, 6) if p["account"] != LEAVER]))
    before = store.list_files(apart)
    forget(local, ACCOUNT, None, None, silent)
    for uri, first, count in ((left, 9, 3), (right, 12, 3)):
        new = str(withdrawn.successor_of(uri))
        expected = {p["id"] for p in posts(0, 9) + posts(first, count) if p["account"] != LEAVER}
        assert {sample.post for sample in dataset.read_samples(new)} == expected
    assert store.list_files(apart) == before
    assert withdrawn.read(apart) is None


def test_posts_that_only_rejects_still_hold_go_with_their_images(
    local: str, tmp_path: Path
) -> None:
    grown = Grown(local, tmp_path)
    # So many of each account that some are drawn and others wait among the rejects.
    first = grown.ingest(posts=grown.export(posts(0, 18)))
    own = images_of(grown, LEAVER) - images_of(grown, "al") - images_of(grown, "bo")
    second = grown.ingest("data.max_posts=2", previous=first)
    for folder in (first,):
        for path, _ in store.list_files(folder):
            store.delete_file(store.join(folder, path))
    waiting = {r["post"] for r in content(f"{second}/{tables.REJECTS}")}
    assert any(post.startswith(LEAVER) for post in waiting)
    forget(local, ACCOUNT, None, None, silent)
    assert traces(local, [LEAVER, *own]) == []
    assert accounts_of(str(withdrawn.successor_of(second))) == {"al", "bo"}


def test_where_nothing_is_left_nothing_takes_its_place(local: str, tmp_path: Path) -> None:
    grown = Grown(local, tmp_path)
    rows = [item for item in posts(0, 9) if item["account"] == LEAVER]
    only = grown.ingest(posts=grown.export(rows))
    forget(local, ACCOUNT, None, None, silent)
    assert traces(local, [LEAVER]) == []
    assert withdrawn.successor_of(only) is None
    with pytest.raises(WithdrawnError, match="make it again: nothing has taken its place"):
        dataset.read_samples(only)
    assert check_store(local, silent).faults == []


def test_what_nobody_has_is_only_kept_out(local: str, tmp_path: Path) -> None:
    grown = Grown(local, tmp_path)
    first = grown.ingest(posts=grown.export(posts(0, 9)))
    before = store.list_files(first)
    done = forget(local, Subject("account", "nobody"), None, None, silent)
    assert (done.posts, done.withdrawn, done.models) == (0, {}, ())
    assert store.list_files(first) == before
    second = grown.ingest(
        posts=grown.export([*posts(9, 3), row("n", 9.0, "1.png", account="NoBody")]), previous=first
    )
    assert "NoBody" not in accounts_of(second)


def test_a_clean_up_and_a_copy_know_withdrawn_outputs(local: str, tmp_path: Path) -> None:
    grown = Grown(local, tmp_path)
    outputs = grow(grown)
    forget(local, ACCOUNT, None, None, silent)
    assert Inventory(local, 0.0, 0.0).foreign() == []
    found = survey_garbage(local, [], 0.0)
    gone = {garbage.uri for garbage in found.garbage}
    new = str(withdrawn.successor_of(outputs["newest"]))
    # The newest version stays, and what it was made from; notes do not make old ones newest.
    assert new not in gone
    target = str(tmp_path / "copy")
    copying.copy_store(local, target, silent)
    assert check_store(target, silent).faults == []
    assert accounts_of(new.replace(local, target)) == {"al", "bo"}
    other = Grown(target, tmp_path / "later")
    again = other.ingest(posts=other.export(posts(0, 9)))
    assert accounts_of(again) == {"al", "bo"}, "tombstones go with a copy"


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


@pytest.mark.parametrize("options", [[], ["--account", "a", "--id", "b"], ["--account", " @ "]])
def test_a_command_that_names_not_one_thing_is_refused(
    local: str, tmp_path: Path, options: list[str]
) -> None:
    Grown(local, tmp_path)
    result = CliRunner().invoke(app, ["forget", *options, "--store", local])
    assert isinstance(result.exception, InputError)


@given(name=st.text(min_size=1), pad=st.sampled_from(["", " ", "\t", "\n "]))
def test_all_spellings_of_a_name_are_one_and_a_tombstone_does_not_say_it(
    name: str, pad: str
) -> None:
    once = forgotten.normalized("account", name)
    assert forgotten.normalized("account", f"{pad}{name}{pad}") == once
    assert forgotten.normalized("account", once) == once or once.startswith("@")
    if once:
        subject = Subject("account", name)
        assert subject.matches(None, f"{pad}{name}{pad}")
        assert forgotten.hash_of("s", "account", name) != forgotten.hash_of("t", "account", name)
    assert forgotten.normalized("id", "AbC") != forgotten.normalized("id", "abc")
