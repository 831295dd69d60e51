"""A published generator as MLflow loads it: from its folder, and by its alias from the store."""

from __future__ import annotations

import io
import json
import shutil
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import _artifact_repository_registry
from PIL import Image

from boig_core.config import Recipe
from boig_core.diffusion.pipeline import load_pipeline
from boig_core.diffusion.sample import sample_images
from boig_core.errors import CorruptError, InputError, NotFoundInStoreError
from boig_core.llm.generate import generate_answers, load_llm
from boig_core.orchestration.promotion import registry
from boig_core.orchestration.promotion.artifacts import StoreArtifactRepository
from boig_core.serving.mlflow_model import add_image_model, add_language_model
from boig_core.serving.provenance import SOURCE_TYPE
from boig_core.serving.published import open_published
from boig_core.storage import commit, store
from boig_core.storage.job import Job, Stage
from boig_core.storage.stage import Workspace
from tests.unit.serving.conftest import recipe_of

SOURCE = "boig:///models/boigsd/v1"


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return recipe_of("evaluation.guidance=2.5")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, recipe: Recipe) -> Path:
    folder = tmp_path_factory.mktemp("mlflow") / "model"
    pipe = load_pipeline("package:tiny-sd")
    pipe.save_pretrained(folder)
    add_image_model(folder, recipe)
    return folder


def pixels(png: bytes) -> Any:
    with Image.open(io.BytesIO(png)) as image:
        assert SOURCE_TYPE in image.info["XML:com.adobe.xmp"]
        return np.asarray(image).astype(int)


def test_it_makes_the_images_that_boig_makes(folder: Path, recipe: Recipe) -> None:
    model = mlflow.pyfunc.load_model(str(folder))
    texts, seeds = ["a red ball", "a star"], [3, 2**32 - 1]
    answer = model.predict(pd.DataFrame({"text": texts, "seed": seeds}))
    settings = recipe.evaluation
    ours = sample_images(
        load_pipeline(str(folder)),
        texts,
        seeds,
        settings.sampling_steps,
        settings.guidance,
        batch=1,
    )
    for png, image in zip(answer["image"], ours, strict=True):
        assert abs(pixels(png) - image).max() <= 1


def test_without_a_seed_each_image_is_another(folder: Path) -> None:
    model = mlflow.pyfunc.load_model(str(folder))
    answer = model.predict(pd.DataFrame({"text": ["a red ball"] * 2}))
    assert (pixels(answer["image"][0]) != pixels(answer["image"][1])).any()
    with pytest.raises(MlflowException, match="text"):
        model.predict(pd.DataFrame({"words": ["a red ball"]}))


def test_equal_models_have_equal_files_and_no_pickle(
    folder: Path, recipe: Recipe, tmp_path: Path
) -> None:
    add_image_model(tmp_path, recipe)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"MLmodel", "boigsd.py", "python_env.yaml", "requirements.txt"}
    for name in names:
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()
    assert all("+" not in line for line in (tmp_path / "requirements.txt").read_text().split())


@pytest.fixture
def published(folder: Path, recipe: Recipe, tmp_path: Path) -> str:
    """The model in a store, registered as champion in a registry of its own."""
    root = str(tmp_path / "store")
    job = Job(
        stage=Stage.DDPO, recipe=recipe, inputs={}, store=root, root="d/r",
        task=store.join(root, "runs", "d", "r", "ddpo"), attempt=1,
    )  # fmt: skip
    copy = tmp_path / "model"
    shutil.copytree(folder, copy)
    uri = Workspace(job, tmp_path).publish("models/boigsd", copy, kind="sd")
    commit.commit(job.attempt_uri, {"boigsd": uri}, {})
    return uri


@pytest.fixture(scope="module")
def empty_registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database without a model: made once, since that takes seconds."""
    path = tmp_path_factory.mktemp("registry") / "empty.db"
    MlflowClient(f"sqlite:///{path}", f"sqlite:///{path}").search_registered_models()
    return path


@pytest.fixture
def champion(
    published: str, empty_registry: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> str:
    shutil.copyfile(empty_registry, tmp_path / "mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.setitem(_artifact_repository_registry._registry, "boig", StoreArtifactRepository)
    mlflow.set_tracking_uri(None)
    client = MlflowClient()
    client.create_registered_model(registry.MODEL)
    tags = {"uri": published}
    version = client.create_model_version(registry.MODEL, SOURCE, tags=tags).version
    client.set_registered_model_alias(registry.MODEL, "champion", version)
    return published


def test_the_champion_is_loaded_without_a_copy(champion: str) -> None:
    before = {path: path.stat().st_size for path in Path(champion).rglob("*")}
    model = mlflow.pyfunc.load_model(f"models:/{registry.MODEL}@champion")
    assert len(model.predict(pd.DataFrame({"text": ["a red ball"]}))) == 1
    # MLflow writes a file of its own into what it has loaded: never into the store.
    assert {path: path.stat().st_size for path in Path(champion).rglob("*")} == before
    local = Path(mlflow.artifacts.download_artifacts(f"models:/{registry.MODEL}@champion"))
    weights = "unet/diffusion_pytorch_model.safetensors"
    assert (local / weights).resolve() == (Path(champion) / weights).resolve()


def test_files_are_listed_and_copied_where_they_are_asked_for(
    champion: str, tmp_path: Path
) -> None:
    files = StoreArtifactRepository(SOURCE)
    top = {info.path: (info.is_dir, info.file_size) for info in files.list_artifacts()}
    assert top["unet"] == (True, None)
    assert top["MLmodel"] == (False, (Path(champion) / "MLmodel").stat().st_size)
    assert {info.path for info in files.list_artifacts("unet")} == {
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
    }
    out = Path(files.download_artifacts("unet", str(tmp_path)))
    assert out == tmp_path / "unet"
    assert not (out / "config.json").is_symlink()
    assert json.loads((out / "config.json").read_text())["_class_name"] == "UNet2DConditionModel"
    with pytest.raises(NotFoundInStoreError, match="no file of the model"):
        files.download_artifacts("une")


def test_a_changed_byte_is_told_before_anything_runs(champion: str) -> None:
    file = Path(champion) / "boigsd.py"
    file.write_bytes(file.read_bytes().replace(b"import io", b"import os"))
    with pytest.raises(CorruptError, match="differs from its manifest"):
        mlflow.pyfunc.load_model(f"models:/{registry.MODEL}@champion")


def test_a_source_that_no_version_has_is_told(champion: str) -> None:
    with pytest.raises(InputError, match="is the source of no version"):
        StoreArtifactRepository("boig:///models/boigsd/v2").list_artifacts()


@pytest.mark.parametrize("call", ["log_artifact", "log_artifacts", "delete_artifacts"])
def test_nothing_is_written(call: str) -> None:
    with pytest.raises(InputError, match="written by boig's stages alone"):
        getattr(StoreArtifactRepository(SOURCE), call)("x")


def test_mlflow_finds_the_store_by_its_entry_point() -> None:
    [entry] = [
        point for point in entry_points(group="mlflow.artifact_repository") if point.name == "boig"
    ]
    assert entry.load() is StoreArtifactRepository


def test_a_language_model_answers_as_boig_has_it_answer(aligned: str, tmp_path: Path) -> None:
    boigllm = open_published(aligned, tmp_path).job.input("boigllm")
    shutil.copytree(boigllm, tmp_path / "model")
    add_language_model(tmp_path / "model")
    prompts = ["acme 2020-01-01\na post 32x32\nkpi: 5 low\nanswer: ", "another"]
    answers = mlflow.pyfunc.load_model(str(tmp_path / "model")).predict(
        pd.DataFrame({"prompt": prompts})
    )
    model, tokenizer = load_llm(boigllm)
    longest = model.generation_config.max_new_tokens
    assert list(answers["answer"]) == generate_answers(
        model, tokenizer, prompts, max_new_tokens=longest, batch=1
    )
    assert all(answers["answer"])
