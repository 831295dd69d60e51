"""``boig store copy``: a copy is the same store, a copy that was cut shows nothing half, and going
on copies what is left."""

from __future__ import annotations

import json
import uuid
from pathlib import Path

import pytest
from typer.testing import CliRunner

from boig_core.cli import app
from boig_core.errors import (
    CorruptError,
    InfrastructureError,
    InputError,
    StoreUnavailableError,
    UserError,
)
from boig_core.storage import commit, copying, manifest, store
from boig_core.storage.check import UNFINISHED, check_store
from boig_core.storage.copying import copy_store
from boig_core.storage.job import Stage
from tests.unit.storage.small_store import build, stage_of

pytestmark = pytest.mark.slow  # of the whole suite, not of its quick part


def silent(line: str) -> None:
    pass


def paths(root: str) -> set[str]:
    return {path for path, _ in store.list_files(root)}


@pytest.fixture(params=["to a folder", "to S3"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "to a folder":
        return str(tmp_path / "elsewhere" / "copy")
    return f"{request.getfixturevalue('s3_bucket')}/{uuid.uuid4().hex}"


def test_a_copy_is_whole_and_can_be_worked_on(root: str, target: str, tmp_path: Path) -> None:
    outputs = build(root, tmp_path)
    left_out = [store.join(root, path) for path in (".probe/x", ".trash/2026/models/v/unet.bin")]
    for uri in left_out:
        store.write_bytes(uri, b"x")
    copied = copy_store(root, target, silent)
    for uri in left_out:
        store.delete_file(uri)
    assert paths(target) == paths(root)
    for path in paths(root):
        assert store.read_bytes(store.join(target, path)) == store.read_bytes(
            store.join(root, path)
        )
    assert (copied.files, copied.copied, copied.gone) == (len(paths(root)), len(paths(root)), 0)
    assert copied.bytes == copied.copied_bytes == sum(size for _, size in store.list_files(root))
    # The first store goes, so that nothing can come from it.
    for path in paths(root):
        store.delete_file(store.join(root, path))
    assert check_store(target, silent).faults == []
    model = outputs[1].replace(root, target)
    made = stage_of(target, tmp_path, Stage.EVALUATE_SD, "evaluations/generation", model=model)
    assert manifest.fetch_folder(made, tmp_path / "back").lineage.inputs == {
        "model": manifest.read_manifest(model).digest()
    }
    assert check_store(target, silent).faults == []


def readable(root: str) -> list[str]:
    """Outputs that a reader would take."""
    outputs = []
    for path in paths(root):
        if path.endswith("/manifest.json"):
            uri = store.join(root, path.rsplit("/", 1)[0])
            try:
                manifest.read_manifest(uri)
            except UserError:
                continue
            outputs.append(uri)
    return outputs


def test_a_copy_that_was_cut_shows_nothing_half_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = str(tmp_path / "store")
    outputs = build(root, tmp_path)
    monkeypatch.setattr("boig_core.storage.check.READERS", 1)
    upload = store.upload_file
    whole = len(paths(root))
    shown = set()
    for cut in range(whole):
        target, left = str(tmp_path / f"copy-{cut}"), [cut]

        def cut_upload(local: Path, uri: str, left: list[int] = left) -> None:
            if left[0] == 0:
                raise StoreUnavailableError(uri, "is away", "try again")
            left[0] -= 1
            upload(local, uri)

        with monkeypatch.context() as patch:
            patch.setattr(store, "upload_file", cut_upload)
            with pytest.raises(StoreUnavailableError):
                copy_store(root, target, silent)
        there = readable(target)
        shown.add(len(there))
        for uri in there:
            manifest.fetch_folder(uri, tmp_path / "back" / store.name(uri))
            attempt = manifest.read_manifest(uri).commit.rsplit("/", 1)[0]
            assert store.exists(f"{attempt}/job.json")
        if there:
            assert outputs[0].replace(root, target) in there, "what it was made from came first"
        assert store.exists(store.join(target, UNFINISHED))
        assert not store.exists(store.join(target, "boig-store.json"))
        copied = copy_store(root, target, silent)
        assert (copied.files, copied.copied) == (whole, whole - cut)
        assert paths(target) == paths(root)
    assert shown >= {0, 1, 2, 3}


def test_a_copy_is_brought_up_to_date_and_what_was_damaged_comes_again(tmp_path: Path) -> None:
    root, target = str(tmp_path / "store"), str(tmp_path / "copy")
    _, model, _ = build(root, tmp_path)
    copy_store(root, target, silent)
    there = model.replace(root, target)
    store.write_bytes(f"{there}/weights.bin", b"x" * 15)
    store.write_bytes(f"{target}/runs/dag/run/ddpo/attempt-1/log/000001.txt", b"A line\n")
    store.delete_file(f"{there}/part/config.json")
    new = stage_of(root, tmp_path, Stage.EVALUATE_SD, "evaluations/generation", model=model)
    # of the new one: two files, manifest, job, commit, log
    copied = copy_store(root, target, silent)
    assert (copied.copied, copied.files) == (3 + 6, len(paths(root)))
    assert manifest.verify(new.replace(root, target))
    assert check_store(target, silent).faults == []
    assert copy_store(root, target, silent).copied == 0


def test_a_place_that_holds_anything_else_is_refused(tmp_path: Path) -> None:
    root, other = str(tmp_path / "store"), str(tmp_path / "other")
    build(root, tmp_path)
    build(other, tmp_path / "b")
    store.write_bytes(f"{other}/boig-store.json", b'{"id": "b"}')
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter.txt").write_text("mine")
    half = str(tmp_path / "half")
    store.write_bytes(f"{half}/{UNFINISHED}", json.dumps({"copy_of": other}).encode())
    for target in (other, str(tmp_path / "home"), half):
        before = paths(target)
        with pytest.raises(InputError, match="holds something else"):
            copy_store(root, target, silent)
        assert paths(target) == before
    for target in (root, f"{root}/models", str(tmp_path)):
        with pytest.raises(InputError, match="overlaps with"):
            copy_store(root, target, silent)
    for source, rule in ((str(tmp_path / "home"), "is no store"), (half, "unfinished copy")):
        with pytest.raises(InputError, match=rule):
            copy_store(source, str(tmp_path / "new"), silent)
    assert not (tmp_path / "new").exists()


def test_a_damaged_store_is_not_copied_as_if_it_were_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, target = str(tmp_path / "store"), str(tmp_path / "copy")
    _, model, _ = build(root, tmp_path)
    weights = store.read_bytes(f"{model}/weights.bin")
    store.write_bytes(f"{model}/weights.bin", b"x" * 15)
    with pytest.raises(CorruptError, match="differs from its manifest"):
        copy_store(root, target, silent)
    store.delete_file(f"{model}/weights.bin")
    assert readable(target) == []
    store.write_bytes(f"{model}/weights.bin", weights)

    upload = store.upload_file

    def loses(local: Path, uri: str) -> None:
        upload(local, uri)
        if uri.endswith("weights.bin"):
            store.write_bytes(uri, b"y" * 15)

    with monkeypatch.context() as patch:
        patch.setattr(store, "upload_file", loses)
        with pytest.raises(InfrastructureError, match="does not hold"):
            copy_store(root, target, silent)
    assert readable(target) == []
    copy_store(root, target, silent)
    store.write_bytes(f"{root}/runs/dag/run/ddpo/attempt-1/job.json", b"{")
    store.write_bytes(f"{model}/manifest.json", b"{")
    with pytest.raises(CorruptError, match="is not a manifest"):
        copy_store(root, target, silent)


def test_what_the_store_removes_meanwhile_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, target = str(tmp_path / "store"), str(tmp_path / "copy")
    build(root, tmp_path)
    log = f"{root}/runs/dag/run/ddpo/attempt-1/log/000001.txt"
    claim = copying._claim

    def remove(contents: object, where: str) -> dict[str, int]:
        store.delete_file(log)
        return claim(contents, where)  # type: ignore[arg-type]

    monkeypatch.setattr(copying, "_claim", remove)
    assert copy_store(root, target, silent).gone == 1
    assert check_store(target, silent).faults == []


@pytest.mark.parametrize("key", ["../x", "a/../../x", "/etc/x", "a\\..\\x", "a//x", "a/./x"])
def test_a_key_that_leads_out_of_the_copy_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    root = str(tmp_path / "store")
    build(root, tmp_path)
    listed = [*store.list_with_times(root), store.File(key, 1, 0.0)]
    monkeypatch.setattr(store, "list_with_times", lambda uri: listed)
    with pytest.raises(InputError, match="cannot be copied"):
        copy_store(root, str(tmp_path / "copy"), silent)
    assert not (tmp_path / "copy").exists()


def test_ages_are_kept_on_a_disk_and_the_command_prints_totals(tmp_path: Path) -> None:
    root, target = str(tmp_path / "store"), str(tmp_path / "copy")
    build(root, tmp_path)
    done = CliRunner().invoke(app, ["store", "copy", root, target])
    assert done.exit_code == 0, done.output
    assert f"{len(paths(root))} files" in done.stdout
    again = CliRunner().invoke(app, ["store", "copy", root, target, "--json"])
    assert json.loads(again.stdout[again.stdout.index("{") :])["copied"] == 0
    times = [{f.path: f.modified for f in store.list_with_times(at)} for at in (root, target)]
    assert times[0] == times[1]
    assert commit.fate(f"{target}/runs/dag/dead/ddpo/attempt-1") == "fenced"
