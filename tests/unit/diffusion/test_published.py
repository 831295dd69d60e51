"""What the two training stages publish: the model, the LoRA, a card, and how many prompts were
cut."""

from pathlib import Path
from typing import Any

import pytest
from diffusers import DiffusionPipeline

from boig_core.config import Recipe
from boig_core.diffusion.lora import LORA_FILE, make_trainable, read_adapter
from boig_core.diffusion.pipeline import load_base
from boig_core.storage import commit, manifest
from boig_core.storage.job import Job, Stage, write_job
from ray_jobs import ddpo, finetune_sd

CUTS: dict[str, float] = {"cut_prompts": 3, "cut_prompts_alike": 2}


@pytest.mark.parametrize(
    ("stage", "rank"), [(Stage.DDPO, 2), (Stage.FINETUNE_SD, 2), (Stage.FINETUNE_SD, None)]
)
def test_a_published_generator_says_what_it_is(
    recipe: Recipe, stage: Stage, rank: int | None, tmp_path: Path
) -> None:
    sections: dict[str, Any] = {
        "sd": recipe.sd.model_copy(update={"lora_rank": rank}),
        "ddpo": recipe.ddpo.model_copy(update={"lora_rank": rank}),
    }
    recipe = recipe.model_copy(update=sections)
    pipe: Any = load_base(recipe.sd)
    make_trainable(pipe.unet, rank, recipe.seed)
    adapter = read_adapter(pipe.unet, 1)
    store = str(tmp_path / "store")
    job = Job(
        stage=stage,
        recipe=recipe,
        inputs={},
        store=store,
        root="dag/run",
        task=f"{store}/runs/dag/run/{stage.value}",
        attempt=1,
    )
    write_job(job)
    uri = (
        ddpo.publish(job, adapter, 1, CUTS, ())
        if stage == Stage.DDPO
        else finetune_sd.publish(job, adapter, CUTS, ())
    )
    commit.commit(job.attempt_uri, {"model": uri}, {})
    published = manifest.verify(uri, kind="sd")
    assert published.meta.items() >= CUTS.items()
    files = {entry.path for entry in published.files}
    assert "README.md" in files
    assert (f"lora/{LORA_FILE}" in files) is (rank is not None)
    card = (Path(uri) / "README.md").read_text()
    assert (LORA_FILE in card) is (rank is not None)
    assert '"cut_prompts": 3' in card
    DiffusionPipeline.from_pretrained(uri)
