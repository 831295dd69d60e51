"""``boig store check``: a whole store is whole, and what is done to one of its files is told."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from boig_core.cli import app
from boig_core.errors import InputError
from boig_core.storage import commit, store
from boig_core.storage.check import check_store, sha256_of
from boig_core.storage.job import Stage
from tests.unit.storage.small_store import SHARD, build, stage_of


def silent(line: str) -> None:
    pass


def faults(root: str) -> list[str]:
    return [f"{fault.place}: {fault.rule}" for fault in check_store(root, silent).faults]


def test_a_whole_store_is_whole(root: str, tmp_path: Path) -> None:
    outputs = build(root, tmp_path)
    lines: list[str] = []
    inspection = check_store(root, lines.append)
    assert inspection.faults == []
    assert (inspection.outputs, inspection.uncommitted, inspection.removed) == (3, 1, 0)
    assert (inspection.commits, inspection.fences, inspection.jobs) == (3, 1, 4)
    assert inspection.named == 3 * 2 + 1
    assert lines[-1].startswith("7 of 7 files")
    for path, _ in store.list_files(outputs[2]):
        store.delete_file(store.join(outputs[2], path))
    assert (check_store(root, silent).removed, faults(root)) == (1, []), "as a clean-up leaves it"


def change(uri: str) -> None:
    data = bytearray(store.read_bytes(uri))
    data[len(data) // 2] ^= 1
    store.write_bytes(uri, bytes(data))


def tell(uri: str, **changes: object) -> None:
    store.write_bytes(uri, json.dumps({**json.loads(store.read_bytes(uri)), **changes}).encode())


def lose_lineage(root: str, model: str) -> None:
    manifest = f"{model}/manifest.json"
    lineage = json.loads(store.read_bytes(manifest))["lineage"]
    tell(manifest, lineage={**lineage, "inputs": {"dataset": "0" * 64}})


ATTEMPT = "runs/dag/run/ddpo/attempt-1"
DAMAGE: dict[str, tuple[Callable[[str, str], object], str]] = {
    "a byte": (lambda r, m: change(f"{m}/weights.bin"), "weights.bin: differs from its manifest"),
    "a byte of a shard": (
        lambda r, m: change(f"{r}/datasets/acme/blobs/images-1.parquet"),
        "datasets/acme/blobs/images-1.parquet: differs",
    ),
    "a shorter file": (
        lambda r, m: store.write_bytes(f"{m}/weights.bin", b"w"),
        "weights.bin: has 1 bytes, must have 15",
    ),
    "a file": (lambda r, m: store.delete_file(f"{m}/part/config.json"), "config.json: is missing"),
    "a shard": (
        lambda r, m: store.delete_file(f"{r}/datasets/acme/blobs/images-1.parquet"),
        f"is missing, must have {len(SHARD)}",
    ),
    "a manifest": (lambda r, m: store.delete_file(f"{m}/manifest.json"), "has lost its manifest"),
    "a torn manifest": (lambda r, m: store.write_bytes(f"{m}/manifest.json", b"{"), "is not a man"),
    "a torn commit": (lambda r, m: store.write_bytes(f"{r}/{ATTEMPT}/commit.json", b"{"), ATTEMPT),
    "a torn job": (lambda r, m: store.write_bytes(f"{r}/{ATTEMPT}/job.json", b"{"), ATTEMPT),
    "another commit": (
        lambda r, m: tell(f"{r}/{ATTEMPT}/commit.json", outputs={}),
        f"{ATTEMPT} has committed other outputs",
    ),
    "a job": (lambda r, m: store.delete_file(f"{r}/{ATTEMPT}/job.json"), "has no job.json"),
    "another recipe": (
        lambda r, m: tell(f"{r}/{ATTEMPT}/job.json", recipe={}),
        "was made by another recipe",
    ),
    "other inputs": (
        lambda r, m: tell(f"{r}/{ATTEMPT}/job.json", inputs={}),
        "was made from other inputs",
    ),
    "another parent": (lose_lineage, "is not what it was made from"),
    "a manifest of another place": (
        lambda r, m: store.write_bytes(
            f"{r}/models/boigsd/copy/manifest.json", store.read_bytes(f"{m}/manifest.json")
        ),
        "taken out of its store",
    ),
    "schema 1": (lambda r, m: tell(f"{m}/manifest.json", schema_version=1), "boig store migrate"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_is_lost_or_changed_is_told(tmp_path: Path, damage: str) -> None:
    root = str(tmp_path / "store")
    _, model, _ = build(root, tmp_path)
    act, told = DAMAGE[damage]
    act(root, model)
    assert [line for line in faults(root) if told in line], faults(root)
    done = CliRunner().invoke(app, ["store", "check", root])
    assert done.exit_code == 2
    assert told in done.stdout


def test_a_parent_that_is_gone_is_told(tmp_path: Path) -> None:
    root = str(tmp_path / "store")
    dataset, model, _ = build(root, tmp_path)
    for path, _ in store.list_files(dataset):
        store.delete_file(store.join(dataset, path))
    place = model.removeprefix(f"{root}/")
    assert any(line.startswith(f"{place}: its input dataset") for line in faults(root))


def test_the_command_prints_json_and_an_unfinished_copy_is_no_whole_store(tmp_path: Path) -> None:
    root = str(tmp_path / "store")
    build(root, tmp_path)
    done = CliRunner().invoke(app, ["store", "check", root, "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout[done.stdout.index("{") :])["outputs"] == 3
    store.write_bytes(f"{root}/boig-copy.json", b"{}")
    done = CliRunner().invoke(app, ["store", "check", root])
    assert (done.exit_code, "boig-copy.json: the copy is not finished" in done.stdout) == (2, True)


def test_a_large_file_is_hashed_piece_by_piece(tmp_path: Path) -> None:
    large = tmp_path / "large.bin"
    with large.open("wb") as file:
        file.truncate(64 * 2**20)
    sha256_of(str(tmp_path / "large.bin"))  # imports
    tracemalloc.start()
    sha256_of(str(large))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * 2**20


def test_a_fault_of_one_output_leaves_the_others(tmp_path: Path) -> None:
    root = str(tmp_path / "store")
    dataset, _, _ = build(root, tmp_path)
    other = stage_of(root, tmp_path, Stage.CALIBRATE, "evaluations/calibration", dataset=dataset)
    change(f"{other}/weights.bin")
    assert len(faults(root)) == 1
    assert commit.read_commit(f"{root}/{ATTEMPT}")


def test_a_folder_that_is_no_store_is_not_called_whole(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(b"mine")
    with pytest.raises(InputError, match="is no store"):
        check_store(str(tmp_path), silent)
