"""What may go from a store, and what must stay: promoted models with their ancestors, the newest,
and all that a live run needs."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from boig_core.config import load_recipe
from boig_core.errors import CorruptError, InputError, NotFoundInStoreError
from boig_core.storage import commit, manifest, marker, retention, runs, store, trash
from boig_core.storage.job import Job, Stage, write_job
from boig_core.storage.runs import DECISION
from boig_core.storage.stage import Workspace

DAY = 86_400.0


class Aging:
    """Makes files of a store old, on a disk and on S3 alike, where no file can be written with a
    time of its own."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self._old: dict[str, float] = {}
        walk, modified = store.walk, store.modified

        def aged_walk(uri: str) -> Iterator[store.File]:
            for file in walk(uri):
                older = self._old.get(store.join(uri, file.path), 0.0)
                yield file._replace(modified=file.modified - older)

        patch.setattr(store, "walk", aged_walk)
        patch.setattr(store, "modified", lambda uri: modified(uri) - self._old.get(uri, 0.0))

    def age(self, uri: str, days: float) -> None:
        """A file becomes older."""
        self._old[uri] = self._old.get(uri, 0.0) + days * DAY

    def pass_(self, root: str) -> None:
        """All that is in a store becomes forty days older; a run of today shows that time has
        passed."""
        for path in paths(root):
            self.age(store.join(root, path), 40)
        marker.ensure(root)
        store.write_bytes(
            store.join(root, "runs", "boig_sd", uuid.uuid4().hex, "recipe.json"), b"{}"
        )


@pytest.fixture
def time_(monkeypatch: pytest.MonkeyPatch) -> Aging:
    return Aging(monkeypatch)


def make(
    root: str,
    tmp: Path,
    stage: Stage,
    family: str,
    run: str,
    inputs: dict[str, str],
    shards: tuple[str, ...] = (),
) -> str:
    """One committed stage: its job, a checkpoint, an output of one file (and shards), and its
    commit."""
    task = store.join(root, "runs", "dag", run, stage.value)
    job = Job(
        stage=stage,
        recipe=load_recipe("tiny"),
        inputs=inputs,
        store=root,
        root=f"dag/{run}",
        task=task,
        attempt=1,
    )
    write_job(job)
    store.write_bytes(store.join(root, "runs", "dag", run, "recipe.json"), b"{}")
    store.write_bytes(store.join(job.attempt_uri, "checkpoints", "step-1", "model.bin"), b"x" * 10)
    local = tmp / f"{run}-{stage.value}"
    local.mkdir()
    (local / "weights.bin").write_bytes(f"{run} {stage}".encode())
    blobs = []
    for name in shards:
        store.write_bytes(store.join(root, family, "blobs", name), name.encode())
        blobs.append(manifest.FileEntry(path=f"../blobs/{name}", size=len(name), sha256="0" * 64))
    uri = Workspace(job, tmp).publish(family, local, kind="x", blobs=tuple(blobs))
    commit.commit(job.attempt_uri, {"x": uri}, {})
    return uri


def paths(root: str) -> set[str]:
    return {path for path, _ in store.list_files(root)}


def uris(found: retention.Survey, reason: str) -> list[str]:
    return [each.uri for each in found.garbage if each.reason == reason]


def begin(root: str, run: str, stage: Stage, inputs: dict[str, str]) -> Job:
    """An attempt that has begun."""
    task = store.join(root, "runs", "dag", run, stage.value)
    this = Job(
        stage=stage,
        recipe=load_recipe("tiny", ["data.name=acme"]),
        inputs=inputs,
        store=root,
        root="r",
        task=task,
        attempt=1,
    )
    write_job(this)
    return this


def test_what_promoted_models_were_made_from_stays_and_the_rest_goes_to_the_trash(
    root: str, tmp_path: Path, time_: Aging
) -> None:
    created = {}
    for run in ("first", "second", "third"):
        shards = ("common", f"of-{run}")
        posts = {"posts": "https://x.y/posts.jsonl"}
        data = make(root, tmp_path, Stage.INGEST, "datasets/acme", run, posts, shards)
        inputs = {"dataset": data}
        created[run] = (data, make(root, tmp_path, Stage.DDPO, "models/boigsd", run, inputs))
    for file in (f"asked/{DECISION}", "asked/recipe.json", "failed/recipe.json"):
        store.write_bytes(store.join(root, "runs", "boig_promote", file), b"{}")
    time_.pass_(root)
    promoted = [created["first"][1]]
    result = retention.survey(root, promoted, 30)
    before = paths(root)
    assert uris(result, "output") == list(created["second"])
    assert all(
        each.files[0].path.endswith(f"/{manifest.MANIFEST}")
        for each in result.garbage
        if each.reason == "output"
    )

    assert retention.clean(root, promoted, 30).garbage == result.garbage
    for run in ("first", "third"):  # the promoted one and the newest
        assert [manifest.verify(uri).kind for uri in created[run]] == ["x", "x"]
    left = {path for path in paths(root) if not path.startswith(".trash/")}
    gone = before - left
    checkpoints = {path for path in before if "/checkpoints/" in path}
    assert len(checkpoints) == 6
    second = {path for path in before if "second" in path}
    assert gone == second | checkpoints | {"runs/boig_promote/failed/recipe.json"}, (
        "a shard that others share stays, and who decided what"
    )
    assert "datasets/acme/blobs/of-second" in gone
    with pytest.raises(NotFoundInStoreError):
        manifest.read_manifest(created["second"][1])

    again = retention.survey(root, promoted, 30)
    assert again.garbage == ()
    assert {entry.was for entry in again.waiting} == gone, "under its old path"
    assert (again.expired, again.foreign) == ((), ())
    assert retention.survey(root, [], 30).garbage, "once it is promoted no longer it may go"
    assert not any("second" in run for run in runs.newest_runs(root)), "trash is no run"


def test_the_trash_is_emptied_after_its_days_of_grace(
    root: str, tmp_path: Path, time_: Aging, monkeypatch: pytest.MonkeyPatch
) -> None:
    for run in ("old", "newest"):
        make(root, tmp_path, Stage.INGEST, "datasets/acme", run, {})
    kept = ".trash/a-person-s.txt"
    store.write_bytes(store.join(root, kept), b"mine")
    time_.pass_(root)
    retention.clean(root, [], 30)
    waiting = retention.clean(root, [], 30).waiting
    assert waiting
    assert retention.survey(root, [], 30).waiting == waiting, "a second clean-up removes none of it"

    file = waiting[0].file
    stored = store.join(root, file.path)
    assert len(store.read_bytes(stored)) == file.size, "until then it can be put back"
    monkeypatch.setattr(trash, "GRACE_DAYS", -1.0)
    assert retention.clean(root, [], 30).expired == waiting
    assert [path for path in paths(root) if path.startswith(".trash/")] == [kept]


def test_what_a_run_of_these_days_reads_or_makes_stays(
    root: str, tmp_path: Path, time_: Aging
) -> None:
    old = [
        make(root, tmp_path, Stage.INGEST, "datasets/acme", run, {}, (run,))
        for run in ("a", "b", "c", "d")
    ]
    make(root, tmp_path, Stage.INGEST, "datasets/acme", "newest", {})
    died = begin(root, "died", Stage.DDPO, {}).output("models/boigsd")
    store.write_bytes(store.join(died, "unet.bin"), b"half")
    index = f"datasets/acme/staging/{'0' * 32}.parquet"
    store.write_bytes(store.join(root, index), b"index")
    store.write_bytes(store.join(root, "rewards", "key", "cache.parquet"), b"scores")
    time_.pass_(root)
    begin(root, "live", Stage.FINETUNE_LLM, {"dataset": old[1]})

    def reasons() -> dict[str, str]:
        found = retention.survey(root, [], 30)
        assert found.foreign == ()
        return {each.uri.removeprefix(f"{root}/"): each.reason for each in found.garbage}

    result = reasons()
    assert {uri for uri, reason in result.items() if reason == "output"} == {
        *(store.join("datasets/acme", store.name(uri)) for uri in (old[0], old[2], old[3])),
        died.removeprefix(f"{root}/"),
    }
    assert result["datasets/acme/staging"] == "staging index"
    assert list(result).index("datasets/acme/staging") < list(result).index(
        "datasets/acme/blobs"
    ), "an index without its shards would lie"
    assert not any("live" in uri or "rewards" in uri for uri in result)
    assert [uri for uri in result if uri.startswith("runs/dag/b/")] == [
        "runs/dag/b/ingest/attempt-1/checkpoints"
    ]

    begin(root, "under-way", Stage.INGEST, {})
    assert not {"datasets/acme/blobs", "datasets/acme/staging"} & set(reasons()), (
        "an ingestion under way may count on an old shard"
    )


def test_what_cannot_be_known_is_never_removed(root: str, tmp_path: Path, time_: Aging) -> None:
    make(root, tmp_path, Stage.INGEST, "datasets/acme", "a", {})
    broken = make(root, tmp_path, Stage.INGEST, "datasets/acme", "b", {})
    time_.pass_(root)
    with pytest.raises(InputError, match="is promoted and not in the store"):
        retention.clean(root, ["s3://elsewhere/models/boigsd/v"], 30)
    store.write_bytes(store.join(broken, manifest.MANIFEST), b"{")
    before = paths(root)
    with pytest.raises(CorruptError, match="is not a manifest"):
        retention.clean(root, [], 30)
    assert paths(root) == before


def test_a_run_that_began_between_two_looks_keeps_what_it_reads(
    root: str, tmp_path: Path, time_: Aging, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = make(root, tmp_path, Stage.INGEST, "datasets/acme", "a", {})
    make(root, tmp_path, Stage.INGEST, "datasets/acme", "b", {})
    time_.pass_(root)
    look = retention.survey
    looks = 0

    def look_and_begin(*values: object) -> retention.Survey:
        nonlocal looks
        looks += 1
        if looks == 2:
            begin(root, "new", Stage.DDPO, {"dataset": old})
        return look(*values)  # type: ignore[arg-type]

    monkeypatch.setattr(retention, "survey", look_and_begin)
    removed = retention.clean(root, [], 30)
    assert old not in uris(removed, "output")
    assert manifest.verify(old)
