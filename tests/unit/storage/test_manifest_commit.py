"""Outputs exist by their manifest, become true by their commit, and tell when they are torn."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from pydantic import ValidationError

from boig_core.errors import (
    CorruptError,
    FencedError,
    InputError,
    NotFoundInStoreError,
    RecipeError,
)
from boig_core.storage import commit, manifest, store

LINEAGE = manifest.Lineage(inputs={"dataset": "d" * 64}, recipe="r" * 64, code="0.1.0")


def publish(
    root: str, tmp_path: Path, attempt: int = 1, blobs: tuple[manifest.FileEntry, ...] = ()
) -> tuple[str, str]:
    """An output and its attempt, not committed yet."""
    local = tmp_path / "model"
    (local / "sub").mkdir(parents=True, exist_ok=True)
    (local / "weights.bin").write_bytes(b"0123456789")
    (local / "sub" / "config.json").write_text("{}")
    task = store.join(root, "runs", "dag", "run", "task")
    uri = store.join(root, "models", "m", f"v{attempt}")
    attempt_uri = commit.attempt_uri(task, attempt)
    manifest.publish_folder(
        local,
        uri,
        kind="boigllm",
        lineage=LINEAGE,
        commit=store.join(attempt_uri, commit.COMMIT),
        meta={"n": 1},
        blobs=blobs,
    )
    return uri, attempt_uri


def test_committed_output_can_be_fetched(root: str, tmp_path: Path) -> None:
    uri, attempt = publish(root, tmp_path)
    body = commit.commit(
        attempt, {"model": uri}, {"loss": 1.5, "kid": float("nan"), "curve": [1.0, float("inf")]}
    )
    assert commit.read_commit(attempt) == body
    assert body["metrics"] == {"loss": 1.5, "kid": None, "curve": [1.0, None]}
    result = manifest.fetch_folder(uri, tmp_path / "back", kind="boigllm")
    assert result.meta == {"n": 1}
    assert result.lineage == LINEAGE
    assert [(f.path, f.size) for f in result.files] == [("sub/config.json", 2), ("weights.bin", 10)]
    assert (tmp_path / "back" / "weights.bin").read_bytes() == b"0123456789"
    assert manifest.verify(uri) == result


def test_one_file_of_an_output(root: str, tmp_path: Path) -> None:
    uri, attempt = publish(root, tmp_path)
    commit.commit(attempt, {"model": uri}, {})
    assert manifest.find_file(uri, "sub/config.json") == store.join(uri, "sub", "config.json")
    assert manifest.find_file(uri, "card.html") is None
    assert manifest.read_file(uri, "weights.bin", kind="boigllm") == b"0123456789"
    with pytest.raises(InputError, match=r"has no card\.html"):
        manifest.read_file(uri, "card.html")
    store.write_bytes(store.join(uri, "weights.bin"), b"0123456780")
    with pytest.raises(CorruptError, match="differs from its manifest"):
        manifest.read_file(uri, "weights.bin")


def test_uncommitted_fenced_missing_and_wrong_outputs_are_refused(
    root: str, tmp_path: Path
) -> None:
    uri, attempt = publish(root, tmp_path)
    with pytest.raises(CorruptError, match="has not committed"):
        manifest.read_manifest(uri)
    assert commit.fence(attempt) is None
    with pytest.raises(CorruptError, match="was fenced"):
        manifest.read_manifest(uri)
    with pytest.raises(NotFoundInStoreError):
        manifest.read_manifest(store.join(root, "models", "m", "v9"))
    second, attempt = publish(root, tmp_path, attempt=2)
    commit.commit(attempt, {"model": second}, {})
    with pytest.raises(CorruptError, match="is a boigllm, not a sd"):
        manifest.read_manifest(second, kind="sd")
    third, attempt = publish(root, tmp_path, attempt=3)
    commit.commit(attempt, {"model": second}, {})
    with pytest.raises(CorruptError, match="committed other outputs"):
        manifest.read_manifest(third)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"schema_version": 2}', b"\xff"])
def test_torn_manifest(root: str, tmp_path: Path, content: bytes) -> None:
    uri, attempt = publish(root, tmp_path)
    commit.commit(attempt, {"model": uri}, {})
    store.write_bytes(store.join(uri, manifest.MANIFEST), content)
    with pytest.raises(CorruptError, match="is not a manifest"):
        manifest.read_manifest(uri)


@pytest.mark.parametrize(
    ("content", "by_size"), [(b"01234", True), (b"9876543210", False), (None, True)]
)
def test_torn_file(root: str, tmp_path: Path, content: bytes | None, by_size: bool) -> None:
    uri, attempt = publish(root, tmp_path)
    commit.commit(attempt, {"model": uri}, {})
    target = store.join(uri, "weights.bin")
    if content is None:
        store.delete_file(target)
    else:
        store.write_bytes(target, content)
    with pytest.raises(CorruptError, match=r"weights\.bin"):
        manifest.fetch_folder(uri, tmp_path / "back")
    assert not (tmp_path / "back" / "weights.bin").exists()
    if by_size:
        with pytest.raises(CorruptError, match="must have 10 bytes"):
            manifest.verify(uri)


def test_blobs_beside_versions(root: str, tmp_path: Path) -> None:
    blob = store.join(root, "models", "m", "blobs", "images.parquet")
    store.write_bytes(blob, b"pixels")
    (tmp_path / "blob").write_bytes(b"pixels")
    entry = manifest.FileEntry(
        path="../blobs/images.parquet", size=6, sha256=manifest.sha256_file(tmp_path / "blob")
    )
    uri, attempt = publish(root, tmp_path, blobs=(entry,))
    commit.commit(attempt, {"model": uri}, {})
    assert manifest.resolve(uri, entry.path) == blob
    manifest.verify(uri)
    manifest.fetch_folder(uri, tmp_path / "back")
    assert not (tmp_path / "back" / "blobs").exists()
    manifest.fetch_file(uri, entry, tmp_path / "one")
    assert (tmp_path / "one").read_bytes() == b"pixels"
    store.delete_file(blob)
    with pytest.raises(CorruptError, match="has none"):
        manifest.verify(uri)


@pytest.mark.parametrize("path", ["/etc/passwd", "a/../../b", "..", "../", ""])
def test_manifest_paths_stay_inside(path: str) -> None:
    with pytest.raises(ValidationError, match="must be relative"):
        manifest.FileEntry(path=path, size=0, sha256="0" * 64)


def test_own_manifest_in_the_folder_is_refused(root: str, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(InputError, match="own manifest"):
        manifest.publish_folder(
            tmp_path, store.join(root, "x"), kind="k", lineage=LINEAGE, commit="c"
        )
    assert store.list_files(root) == []


def test_what_a_training_went_on_from_is_kept_beside_what_it_is(root: str, tmp_path: Path) -> None:
    """Equal weights have equal digests, and an output that is no training's says nothing."""
    uri, attempt = publish(root, tmp_path)
    commit.commit(attempt, {"model": uri}, {})
    plain = manifest.read_manifest(uri)
    assert plain.went_on_from is None
    assert b"went_on_from" not in store.read_bytes(store.join(uri, manifest.MANIFEST))
    hop = manifest.WentOnFrom(
        checkpoint="runs/dag/run/task/attempt-1/checkpoints/step-000100",
        step=100,
        recipe="r" * 64,
        code="0.1.0",
        asked_by=("ada",),
    )
    for hops in ((), (hop,)):
        told = plain.model_copy(update={"went_on_from": hops})
        manifest.write_manifest(told, root)
        assert manifest.read_manifest(uri) == told
        assert told.digest() == plain.digest()


def test_digest_is_about_content(root: str, tmp_path: Path) -> None:
    digests = []
    for attempt in (1, 2):
        uri, attempt_uri = publish(root, tmp_path, attempt=attempt)
        commit.commit(attempt_uri, {"model": uri}, {})
        digests.append(manifest.read_manifest(uri).digest())
    assert digests[0] == digests[1], (
        "an attempt's number and place are not part of what an output is"
    )
    other = manifest.read_manifest(uri).model_copy(update={"meta": {"n": 2}})
    assert other.digest() != digests[0]


def test_fence_against_commit(root: str, tmp_path: Path) -> None:
    first, second = (commit.attempt_uri(store.join(root, "task"), n) for n in (1, 2))
    assert commit.fate(first) == "open"
    assert commit.fence(first) is None
    assert commit.fate(first) == "fenced"
    with pytest.raises(FencedError, match="newer attempt"):
        commit.commit(first, {}, {})
    assert commit.read_commit(first) is None
    body = commit.commit(second, {}, {"x": 1})
    assert commit.fence(second) == body
    assert commit.fate(second) == "committed"
    assert commit.attempts(store.join(root, "task")) == [1, 2]


def test_fence_and_commit_race_has_one_outcome(root: str) -> None:
    for n in range(10):
        attempt = commit.attempt_uri(store.join(root, "task"), n)
        start = threading.Barrier(2)

        def act(which: str, attempt: str = attempt, start: threading.Barrier = start) -> bool:
            start.wait()
            if which == "fence":
                return commit.fence(attempt) is None
            try:
                commit.commit(attempt, {}, {})
            except FencedError:
                return False
            return True

        with ThreadPoolExecutor(2) as pool:
            fenced, committed = pool.map(act, ["fence", "commit"])
        assert fenced != committed
        assert commit.fate(attempt) == ("fenced" if fenced else "committed")


def test_failures_say_whose_fault(root: str) -> None:
    attempt = store.join(root, "task", "attempt-1")
    assert commit.read_failure(attempt) is None
    commit.write_failure(attempt, RecipeError("seed = -1", "must be at least 0", "see the recipe"))
    assert commit.read_failure(attempt) == commit.Failure(
        "RecipeError", "seed = -1: must be at least 0", "see the recipe", True
    )
    assert commit.fate(attempt) == "failed"
    commit.write_failure(attempt, KeyError("x"))
    failure = commit.read_failure(attempt)
    assert failure is not None
    assert not failure.user
    assert json.loads(store.read_bytes(store.join(attempt, "error.json")))["type"] == "KeyError"
