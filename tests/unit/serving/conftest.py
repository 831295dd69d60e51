"""A store that holds what an aligned model hangs on: posts, BoigLLM, calibration and the model; the
weights are untrained, all else is real."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from boig_core.config import Recipe, load_recipe
from boig_core.data.dataset import read_samples
from boig_core.llm.base import make_model
from boig_core.llm.tokens import set_limits
from boig_core.models import resolve_model
from boig_core.rewards.calibration import Calibration, conditions, write_calibration
from boig_core.storage import commit, store
from boig_core.storage.job import Job, Stage, write_job
from boig_core.storage.stage import Workspace
from boig_core.verbalization.templates import build_prompt, condition_of
from tests.unit.data.conftest import Archive, picture, row


def recipe_of(*overrides: str) -> Recipe:
    return load_recipe(
        "tiny",
        [
            "llm.hidden=32",
            "llm.layers=1",
            "llm.heads=2",
            "evaluation.sampling_steps=2",
            *overrides,
        ],
    )


@pytest.fixture(scope="session")
def aligned(tmp_path_factory: pytest.TempPathFactory) -> str:
    """URI of the model."""
    folder, recipe = tmp_path_factory.mktemp("aligned"), recipe_of()
    archive = Archive(folder)
    rows = [row(f"p{i}", float(i * i), f"{i}.png", account="acme") for i in range(40)]
    posts = archive.export(rows, {f"{i}.png": picture(i) for i in range(40)})
    dataset = archive.ingest(posts, min_posts=1)
    samples = read_samples(dataset)

    def put(stage: Stage, kind: str, family: str, local: Path, inputs: dict[str, str]) -> str:
        task = store.join(archive.store, "runs", "dag", "run", stage.value)
        job = Job(
            stage=stage, recipe=recipe, inputs=inputs, store=archive.store, root="dag/run", task=task, attempt=1
        )  # fmt: skip
        write_job(job)
        uri = Workspace(job, folder).publish(family, local, kind=kind)
        commit.commit(job.attempt_uri, {kind: uri}, {})
        return uri

    prompts = [build_prompt(sample, condition_of(sample)) for sample in samples if sample.bucket]
    tokenizer, model = make_model(recipe.llm, prompts, 0)
    set_limits(model, tokenizer, recipe.llm.context, recipe.llm.max_new_tokens)
    for part in (model, tokenizer):
        part.save_pretrained(folder / "llm")
    inputs = {"dataset": dataset}
    inputs["boigllm"] = put(
        Stage.FINETUNE_LLM, "boigllm", "models/boigllm", folder / "llm", dict(inputs)
    )
    (folder / "calibration").mkdir()
    write_calibration(
        Calibration(
            reward="contrast", clip=(-4.0, 6.0), conditions=conditions(samples), recommended=None, splits={}
        ),
        folder / "calibration",
    )  # fmt: skip
    inputs["calibration"] = put(
        Stage.CALIBRATE,
        "calibration",
        "evaluations/calibration",
        folder / "calibration",
        dict(inputs),
    )
    shutil.copytree(resolve_model("package:tiny-sd"), folder / "sd")
    return put(Stage.DDPO, "sd", "models/boigsd", folder / "sd", inputs)
