"""Paths that others have listed never lead out of the folder that they are meant for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from boig_core.errors import CorruptError, InputError
from boig_core.storage import manifest, paths, s3, store
from boig_core.training.checkpoint_marker import FORMAT, CheckpointMarker

PARTS = st.sampled_from(["..", ".", "", "a", "b.txt", "\\", "a\\..\\b", "\0", "~", "C:", "\ud800"])
PATHS = st.one_of(
    st.lists(PARTS, max_size=8).map("/".join),
    st.text(st.characters(), max_size=30),
    st.text("./\\a\0", max_size=12),
)
ODD = [
    "",
    "/",
    "/etc/passwd",
    "..",
    "../x",
    "a/../../x",
    "a/..",
    "a//b",
    "a/",
    "./a",
    "a\\b",
    "a\0b",
]


@given(PATHS)
def test_a_listed_path_stays_below_or_is_refused(path: str) -> None:
    folder = Path("/scratch/inputs")
    try:
        place = paths.below(folder, path)
    except InputError:
        return
    assert Path(os.path.normpath(place)) == place
    assert folder in place.parents
    assert place.relative_to(folder).as_posix() == path
    path.encode()


@pytest.mark.parametrize("path", [*ODD, "\ud800"])
def test_odd_paths_are_refused_in_one_line(path: str) -> None:
    with pytest.raises(InputError, match="cannot be the path of a file below") as caught:
        paths.below(Path("/scratch"), path)
    assert str(caught.value).isprintable()


@given(PATHS, st.sampled_from(["datasets/d", "models/boigsd", "reports", "datasets/reports"]))
def test_a_manifest_names_files_of_its_own_store_alone(path: str, family: str) -> None:
    root = "/mnt/store"
    try:
        entry = manifest.FileEntry(path=path, size=0, sha256="0" * 64)
        place = f"{family}/version-a1"
        manifest_of(place, entry)
        file = manifest.resolve(f"{root}/{place}", entry.path)
    except (ValidationError, CorruptError):
        return
    assert os.path.normpath(file).startswith(f"{root}/")
    assert "\\" not in file


def manifest_of(place: str, *files: manifest.FileEntry) -> manifest.Manifest:
    lineage = manifest.Lineage(inputs={}, recipe="", code="")
    return manifest.Manifest(kind="k", files=files, lineage=lineage, place=place, commit="c")


@pytest.mark.parametrize(
    ("place", "steps"), [("datasets/d/v", 3), ("reports/v", 2), ("datasets/reports/v", 3)]
)
def test_steps_that_lead_out_of_the_store_are_refused(place: str, steps: int) -> None:
    for up, path in ((steps, "perception/k/p"), (steps + 1, "other/x")):
        entry = manifest.FileEntry(path="../" * up + path, size=0, sha256="0" * 64)
        if up == steps:
            manifest_of(place, entry)
            continue
        with pytest.raises(ValidationError, match="outside of the store"):
            manifest_of(place, entry)
    assert manifest.resolve("/s/datasets/d/v", "../../../perception/k/p") == "/s/perception/k/p"


@pytest.mark.parametrize("key", ["../evil", "a/../../evil", "/evil", "a//evil", "a\\evil", "a/./b"])
def test_keys_of_s3_that_lead_elsewhere_are_not_downloaded(
    s3_bucket: str, tmp_path: Path, key: str
) -> None:
    bucket, prefix = s3_bucket.removeprefix("s3://"), f"model-{len(key)}-{abs(hash(key))}"
    for name in ("good.bin", key):
        s3.client().put_object(Bucket=bucket, Key=f"{prefix}/{name}", Body=b"x")
    target = tmp_path / "deep" / "target"
    with pytest.raises(InputError, match="cannot be the path of a file below"):
        store.download_folder(f"{s3_bucket}/{prefix}", target)
    assert not list(tmp_path.rglob("*")), "nothing was written anywhere"


def test_folders_that_a_console_has_made_are_no_files(s3_bucket: str, tmp_path: Path) -> None:
    bucket = s3_bucket.removeprefix("s3://")
    for key, body in (("model/", b""), ("model/sub/", b""), ("model/sub/x", b"x")):
        s3.client().put_object(Bucket=bucket, Key=f"consoles/{key}", Body=body)
    assert store.list_files(f"{s3_bucket}/consoles/model") == [("sub/x", 1)]
    store.download_folder(f"{s3_bucket}/consoles/model", tmp_path / "model")
    assert (tmp_path / "model" / "sub" / "x").read_bytes() == b"x"


@pytest.mark.parametrize("path", [*ODD, "../blobs/x"])
def test_a_checkpoint_s_marker_names_files_of_its_own_folder_alone(path: str) -> None:
    whole = {"format": FORMAT, "step": 1, "work": {}, "recipe": "r", "code": "c", "state": {},
             "went_on_from": (), "folder": "abc", "files": []}  # fmt: skip
    entry = {"path": path, "size": 0, "sha256": "0" * 64}
    assert CheckpointMarker.model_validate(whole).folder == "abc"
    with pytest.raises(ValidationError):
        CheckpointMarker.model_validate({**whole, "files": [entry]})
    with pytest.raises(ValidationError):
        CheckpointMarker.model_validate({**whole, "folder": path})


def test_what_is_listed_is_shown_without_codes_of_a_terminal() -> None:
    assert paths.printable("a\x1b[31m\n\udcff é") == "a\\x1b[31m\\n\\udcff é"
