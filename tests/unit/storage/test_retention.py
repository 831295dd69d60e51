"""What may go from a store, and what must stay: promoted models with their ancestors, the newest,
and all that a live run needs."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from boig_core.config import load_recipe
from boig_core.errors import CorruptError, InputError, NotFoundInStoreError
from boig_core.storage import commit, manifest, retention, store
from boig_core.storage.job import Job, Stage, write_job
from boig_core.storage.runs import DECISION
from boig_core.storage.stage import Workspace

DAY = 86_400.0


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is forty days later: everything that a test writes is old."""
    now = time.time
    monkeypatch.setattr(retention.time, "time", lambda: now() + 40 * DAY)


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


def age(folder: str) -> None:
    for path in Path(folder).rglob("*"):
        os.utime(path, (path.stat().st_mtime - 40 * DAY,) * 2)


def paths(root: str) -> set[str]:
    return {path for path, _ in store.list_files(root)}


@pytest.mark.usefixtures("later")
def test_what_promoted_models_were_made_from_stays_and_the_rest_goes(
    root: str, tmp_path: Path
) -> None:
    created = {}
    for run in ("first", "second", "third"):
        shards = ("common", f"of-{run}")
        data = make(
            root,
            tmp_path,
            Stage.INGEST,
            "datasets/acme",
            run,
            {"posts": "https://x.y/posts.jsonl"},
            shards,
        )
        model = make(root, tmp_path, Stage.DDPO, "models/boigsd", run, {"dataset": data})
        created[run] = (data, model)
    for file in (f"asked/{DECISION}", "asked/recipe.json", "failed/recipe.json"):
        store.write_bytes(store.join(root, "runs", "boig_promote", file), b"{}")
    result = retention.find_garbage(root, [created["first"][1]], 30)
    before = paths(root)
    assert [each.uri for each in result if each.reason == "output"] == list(created["second"])
    assert all(
        each.files[0].endswith(f"/{manifest.MANIFEST}")
        for each in result
        if each.reason == "output"
    )

    assert retention.clean(root, [created["first"][1]], 30) == result
    for run in ("first", "third"):  # the promoted one and the newest
        assert [manifest.verify(uri).kind for uri in created[run]] == ["x", "x"]
    gone = before - paths(root)
    checkpoints = {path for path in before if "/checkpoints/" in path}
    assert len(checkpoints) == 6
    second = {path for path in before if "second" in path}
    assert gone == second | checkpoints | {"runs/boig_promote/failed/recipe.json"}, (
        "a shard that others share stays, and who decided what"
    )
    assert "datasets/acme/blobs/of-second" in gone
    with pytest.raises(NotFoundInStoreError):
        manifest.read_manifest(created["second"][1])
    assert retention.find_garbage(root, [created["first"][1]], 30) == []
    assert retention.find_garbage(root, [], 30) != [], "once it is promoted no longer it may go"


def test_what_a_run_of_these_days_reads_or_makes_stays(tmp_path: Path) -> None:
    root = str(tmp_path / "store")
    old = [
        make(root, tmp_path, Stage.INGEST, "datasets/acme", run, {}, (run,))
        for run in ("a", "b", "c", "d")
    ]
    make(root, tmp_path, Stage.INGEST, "datasets/acme", "newest", {})
    store.write_bytes(store.join(root, "models", "boigsd", "died-halfway", "unet.bin"), b"half")
    store.write_bytes(store.join(root, "datasets", "acme", "staging", "key.parquet"), b"index")
    store.write_bytes(store.join(root, "rewards", "cache.parquet"), b"scores")
    age(root)
    task = store.join(root, "runs", "dag", "live", "finetune_llm")
    job = Job(
        stage=Stage.FINETUNE_LLM,
        recipe=load_recipe("tiny"),
        inputs={"dataset": old[1]},
        store=root,
        root="r",
        task=task,
        attempt=1,
    )
    write_job(job)

    def reasons() -> dict[str, str]:
        return {
            each.uri.removeprefix(f"{root}/"): each.reason
            for each in retention.find_garbage(root, [], 30)
        }

    result = reasons()
    assert {uri for uri, reason in result.items() if reason == "output"} == {
        *(store.join("datasets/acme", store.name(uri)) for uri in (old[0], old[2], old[3])),
        "models/boigsd/died-halfway",
    }
    assert result["datasets/acme/staging"] == "staging index"
    assert list(result).index("datasets/acme/staging") < list(result).index(
        "datasets/acme/blobs"
    ), "an index without its shards would lie"
    assert not any("live" in uri or "rewards" in uri for uri in result)
    assert [uri for uri in result if uri.startswith("runs/dag/b/")] == [
        "runs/dag/b/ingest/attempt-1/checkpoints"
    ]

    ingest = store.join(root, "runs", "dag", "under-way", "ingest")
    write_job(
        Job(
            stage=Stage.INGEST,
            recipe=job.recipe,
            inputs={},
            store=root,
            root="r",
            task=ingest,
            attempt=1,
        )
    )
    assert not {"datasets/acme/blobs", "datasets/acme/staging"} & set(reasons()), (
        "an ingestion under way may count on an old shard"
    )


def test_what_cannot_be_known_is_never_removed(tmp_path: Path) -> None:
    root = str(tmp_path / "store")
    make(root, tmp_path, Stage.INGEST, "datasets/acme", "a", {})
    broken = make(root, tmp_path, Stage.INGEST, "datasets/acme", "b", {})
    age(root)
    with pytest.raises(InputError, match="is promoted and not in the store"):
        retention.clean(root, ["s3://elsewhere/models/boigsd/v"], 30)
    store.write_bytes(store.join(broken, manifest.MANIFEST), b"{")
    before = paths(root)
    with pytest.raises(CorruptError, match="is not a manifest"):
        retention.clean(root, [], 30)
    assert paths(root) == before


def test_a_run_that_began_between_two_looks_keeps_what_it_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = str(tmp_path / "store")
    old = make(root, tmp_path, Stage.INGEST, "datasets/acme", "a", {})
    make(root, tmp_path, Stage.INGEST, "datasets/acme", "b", {})
    age(root)
    look = retention.find_garbage
    looks = 0

    def look_and_begin(*values: object) -> list[retention.Garbage]:
        nonlocal looks
        looks += 1
        if looks == 2:
            task = store.join(root, "runs", "dag", "new", "ddpo")
            write_job(
                Job(
                    stage=Stage.DDPO,
                    recipe=load_recipe("tiny"),
                    inputs={"dataset": old},
                    store=root,
                    root="r",
                    task=task,
                    attempt=1,
                )
            )
        return look(*values)  # type: ignore[arg-type]

    monkeypatch.setattr(retention, "find_garbage", look_and_begin)
    removed = retention.clean(root, [], 30)
    assert old not in [each.uri for each in removed]
    assert manifest.verify(old)
