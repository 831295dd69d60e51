"""A base that is one file, lies in a store or on the hub opens as the folder does."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline

from boig_core.diffusion.opening import open_pipeline
from boig_core.diffusion.pipeline import load_pipeline
from boig_core.diffusion.sample import sample_latents
from boig_core.models import resolve_model
from boig_core.storage import manifest, store
from boig_core.storage.commit import commit
from tests.unit.diffusion.bases import (
    PROMPTS,
    WEIGHTS,
    make_parts,
    refused,
    save,
    start_of,
    weights_of,
    without,
)
from tests.unit.diffusion.single_file import save_single_file


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return Path(shutil.copytree(resolve_model("package:tiny-sd"), tmp_path / "base"))


@pytest.fixture(scope="module")
def parts() -> dict[str, Any]:
    return make_parts()


@pytest.mark.parametrize("marks", [(), ("v_pred", "ztsnr")])
def test_a_single_file_is_the_model_it_was_written_from(
    parts: dict[str, Any], tmp_path: Path, marks: tuple[str, ...]
) -> None:
    folder = save(parts, tmp_path / "folder")
    expected = load_pipeline(str(folder))
    file = folder / "model.safetensors"
    save_single_file(expected, file, marks)
    for weights in folder.rglob("*/*.safetensors"):
        weights.unlink()
    pipe = load_pipeline(str(file))
    torch.testing.assert_close(weights_of(pipe), weights_of(expected), rtol=0, atol=0)
    config = pipe.scheduler.config
    assert config.prediction_type == ("v_prediction" if marks else "epsilon")
    assert config.rescale_betas_zero_snr == bool(marks)
    start = start_of(pipe)
    if not marks:
        torch.testing.assert_close(
            sample_latents(pipe, PROMPTS, start, 3, 2.0),
            sample_latents(expected, PROMPTS, start, 3, 2.0),
        )
    half = open_pipeline(str(file), "bfloat16")
    assert (half.unet.dtype, half.vae.dtype) == (torch.bfloat16, torch.float32)


def test_a_single_file_without_settings_names_the_command_that_fetches_them(
    parts: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    pipe = load_pipeline(str(save(parts, tmp_path / "folder")))
    save_single_file(pipe, tmp_path / "a.safetensors")
    refused(
        tmp_path / "a.safetensors",
        r"run `hf download stable-diffusion-v1-5/stable-diffusion-v1-5 --include '\*\.json'",
    )


def test_a_single_file_of_another_family_than_its_folder_is_refused(
    parts: dict[str, Any], sdxl: str, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(sdxl, tmp_path / "sdxl"))
    pipe = load_pipeline(str(save(parts, tmp_path / "folder")))
    save_single_file(pipe, folder / "a.safetensors")
    refused(folder / "a.safetensors", "of another family")


def test_a_single_file_that_lacks_weights_is_refused(parts: dict[str, Any], tmp_path: Path) -> None:
    folder = save(parts, tmp_path / "folder")
    save_single_file(load_pipeline(str(folder)), folder / "a.safetensors")
    without(folder, "a.safetensors", "out.2.weight")
    refused(folder / "a.safetensors", r", unet: lacks 1 weights|does not open")


@pytest.mark.parametrize("written", ["folder", "output", "file"])
def test_a_model_of_a_store_opens(
    s3_bucket: str,
    base: Path,
    parts: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    written: str,
) -> None:
    uri = f"{s3_bucket}/{tmp_path.name}/models/sd"
    if written == "output":
        attempt = f"{s3_bucket}/{tmp_path.name}/runs/d/r/t/attempt-1"
        lineage = manifest.Lineage(inputs={}, recipe="r", code="c")
        place = f"{attempt}/commit.json"
        manifest.publish_folder(base, uri, kind="sd", lineage=lineage, commit=place)
        commit(attempt, {"sd": uri}, {})
    elif written == "folder":
        store.upload_folder(base, uri)
    else:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        pipe = load_pipeline(str(save(parts, tmp_path / "folder")))
        save_single_file(pipe, tmp_path / "a.safetensors")
        uri = f"{uri}/a.safetensors"
        store.upload_file(tmp_path / "a.safetensors", uri)
        refused(uri, "hf download")
        return
    torch.testing.assert_close(
        weights_of(load_pipeline(uri)), weights_of(load_pipeline("package:tiny-sd"))
    )


def test_a_model_of_the_hubs_cache_opens_in_halves(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched: list[str | None] = []

    def download(ref: str, variant: str | None = None, **_: Any) -> str:
        fetched.append(variant)
        if variant == "fp16":
            path = base / WEIGHTS
            hidden.rename(path.with_suffix(".fp16.safetensors"))
        return str(base)

    hidden = (base / WEIGHTS).rename(tmp_path / "hidden")
    index = json.loads((base / "model_index.json").read_text())
    monkeypatch.setattr(DiffusionPipeline, "download", download)
    monkeypatch.setattr(DiffusionPipeline, "load_config", lambda ref: index)
    assert weights_of(load_pipeline("nobody/knows-this")).keys()
    assert fetched == [None, "fp16"]


def test_a_model_of_the_hub_without_weights_says_what_is_missing(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(ref: str, variant: str | None = None, **_: Any) -> str:
        if variant is not None:
            raise ValueError("no such modeling files are available")
        return str(base)

    (base / WEIGHTS).unlink()
    index = json.loads((base / "model_index.json").read_text())
    monkeypatch.setattr(DiffusionPipeline, "download", download)
    monkeypatch.setattr(DiffusionPipeline, "load_config", lambda ref: index)
    refused("nobody/knows-this", "nobody/knows-this, unet: holds no weights")


def test_another_family_of_the_hub_is_refused_before_it_is_fetched(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(DiffusionPipeline, "download", lambda *_, **__: pytest.fail("fetched"))
    monkeypatch.setattr(
        DiffusionPipeline, "load_config", lambda ref: {"_class_name": "FluxPipeline"}
    )
    refused("nobody/knows-this", "is a FluxPipeline")


def test_the_hub_without_a_network_is_one_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    refused("nobody/knows-this", "network is off|does not open")
