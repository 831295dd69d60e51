"""``boig store migrate``: a store of schema 1, in its place or moved, is afterwards one of schema 2
with the same content."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from boig_core.cli import app
from boig_core.errors import CorruptError, StoreUnavailableError
from boig_core.storage import commit, manifest, store
from boig_core.storage.check import check_store
from boig_core.storage.copying import copy_store
from boig_core.storage.job import read_job
from boig_core.storage.migration import migrate_store
from tests.unit.storage.small_store import as_schema_1, build, digest_of_schema_1

pytestmark = pytest.mark.slow  # of the whole suite, not of its quick part


def silent(line: str) -> None:
    pass


def contents(root: str) -> dict[str, bytes]:
    return {path: store.read_bytes(store.join(root, path)) for path, _ in store.list_files(root)}


@pytest.mark.parametrize("moved", [False, True])
def test_a_store_of_schema_1_works_after_it(root: str, tmp_path: Path, moved: bool) -> None:
    outputs = build(root, tmp_path)
    whole = contents(root)
    as_schema_1(root, "s3://bucket-before/some/where" if moved else None)
    digests = [digest_of_schema_1(uri) for uri in outputs]
    for uri in outputs:
        with pytest.raises(CorruptError, match="run `boig store migrate`"):
            manifest.read_manifest(uri)
    done = migrate_store(root, silent)
    # four manifests, three commits and a fence, four jobs
    assert (done.rewritten, done.already, done.faults) == (11, 1, [])
    assert [manifest.verify(uri).digest() for uri in outputs] == digests
    assert {path: _tree(data) for path, data in contents(root).items()} == {
        path: _tree(data) for path, data in whole.items()
    }
    assert check_store(root, silent).faults == []
    again = migrate_store(root, silent)
    assert (again.rewritten, again.already, again.faults) == (0, 12, [])
    copy = str(tmp_path / "copy")
    copy_store(root, copy, silent)
    assert check_store(copy, silent).faults == []


def _tree(data: bytes) -> object:
    try:
        return json.loads(data)
    except ValueError:
        return data


@pytest.mark.parametrize("moved", [False, True])
def test_a_migration_that_was_cut_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moved: bool
) -> None:
    first = str(tmp_path / "first")
    build(first, tmp_path)
    as_schema_1(first, "/mnt/before" if moved else None)
    write = store.write_bytes
    for cut in range(11):
        root, left = str(tmp_path / f"store-{cut}"), [cut]
        shutil.copytree(first, root)
        # A store at its own root names that root.
        if not moved:
            for path, data in contents(first).items():
                write(f"{root}/{path}", data.replace(first.encode(), root.encode()))

        def cut_write(uri: str, data: bytes, left: list[int] = left) -> None:
            if left[0] == 0:
                raise StoreUnavailableError(uri, "is away", "try again")
            left[0] -= 1
            write(uri, data)

        with monkeypatch.context() as patch:
            patch.setattr(store, "write_bytes", cut_write)
            with pytest.raises(StoreUnavailableError):
                migrate_store(root, silent)
        done = migrate_store(root, silent)
        assert (done.rewritten, done.faults) == (11 - cut, [])
        assert check_store(root, silent).faults == []


def test_what_lies_elsewhere_stays_and_a_job_of_an_older_recipe_as_well(tmp_path: Path) -> None:
    root = str(tmp_path / "store")
    dataset, _, _ = build(root, tmp_path)
    as_schema_1(root)
    job = f"{root}/runs/dag/run/ingest/attempt-1/job.json"
    tree = json.loads(store.read_bytes(job))
    inputs = {"posts": "s3://exports/acme/*.jsonl", "previous": dataset, "notes": f"{root}-2/x"}
    old = {**tree, "recipe": {**tree["recipe"], "gone": 1}, "inputs": inputs}
    store.write_bytes(job, json.dumps(old).encode())
    assert migrate_store(root, silent).faults == []
    new = json.loads(store.read_bytes(job))
    assert new["inputs"] == {**inputs, "previous": dataset.removeprefix(f"{root}/")}
    assert new["recipe"] == old["recipe"]
    assert new["task"] == "runs/dag/run/ingest"
    assert read_job(f"{root}/runs/dag/run/ddpo/attempt-1/job.json").input("dataset") == dataset


@pytest.mark.parametrize(
    ("file", "changes", "told"),
    [
        ("manifest.json", {"commit": "/elsewhere/runs/a/commit.json"}, "outside of the store"),
        ("manifest.json", {"commit": None}, "outside of the store"),
        ("manifest.json", {"schema_version": 7}, "schema 7"),
        ("manifest.json", {"files": 3}, "is not a control file"),
        ("commit.json", {"outputs": {"x": "/elsewhere/models/v"}}, "outside of the store"),
        ("commit.json", {"outputs": []}, "is not a control file"),
        ("job.json", {"task": "/elsewhere/runs/dag/run/ddpo"}, "outside of the store"),
        ("job.json", {"attempt": 7}, "is told to be an attempt of"),
        ("job.json", {"attempt": "x"}, "is not a control file"),
        ("job.json", {"inputs": [1]}, "is not a control file"),
    ],
)
def test_what_cannot_be_rewritten_is_told_and_left(
    tmp_path: Path, file: str, changes: dict[str, object], told: str
) -> None:
    root = str(tmp_path / "store")
    _, model, _ = build(root, tmp_path)
    as_schema_1(root)
    folder = model if file == "manifest.json" else f"{root}/runs/dag/run/ddpo/attempt-1"
    content = json.dumps({**json.loads(store.read_bytes(f"{folder}/{file}")), **changes}).encode()
    store.write_bytes(f"{folder}/{file}", content)
    done = CliRunner().invoke(app, ["store", "migrate", root])
    assert done.exit_code == 2
    assert told in done.stdout
    assert "10 files rewritten" in done.stdout
    assert store.read_bytes(f"{folder}/{file}") == content


def test_files_keep_their_age(tmp_path: Path) -> None:
    root = str(tmp_path / "store")
    build(root, tmp_path)
    as_schema_1(root)
    for path in contents(root):
        os.utime(f"{root}/{path}", (1_000_000_000,) * 2)
    migrate_store(root, silent)
    assert {file.modified for file in store.list_with_times(root)} == {1_000_000_000}
    assert commit.fate(f"{root}/runs/dag/run/ddpo/attempt-1") == "committed"
