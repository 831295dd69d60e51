"""A model's reference leads to files on this machine, verified where there is a manifest."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from boig_core.errors import CorruptError, InputError
from boig_core.models import model_version
from boig_core.storage import commit, manifest, store
from boig_core.storage.models import located, version_of

FILES = {"config.json": b"{}", "part/weights.bin": b"0123456789"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, content in FILES.items():
        path = tmp_path / "model" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return tmp_path / "model"


@pytest.fixture
def output(root: str, folder: Path) -> str:
    """A committed output of a store."""
    uri, attempt = store.join(root, "models", "v1"), store.join(root, "runs/d/r/t/attempt-1")
    lineage = manifest.Lineage(inputs={}, recipe="r" * 64, code="0.1.0")
    place = store.join(attempt, commit.COMMIT)
    manifest.publish_folder(folder, uri, kind="sd", lineage=lineage, commit=place)
    commit.commit(attempt, {"model": uri}, {})
    return uri


def content(place: str) -> dict[str, bytes]:
    return {
        path.relative_to(place).as_posix(): path.read_bytes()
        for path in Path(place).rglob("*")
        if path.is_file()
    }


def test_a_folder_of_a_store_is_read_as_it_is(root: str, folder: Path) -> None:
    uri = store.join(root, "models", "strange")
    store.upload_folder(folder, uri)
    with located(uri, uri) as place:
        assert content(place) == FILES
    assert version_of(uri) == model_version(str(folder))


def test_an_output_is_verified(root: str, output: str) -> None:
    with located(output, output) as place:
        assert content(place) == FILES
    assert version_of(output) == manifest.read_manifest(output).digest()
    store.write_bytes(store.join(output, "part/weights.bin"), b"0123456780")
    with pytest.raises(CorruptError, match="differs from its manifest"), located(output, output):
        pass


def test_a_file_of_a_store_is_a_file_here(root: str, folder: Path) -> None:
    uri = store.join(root, "models/a.safetensors")
    store.write_bytes(uri, b"weights")
    with located(uri, uri) as place:
        assert Path(place).name == "a.safetensors"
        assert Path(place).read_bytes() == b"weights"


def test_a_copy_outside_of_its_store_and_a_strange_manifest_are_folders(
    root: str, output: str, tmp_path: Path
) -> None:
    store.download_folder(output, tmp_path / "copy")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / manifest.MANIFEST).write_text("[]")
    for name in ("copy", "other"):
        with located(str(tmp_path / name), name) as place:
            assert place == str(tmp_path / name)


def test_an_address_of_a_file_is_its_path(folder: Path) -> None:
    with located(f"file://{folder}", "x") as place:
        assert place == str(folder)
    assert version_of(f"file://{folder}") == version_of(str(folder))


def test_what_lies_elsewhere_keeps_its_name() -> None:
    with located("org/name", "x") as place:
        assert place == "org/name"


def test_an_empty_place_of_an_object_store_is_one_error(s3_bucket: str) -> None:
    with pytest.raises(InputError, match="leads nowhere"), located(f"{s3_bucket}/nothing", "x"):
        pass


def test_a_version_follows_the_content(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    assert version_of(str(copy)) == version_of(str(folder))
    model_version.cache_clear()
    (copy / "config.json").write_bytes(b"[]")
    assert version_of(str(copy)) != version_of(str(folder))
