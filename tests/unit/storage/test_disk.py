"""What a disk refuses ends in one clear line, and what was published stays after a power loss."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from boig_core import cli
from boig_core.errors import InfrastructureError, InputError, StorePermissionError
from boig_core.storage import commit, manifest, s3, stage, store
from boig_core.storage.job import write_job
from tests.unit.storage.test_job import make_job

FULL = [errno.ENOSPC, errno.EDQUOT]


def refuse(number: int) -> Callable[..., Any]:
    def act(*args: object, **kwargs: object) -> Any:
        raise OSError(number, os.strerror(number))

    return act


@pytest.mark.parametrize("number", FULL)
@pytest.mark.parametrize("act", ["write", "create", "upload", "download"])
def test_a_full_disk_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, act: str
) -> None:
    source, target = tmp_path / "source", tmp_path / "out" / "target"
    source.write_bytes(b"x")
    monkeypatch.setattr(shutil, "copyfile", refuse(number))
    monkeypatch.setattr(os, "fsync", refuse(number))
    acts: dict[str, Callable[[], object]] = {
        "write": lambda: store.write_bytes(str(target), b"x"),
        "create": lambda: store.put_if_absent(str(target), b"x"),
        "upload": lambda: store.upload_file(source, str(target)),
        "download": lambda: store.download_file(str(source), target),
    }
    if act != "download":  # as a new folder is synced, which is not what is asked here
        target.parent.mkdir()
    with pytest.raises(InfrastructureError, match="the disk is full; free room there") as caught:
        acts[act]()
    assert caught.value.value == str(target), "the disk that is full, not the file that was read"
    assert list(target.parent.iterdir()) == [], "nothing half-written stays"


@pytest.mark.parametrize("number", FULL)
def test_a_full_scratch_disk_is_told_where_s3_is_read(
    s3_bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    store.write_bytes(f"{s3_bucket}/big", b"x")
    monkeypatch.setattr(s3.client(), "download_file", refuse(number))
    with pytest.raises(InfrastructureError, match="the disk is full") as caught:
        store.download_file(f"{s3_bucket}/big", tmp_path / "big")
    assert caught.value.value == str(tmp_path / "big")


@pytest.mark.parametrize(
    "exc",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        RuntimeError("torch: could not write: No space left on device"),
        ValueError("duckdb: IO Error: Disk quota exceeded"),
    ],
)
def test_a_stage_that_fills_its_scratch_disk_says_so(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    exc: Exception,
) -> None:
    job = make_job(str(tmp_path))

    def work(space: stage.Workspace) -> stage.Outcome:
        raise RuntimeError("a worker failed") from exc

    assert stage.run_stage(work, [write_job(job)]) == 1
    failure = commit.read_failure(job.attempt_uri)
    assert failure is not None
    assert "the disk is full" in failure.message
    assert "TMPDIR" in failure.remedy
    assert not failure.user

    def app() -> None:
        raise exc

    monkeypatch.setattr(cli, "app", app)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()[-1:]
    assert line.startswith("boig: a disk of this machine: the disk is full; free room there")


@pytest.mark.parametrize(
    "number", [errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EXDEV, errno.EMLINK]
)
def test_a_file_system_without_hard_links_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(os, "link", refuse(number))
    with pytest.raises(InputError, match=r"no hard links.*ext4.*or on S3"):
        store.probe(str(tmp_path / "store"))
    assert store.list_files(str(tmp_path)) == []


def test_a_folder_that_may_not_be_written_is_no_file_system_without_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "link", refuse(errno.EACCES))
    with pytest.raises(StorePermissionError):
        store.put_if_absent(str(tmp_path / "x"), b"x")


@pytest.mark.parametrize("path", ["x" * 300, "a\0b", "\ud800"])
def test_what_is_no_path_is_an_input_error(tmp_path: Path, path: str) -> None:
    for act in (
        store.read_bytes,
        lambda uri: store.write_bytes(uri, b""),
        lambda uri: store.download_file(uri, tmp_path / "y"),
    ):
        with pytest.raises(InputError, match="is no path on this system"):
            act(str(tmp_path / path))


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """What is synced and what gets its name, in order, as (``sync`` or ``name``, path)."""
    seen: list[tuple[str, str]] = []
    sync, replace, link = os.fsync, os.replace, os.link

    def note_sync(descriptor: int) -> None:
        seen.append(("sync", os.readlink(f"/proc/self/fd/{descriptor}")))
        sync(descriptor)

    def note(act: Callable[..., None]) -> Callable[..., None]:
        def named(source: Any, target: Any) -> None:
            # What is synced under its first name counts for the one that it gets.
            seen[:] = [(what, str(target) if at == str(source) else at) for what, at in seen]
            act(source, target)
            seen.append(("name", str(target)))

        return named

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(os, "replace", note(replace))
    monkeypatch.setattr(os, "link", note(link))
    return seen


def test_all_is_synced_before_a_manifest_names_it(
    tmp_path: Path, steps: list[tuple[str, str]]
) -> None:
    local, root = tmp_path / "local", tmp_path / "store"
    for path in ("a.bin", "b.bin", "deep/c.bin", "deep/d.bin"):
        (local / path).parent.mkdir(parents=True, exist_ok=True)
        (local / path).write_bytes(b"x")
    lineage = manifest.Lineage(inputs={}, recipe="", code="")
    uri, commit_uri = str(root / "models" / "m" / "v1"), str(root / "runs" / "commit.json")
    manifest.publish_folder(local, uri, kind="k", lineage=lineage, commit=commit_uri)
    named = [index for index, step in enumerate(steps) if step[0] == "name"]
    *files, last = (steps[index][1] for index in named)
    assert last == f"{uri}/manifest.json"
    assert files == [f"{uri}/{path}" for path in ("a.bin", "b.bin", "deep/c.bin", "deep/d.bin")]
    for index in named:
        assert ("sync", steps[index][1]) in steps[:index], "a file before it has its name"
    published = steps[: named[-1]]
    for folder, times in ((uri, 2), (f"{uri}/deep", 1)):  # one time more for the new folder in it
        at = max(
            published.index(("name", file)) for file in files if str(Path(file).parent) == folder
        )
        assert published[at:].count(("sync", folder)) == times, (
            "after all its names, not after each"
        )
    for made in (root.parent, root, root / "models", root / "models" / "m"):
        assert ("sync", str(made)) in published, "new folders stay, too"
    assert steps[-1] == ("sync", uri), "and the manifest's own name"


@pytest.mark.parametrize("act", [store.write_bytes, store.put_if_absent])
def test_a_small_file_stays_once_it_is_written(
    tmp_path: Path, steps: list[tuple[str, str]], act: Callable[[str, bytes], object]
) -> None:
    uri = str(tmp_path / "x.json")
    act(uri, b"x")
    assert steps == [("sync", uri), ("name", uri), ("sync", str(tmp_path))]


def test_a_file_system_that_syncs_no_folders_serves_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync = os.fsync

    def no_folders(descriptor: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.EINVAL, "Invalid argument")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", no_folders)
    store.write_bytes(str(tmp_path / "deep" / "x"), b"x")
    assert store.read_bytes(str(tmp_path / "deep" / "x")) == b"x"


def test_a_part_of_a_store_may_lie_on_a_disk_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.write_bytes(str(tmp_path / "a"), b"x")
    monkeypatch.setattr(os, "rename", refuse(errno.EXDEV))
    assert store.move_file(str(tmp_path / "a"), str(tmp_path / "t" / "a"), before=2e12)
    assert store.list_files(str(tmp_path)) == [("t/a", 1)]
