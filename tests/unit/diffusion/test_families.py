"""Both families through one code path: the pictures of diffusers' own pipelines, ratio 1, training,
and folders that open again."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.utils.checkpoint
from diffusers import (
    DDIMScheduler,
    DiffusionPipeline,
    EDMEulerScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
)

from boig_core.config import Recipe
from boig_core.diffusion.finetune import ImageExamples, finetune
from boig_core.diffusion.learner import Learner
from boig_core.diffusion.lora import make_trainable, open_policy, read_adapter, save_policy
from boig_core.diffusion.pipeline import (
    Prompts,
    decode,
    encode_images,
    encode_prompts,
    image_side,
    latent_shape,
    load_base,
    load_pipeline,
)
from boig_core.diffusion.rollout import LocalRollouts, Sampler
from boig_core.diffusion.sample import sample_images, sample_latents
from boig_core.errors import InputError, RecipeError
from boig_core.models import resolve_model
from boig_core.training.checkpoint import Checkpoints
from boig_core.vocabulary import Sample

pytestmark = pytest.mark.slow  # of the whole suite, not of its quick part

PROMPTS = ["a red ball", "a blue star at left", "a green ring on a white background"]
SEEDS = [11, 12, 13]


@pytest.fixture(params=["sd", "sdxl"])
def either(request: pytest.FixtureRequest, recipe: Recipe, sdxl: str) -> Recipe:
    """A small recipe for the shipped model, or for a random SDXL."""
    return on_base(recipe, sdxl) if request.param == "sdxl" else recipe


def on_base(recipe: Recipe, base: str, **settings: Any) -> Recipe:
    return recipe.model_copy(update={"sd": recipe.sd.model_copy(update={"base": base, **settings})})


def set_ddpo(recipe: Recipe, **settings: Any) -> Recipe:
    return recipe.model_copy(update={"ddpo": recipe.ddpo.model_copy(update=settings)})


def make_learner(
    recipe: Recipe,
    samples: list[Sample],
    sampler: Sampler,
    scorer: Any,
    folder: Path,
    rows: list[dict[str, float]],
) -> Learner:
    rollouts = LocalRollouts(sampler, scorer)
    return Learner(
        recipe,
        samples,
        rollouts,
        Checkpoints(str(folder), 1),
        lambda _, values: rows.append(values),
    )


def open_own(base: str) -> Any:
    """The pipeline as diffusers opens it, with plain DDIM."""
    pipe = DiffusionPipeline.from_pretrained(resolve_model(base), dtype=torch.float32)
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, clip_sample=False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.parametrize("guidance", [1.0, 5.0])
def test_sampling_is_that_of_diffusers(either: Recipe, guidance: float) -> None:
    own, pipe = open_own(either.sd.base), load_pipeline(either.sd.base)
    start = torch.stack(
        [
            torch.randn(latent_shape(pipe), generator=torch.Generator().manual_seed(seed))
            for seed in SEEDS
        ]
    )
    settings = {"num_inference_steps": 5, "guidance_scale": guidance, "eta": 0.0, "latents": start}
    with torch.no_grad():
        theirs = own(PROMPTS, output_type="latent", **settings).images
        pictures = own(PROMPTS, output_type="np", **settings).images
    mine = sample_latents(pipe, PROMPTS, start, 5, guidance)
    torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-4)
    images = sample_images(pipe, PROMPTS, SEEDS, 5, guidance, batch=3)
    assert images.shape == (3, 32, 32, 3)
    assert np.abs(images - pictures * 255).max() <= 1.01  # ours are rounded to 8 bits


def test_the_prompt_reaches_every_part_of_sdxl(sdxl: str) -> None:
    pipe = load_pipeline(sdxl)
    condition = encode_prompts(pipe, ["a red ball", "a blue star", None])
    assert condition.text_BLD.shape == (3, pipe.tokenizer.model_max_length, 32 + 48)
    assert condition.added["time_ids"].tolist() == [[32, 32, 0, 0, 32, 32]] * 3
    apart = Prompts(pipe)(["a red ball", "a blue star", None])
    torch.testing.assert_close(apart.inputs, condition.inputs)
    for rows in (
        condition.text_BLD[..., :32],
        condition.text_BLD[..., 32:],
        condition.added["text_embeds"],
    ):
        assert not torch.allclose(rows[0], rows[1])
        assert not rows[2].any(), "no prompt is zeros"
    pipe.register_to_config(force_zeros_for_empty_prompt=False)
    assert torch.equal(encode_prompts(pipe, [None]).text_BLD, encode_prompts(pipe, [""]).text_BLD)
    assert encode_prompts(pipe, [None]).text_BLD.any()


@pytest.mark.parametrize(
    ("dtype", "rank", "guidance"),
    [("float32", 4, 1.0), ("bfloat16", 4, 3.0), ("bfloat16", None, 1.0)],
)
def test_an_epoch_passes_the_ratio_check_and_moves_the_weights(
    recipe: Recipe,
    sdxl: str,
    samples: list[Sample],
    warmth: Any,
    tmp_path: Path,
    dtype: str,
    rank: int | None,
    guidance: float,
) -> None:
    rows: list[dict[str, float]] = []
    recipe = set_ddpo(
        on_base(recipe, sdxl, dtype=dtype), epochs=1, guidance=guidance, lora_rank=rank
    )
    sampler = Sampler(recipe)
    before = read_adapter(sampler.pipe.unet, 0)
    learner = make_learner(recipe, samples, sampler, warmth, tmp_path, rows)
    adapter = learner.fit()
    trained = {p.dtype for p in learner.pipe.unet.parameters() if p.requires_grad}
    frozen = {p.dtype for p in learner.pipe.unet.parameters() if not p.requires_grad}
    assert trained == {torch.float32 if rank else getattr(torch, dtype)}
    assert frozen == ({getattr(torch, dtype)} if rank else set())
    assert adapter.checksum != before.checksum
    assert rows[0]["grad_norm"] > 0


def test_rollouts_in_another_precision_are_refused(
    recipe: Recipe, samples: list[Sample], warmth: Any, tmp_path: Path
) -> None:
    learner = make_learner(
        recipe,
        samples,
        Sampler(on_base(recipe, recipe.sd.base, dtype="bfloat16")),
        warmth,
        tmp_path,
        [],
    )
    with pytest.raises(
        RecipeError, match=r"rollouts in bfloat16 .*, learner in float32 .*sd\.dtype"
    ):
        learner.fit()


def test_checkpointing_changes_no_gradient(
    recipe: Recipe,
    sdxl: str,
    samples: list[Sample],
    warmth: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[bool] = []
    real = torch.utils.checkpoint.checkpoint
    monkeypatch.setattr(
        torch.utils.checkpoint,
        "checkpoint",
        lambda *args, **kw: calls.append(torch.is_grad_enabled()) or real(*args, **kw),
    )
    rows: list[dict[str, float]] = []
    result = []
    for saving in (False, True):
        each = set_ddpo(on_base(recipe, sdxl, gradient_checkpointing=saving), epochs=1)
        result.append(
            make_learner(each, samples, Sampler(each), warmth, tmp_path / str(saving), rows).fit()
        )
        assert bool(calls) == saving
        assert all(calls), "sampling has no activations to save"
    assert rows[0]["grad_norm"] == pytest.approx(rows[1]["grad_norm"], rel=1e-6)
    for name, weights in result[0].weights.items():
        np.testing.assert_allclose(
            result[1].weights[name], weights, rtol=0, atol=1e-6, err_msg=name
        )


@pytest.mark.parametrize("rank", [None, 4])
def test_finetuning_steps_and_its_folder_opens(
    either: Recipe, tmp_path: Path, rank: int | None
) -> None:
    examples = ImageExamples(
        np.random.default_rng(3).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8), ["a ball"] * 6
    )
    recipe = on_base(
        either, either.sd.base, steps=2, batch=4, lr=2e-2 if rank else 1e-3, lora_rank=rank
    )
    adapter = finetune(recipe, examples, Checkpoints(str(tmp_path / "task"), 1), lambda *_: None)
    pipe = open_policy(recipe.sd.base, rank, recipe.seed, adapter)
    start = torch.randn((1, *latent_shape(pipe)), generator=torch.Generator().manual_seed(1))

    def latents(model: Any) -> torch.Tensor:
        return sample_latents(model, PROMPTS[:1], start, 4, 3.0)

    expected = latents(pipe)
    save_policy(pipe, tmp_path / "out", lora=rank is not None)
    family = (
        StableDiffusionXLPipeline if hasattr(pipe, "text_encoder_2") else StableDiffusionPipeline
    )
    reopened = family.from_pretrained(tmp_path / "out")
    reopened.scheduler = pipe.scheduler
    assert not any("lora" in name for name, _ in reopened.unet.named_parameters())
    torch.testing.assert_close(latents(reopened), expected, rtol=0, atol=1e-3)
    base = load_pipeline(recipe.sd.base)
    assert (latents(base) - expected).abs().max() > 1e-2
    if rank:
        base.load_lora_weights(tmp_path / "out" / "lora")
        torch.testing.assert_close(latents(base), expected, rtol=0, atol=1e-3)


def test_images_survive_many_slices(sdxl: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = load_pipeline(sdxl)
    images = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    whole = encode_images(pipe, images)
    pixels = decode(pipe, whole)
    monkeypatch.setattr("boig_core.diffusion.pipeline._AT_ONCE", 2 * 32 * 32)
    torch.testing.assert_close(encode_images(pipe, images), whole)
    assert np.abs(decode(pipe, whole).astype(int) - pixels).max() <= 1


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_precision_is_the_recipes_but_for_adapter_and_autoencoder(
    either: Recipe, dtype: str
) -> None:
    pipe = load_base(on_base(either, either.sd.base, dtype=dtype).sd)
    make_trainable(pipe.unet, 4, 0)
    adapter = {p.dtype for p in pipe.unet.parameters() if p.requires_grad}
    frozen = {p.dtype for p in pipe.unet.parameters() if not p.requires_grad}
    assert (adapter, frozen) == ({torch.float32}, {getattr(torch, dtype)})
    assert {p.dtype for p in pipe.vae.parameters()} == {torch.float32}
    assert encode_prompts(pipe, PROMPTS).text_BLD.dtype == getattr(torch, dtype)


def test_another_family_is_refused_by_name(sdxl: str, tmp_path: Path) -> None:
    index = json.loads((Path(sdxl) / "model_index.json").read_text())
    (tmp_path / "model_index.json").write_text(json.dumps({**index, "_class_name": "FluxPipeline"}))
    with pytest.raises(
        InputError, match=r"is a FluxPipeline.*StableDiffusionPipeline or StableDiffusionXLPipeline"
    ):
        load_pipeline(str(tmp_path))


def test_another_noise_schedule_is_refused_by_name(sdxl: str, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(sdxl, tmp_path / "edm"))
    EDMEulerScheduler().save_pretrained(folder / "scheduler")
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(
        json.dumps({**index, "scheduler": ["diffusers", "EDMEulerScheduler"]})
    )
    with pytest.raises(InputError, match=r"denoises by EDMEulerScheduler.*own noise schedule"):
        load_pipeline(str(folder))


def test_the_resolution_must_be_the_models(either: Recipe) -> None:
    assert image_side(load_base(either.sd)) == 32
    with pytest.raises(RecipeError, match=r"sd\.resolution = 64: must be 32"):
        load_base(either.sd.model_copy(update={"resolution": 64}))
