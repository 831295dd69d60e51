"""A store that was moved is the same store, and what its files say leads nowhere else."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from boig_core.errors import CorruptError
from boig_core.storage import commit, job, manifest, store
from boig_core.storage import stage as stages
from boig_core.storage.job import Stage
from tests.unit.storage.small_store import build, job_of, stage_of


@pytest.fixture
def moved(tmp_path: Path) -> tuple[str, str]:
    """Root of a store that is gone, and the root where it lies now."""
    before, now = str(tmp_path / "before"), str(tmp_path / "now" / "here")
    build(before, tmp_path)
    shutil.move(before, now)
    return before, now


def test_all_of_a_moved_store_is_read_where_it_lies(moved: tuple[str, str], tmp_path: Path) -> None:
    before, now = moved
    for path, _ in store.list_files(now):
        content = store.read_bytes(store.join(now, path))
        assert before.encode() not in content, path
    model = next(
        store.join(now, "models/boigsd", path.split("/")[0])
        for path, _ in store.list_files(store.join(now, "models/boigsd"))
        if "dead" not in path
    )
    assert manifest.verify(model).commit.startswith(f"{now}/runs/dag/run/ddpo/attempt-1/")
    attempt = f"{now}/runs/dag/run/ddpo/attempt-1"
    body = commit.read_commit(attempt)
    assert body is not None
    assert body["outputs"] == {"x": model}
    told = job.read_job(f"{attempt}/job.json")
    assert told.store == now
    assert told.task == f"{now}/runs/dag/run/ddpo"
    assert manifest.verify(told.input("dataset"))

    # Trained on: a job of today reads it, and its lineage is that of the store before.
    made = stage_of(now, tmp_path, Stage.EVALUATE_SD, "evaluations/generation", model=model)
    assert manifest.read_manifest(made).lineage.inputs == {
        "model": manifest.read_manifest(model).digest()
    }


def test_a_stage_in_a_moved_store_writes_there(moved: tuple[str, str], tmp_path: Path) -> None:
    _, now = moved
    uri = job.write_job(job_of(now, Stage.PERCEIVE, posts="https://x.y/p"))
    later = str(tmp_path / "later")
    shutil.move(now, later)

    def work(space: stages.Workspace) -> stages.Outcome:
        (space.scratch / "x").mkdir()
        return stages.Outcome({"x": space.publish("datasets/d", space.scratch / "x", kind="d")})

    assert stages.run_stage(work, [uri.replace(now, later)]) == 0
    assert not Path(now).exists()
    body = commit.read_commit(uri.replace(now, later).rsplit("/", 1)[0])
    assert body is not None
    assert body["outputs"]["x"].startswith(f"{later}/datasets/d/")


def test_a_folder_that_was_taken_out_of_its_store_says_so(tmp_path: Path) -> None:
    model = build(str(tmp_path / "store"), tmp_path)[1]
    shutil.copytree(model, tmp_path / "alone")
    with pytest.raises(CorruptError, match=r"taken out of its store.*models/boigsd/.*store copy"):
        manifest.read_manifest(str(tmp_path / "alone"))


def test_the_digest_is_that_of_schema_1() -> None:
    """By it, lineage and promotions of every store that exists name outputs."""
    entry = manifest.FileEntry(path="weights.bin", size=10, sha256="a" * 64)
    lineage = manifest.Lineage(inputs={"dataset": "d" * 64}, recipe="r" * 64, code="0.1.0")
    fields: dict[str, Any] = {"kind": "sd", "files": (entry,), "lineage": lineage, "meta": {"n": 1}}
    one = manifest.Manifest(**fields, place="models/boigsd/v", commit="/s/runs/a/commit.json")
    other = manifest.Manifest(**fields, place="models/boigsd/w", commit="/t/runs/b/commit.json")
    assert one.digest() == other.digest() == DIGEST


DIGEST = "456685d9fcc607c68456744a609902c896ba4566beea4bc34cef4334ac2de55d"


def rewrite(uri: str, **changes: Any) -> None:
    tree = {**json.loads(store.read_bytes(uri)), **changes}
    kept = {key: value for key, value in tree.items() if value is not ...}
    store.write_bytes(uri, json.dumps(kept).encode())


def reads(root: str, model: str) -> dict[str, Any]:
    """The three files by which a store is read, and their readers."""
    attempt = f"{root}/runs/dag/run/ddpo/attempt-1"
    return {
        f"{model}/manifest.json": lambda: manifest.read_manifest(model),
        f"{attempt}/commit.json": lambda: commit.read_commit(attempt),
        f"{attempt}/job.json": lambda: job.read_job(f"{attempt}/job.json"),
    }


@pytest.mark.parametrize("which", range(3))
def test_schema_1_and_later_ones_are_refused_with_what_to_do(tmp_path: Path, which: int) -> None:
    root = str(tmp_path / "store")
    uri, read = list(reads(root, build(root, tmp_path)[1]).items())[which]
    rewrite(uri, schema_version=1)
    with pytest.raises(CorruptError, match=r"of schema 1; run `boig store migrate`"):
        read()
    rewrite(uri, schema_version=...)
    with pytest.raises(CorruptError, match="of schema 1"):
        read()
    rewrite(uri, schema_version=3)
    with pytest.raises(CorruptError, match="of schema 3, not 2"):
        read()


FILE = {"size": 1, "sha256": "0" * 64}
LEADS_OUT: list[tuple[int, dict[str, Any]]] = [
    *((0, {"commit": at}) for at in ("/etc/commit.json", "../x/commit.json", "s3://b/commit.json")),
    *((0, {"place": at}) for at in ("/models/v", "../models/v", "models", "models\\v", "")),
    *(
        (0, {"files": [{**FILE, "path": path}]})
        for path in ("/etc/passwd", "a/../../b", "a\\b", "../../../../x", "./a", "a//b", "")
    ),
    *((1, {"outputs": {"x": at}}) for at in ("/models/v", "../models/v", "s3://b/models/v", "")),
    *((1, {"place": at}) for at in ("/runs", "../runs", "runs/dag", None, 3)),
    *((2, {"task": at}) for at in ("/runs/dag/run/ddpo", "../runs", "runs/dag/run/other", "")),
    *((2, {"inputs": {"dataset": at}}) for at in ("../x", "a/../b", "a\\b", "")),
    *((2, {"store": at}) for at in ("/elsewhere", "")),
    (2, {"attempt": 2}),
]


@pytest.mark.parametrize(("which", "changes"), LEADS_OUT)
def test_what_leads_out_of_the_store_is_refused(
    tmp_path: Path, which: int, changes: dict[str, Any]
) -> None:
    root = str(tmp_path / "store")
    uri, read = list(reads(root, build(root, tmp_path)[1]).items())[which]
    rewrite(uri, **changes)
    with pytest.raises(CorruptError):
        read()


ODD = [
    b"", b"{", b"[]", b"null", b'"x"', b"3", b"\xff\xfe", b"[" * 100_000, b'{"schema_version": 2}',
    b'{"schema_version": NaN}', b'{"schema_version": 1e999}',
]  # fmt: skip


@pytest.mark.parametrize("content", ODD)
@pytest.mark.parametrize("which", range(3))
def test_odd_json_is_one_clear_error(tmp_path: Path, which: int, content: bytes) -> None:
    root = str(tmp_path / "store")
    uri, read = list(reads(root, build(root, tmp_path)[1]).items())[which]
    store.write_bytes(uri, content)
    with pytest.raises(CorruptError, match=r"manifest\.json|commit\.json|job\.json"):
        read()


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"type": 1}'])
def test_an_odd_error_file_is_one_clear_error(tmp_path: Path, content: bytes) -> None:
    store.write_bytes(str(tmp_path / "error.json"), content)
    with pytest.raises(CorruptError, match="is not a failure"):
        commit.read_failure(str(tmp_path))
