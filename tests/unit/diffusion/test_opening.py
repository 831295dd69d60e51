"""What people have for a base opens as it is meant, and paints what diffusers' own pipelines paint;
else it is one clear error."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DiffusionPipeline,
    LCMScheduler,
    StableDiffusionPipeline,
)
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, CLIPTextModel

from boig_core.diffusion.pipeline import (
    decode,
    encode_images,
    encode_prompts,
    image_side,
    latent_shape,
    load_pipeline,
)
from boig_core.diffusion.sample import sample_latents
from boig_core.errors import UserError
from boig_core.models import resolve_model
from tests.unit.diffusion.bases import (
    BETAS,
    PROMPTS,
    SCHEDULER,
    WEIGHTS,
    change,
    make_parts,
    refused,
    save,
    small_unet,
    start_of,
    weights_of,
    without,
)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return Path(shutil.copytree(resolve_model("package:tiny-sd"), tmp_path / "base"))


@pytest.fixture(scope="module")
def parts() -> dict[str, Any]:
    return make_parts()


def as_diffusers_paints(folder: Path, pipe: Any, guidance: float) -> None:
    """Latents are those of diffusers' own pipeline under plain DDIM."""
    own = DiffusionPipeline.from_pretrained(folder, dtype=torch.float32)
    own.scheduler = DDIMScheduler.from_config(own.scheduler.config, clip_sample=False)
    own.set_progress_bar_config(disable=True)
    start = start_of(pipe)
    with torch.no_grad():
        expected = own(
            PROMPTS,
            num_inference_steps=4,
            guidance_scale=guidance,
            latents=start.clone(),
            output_type="latent",
        ).images
    torch.testing.assert_close(
        sample_latents(pipe, PROMPTS, start, 4, guidance), expected, rtol=0, atol=2e-4
    )


def in_halves(pipe: Any, base: Path) -> None:
    pipe.to(dtype=torch.float16).save_pretrained(base, variant="fp16")


def in_shards_of_halves(pipe: Any, base: Path) -> None:
    pipe.to(dtype=torch.float16).save_pretrained(base, variant="fp16", max_shard_size="300KB")
    assert len(list((base / "unet").glob("*.safetensors"))) > 1


def in_shards(pipe: Any, base: Path) -> None:
    pipe.save_pretrained(base, max_shard_size="500KB")
    assert len(list((base / "unet").glob("*.safetensors"))) > 1


def in_pickles(pipe: Any, base: Path) -> None:
    for name in ("unet", "vae"):
        part = getattr(pipe, name)
        part.save_pretrained(base / name, safe_serialization=False)
        (base / name / "diffusion_pytorch_model.safetensors").unlink()
    torch.save(pipe.text_encoder.state_dict(), base / "text_encoder/pytorch_model.bin")
    (base / "text_encoder/model.safetensors").unlink()


def some_in_halves(pipe: Any, base: Path) -> None:
    whole = base / WEIGHTS
    whole.rename(whole.with_suffix(".fp16.safetensors"))


@pytest.mark.parametrize(
    "written", [in_halves, in_shards_of_halves, in_shards, in_pickles, some_in_halves]
)
def test_weights_open_however_they_were_written(
    base: Path, written: Callable[[Any, Path], None]
) -> None:
    expected = weights_of(load_pipeline("package:tiny-sd"))
    own = StableDiffusionPipeline.from_pretrained(base, dtype=torch.float32)
    if written in (in_halves, in_shards_of_halves, in_shards):
        shutil.rmtree(base)
    written(own, base)
    opened = weights_of(load_pipeline(str(base)))
    assert {weight.dtype for weight in opened.values() if weight.is_floating_point()} == {
        torch.float32
    }
    torch.testing.assert_close(opened, expected, rtol=0, atol=0)


def test_full_weights_are_taken_where_halves_lie_beside_them(base: Path) -> None:
    weights = load_file(base / WEIGHTS)
    noise = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    save_file(noise, (base / WEIGHTS).with_suffix(".fp16.safetensors"))
    pipe = load_pipeline(str(base))
    assert any(weight.any() for weight in pipe.unet.parameters())


@pytest.mark.parametrize(
    ("file", "beginning"),
    [
        (WEIGHTS, "conv_out"),
        ("vae/diffusion_pytorch_model.safetensors", "decoder"),
        ("text_encoder/model.safetensors", "token_embedding"),
    ],
)
def test_weights_that_are_missing_are_not_drawn_by_chance(
    base: Path, file: str, beginning: str
) -> None:
    without(base, file, beginning)
    refused(base, rf", {file.partition('/')[0]}: lacks \d+ weights")


@pytest.mark.parametrize(
    ("file", "settings"),
    [
        ("unet/config.json", {"block_out_channels": [16, 32]}),
        ("unet/config.json", {"down_block_types": ["NoBlock", "DownBlock2D"]}),
        ("unet/config.json", {"norm_num_groups": 7}),
        ("vae/config.json", {"num_decoder_blocks": [1]}),
        ("text_encoder/config.json", {"num_attention_heads": 7}),
        ("text_encoder/config.json", {"vocab_size": 3}),
        (SCHEDULER, {"beta_schedule": "unheard-of"}),
        (SCHEDULER, {"beta_end": 2.0}),
        (SCHEDULER, {"beta_start": -0.1}),
        (SCHEDULER, {"trained_betas": [0.1, 1.0, 0.1]}),
        (SCHEDULER, {"trained_betas": "none"}),
    ],
    ids=str,
)
def test_settings_that_do_not_fit_are_one_error(
    base: Path, file: str, settings: dict[str, Any]
) -> None:
    change(base, file, **settings)
    with pytest.raises(UserError) as caught:
        load_pipeline(str(base))
    assert "\n" not in str(caught.value)


def test_pickled_weights_that_are_cut_off_are_one_error(base: Path) -> None:
    in_pickles(load_pipeline("package:tiny-sd"), base)
    path = base / "unet/diffusion_pytorch_model.bin"
    path.write_bytes(path.read_bytes()[:1000])
    refused(base, "does not open as Stable Diffusion")


def test_a_schedule_that_divides_by_zero_is_refused_however_it_comes_about(base: Path) -> None:
    betas = np.linspace(0.001, 0.02, 1000)
    betas[-1] = 1.0
    change(base, SCHEDULER, trained_betas=betas.tolist())
    refused(base, "zero terminal SNR")
    change(base, SCHEDULER, prediction_type="v_prediction")
    assert float(load_pipeline(str(base)).scheduler.alphas_cumprod[-1]) == 0.0


def test_a_consistency_model_is_refused(base: Path) -> None:
    LCMScheduler(**BETAS).save_pretrained(base / "scheduler")
    refused(base, "is a consistency model: it denoises by LCMScheduler")


def test_a_pair_of_equal_sides_is_a_side(parts: dict[str, Any], tmp_path: Path) -> None:
    folder = save(parts, tmp_path / "pair", unet=small_unet(sample_size=(8, 8)))
    pipe = load_pipeline(str(folder))
    assert latent_shape(pipe) == (4, 8, 8)
    assert image_side(pipe) == 32
    as_diffusers_paints(folder, pipe, 3.0)


@pytest.mark.parametrize("guidance", [1.0, 5.0])
def test_a_unet_that_takes_the_strength_of_guidance_gets_it(
    parts: dict[str, Any], tmp_path: Path, guidance: float
) -> None:
    folder = save(parts, tmp_path / "distilled", unet=small_unet(time_cond_proj_dim=16))
    pipe = load_pipeline(str(folder))
    as_diffusers_paints(folder, pipe, guidance)


def test_a_side_that_no_level_divides_paints_as_diffusers_does(
    parts: dict[str, Any], tmp_path: Path
) -> None:
    deeper = {
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "block_out_channels": (8,) * 4,
    }
    vae = AutoencoderKL.from_config({**parts["vae"].config, **deeper})
    folder = save(parts, tmp_path / "odd", unet=small_unet(sample_size=9), vae=vae)
    pipe = load_pipeline(str(folder))
    as_diffusers_paints(folder, pipe, 1.0)
    assert decode(pipe, start_of(pipe)).shape == (2, 72, 72, 3)


def test_an_autoencoder_without_quantizing_layers_opens(
    parts: dict[str, Any], tmp_path: Path
) -> None:
    config = {**parts["vae"].config, "use_quant_conv": False, "use_post_quant_conv": False}
    folder = save(parts, tmp_path / "plain", vae=AutoencoderKL.from_config(config))
    pipe = load_pipeline(str(folder))
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    assert encode_images(pipe, images).shape == (2, 4, 8, 8)


def test_moments_of_latents_are_those_of_diffusers(sdxl: str, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(sdxl, tmp_path / "moments"))
    moments = {"latents_mean": [0.5, -1.0, 2.0, 0.0], "latents_std": [2.0, 0.5, 1.5, 3.0]}
    change(folder, "vae/config.json", **moments)
    plain, pipe = load_pipeline(sdxl), load_pipeline(str(folder))
    own = DiffusionPipeline.from_pretrained(folder, dtype=torch.float32)
    own.scheduler = DDIMScheduler.from_config(own.scheduler.config, clip_sample=False)
    own.set_progress_bar_config(disable=True)
    start = start_of(pipe)
    settings = {"num_inference_steps": 2, "guidance_scale": 1.0, "latents": start}
    with torch.no_grad():
        pictures = own(PROMPTS, output_type="np", **settings).images
    images = decode(pipe, sample_latents(pipe, PROMPTS, start, 2, 1.0))
    assert np.abs(images - pictures * 255).max() <= 1.01
    mean, std = (torch.tensor(numbers).reshape(1, 4, 1, 1) for numbers in moments.values())
    expected = encode_images(plain, images) / 0.13025
    torch.testing.assert_close(
        encode_images(pipe, images), (expected - mean) / std * 0.13025, rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"latents_mean": [0.0] * 3, "latents_std": [1.0] * 3}, "latents_mean and latents_std are"),
        ({"latents_mean": [0.0] * 4}, "latents_mean and latents_std are"),
        ({"shift_factor": 0.5}, "shift_factor is 0.5"),
    ],
)
def test_moments_that_cannot_be_used_are_refused(
    sdxl: str, tmp_path: Path, settings: dict[str, Any], match: str
) -> None:
    folder = Path(shutil.copytree(sdxl, tmp_path / "moments"))
    change(folder, "vae/config.json", **settings)
    refused(folder, match)


def test_an_sdxl_refiner_is_refused_by_name(sdxl: str, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(sdxl, tmp_path / "refiner"))
    change(folder, "unet/config.json", projection_class_embeddings_input_dim=5 * 8 + 16)
    refused(folder, "not its refiner")


@pytest.mark.parametrize(("limit", "length"), [(None, 44), (1000, 44), (30, 30)])
def test_a_tokenizer_reads_as_much_as_its_encoder(
    base: Path, limit: int | None, length: int
) -> None:
    change(base, "tokenizer/tokenizer_config.json", model_max_length=limit)
    pipe = load_pipeline(str(base))
    assert encode_prompts(pipe, ["a red ball " * 40]).text_BLD.shape[1] == length


def test_tokenizers_of_other_lengths_do_not_go_together(sdxl: str, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(sdxl, tmp_path / "lengths"))
    change(folder, "tokenizer_2/tokenizer_config.json", model_max_length=30)
    refused(folder, "read 44 and 30 tokens")


def test_tokens_beyond_the_embeddings_are_refused(base: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(base / "tokenizer", trust_remote_code=False)
    tokenizer.add_tokens(["<my-style>"])
    tokenizer.save_pretrained(base / "tokenizer")
    refused(base, "has 769 embeddings in its text_encoder, and its tokenizer 770 tokens")
    encoder = CLIPTextModel.from_pretrained(base / "text_encoder")
    encoder.resize_token_embeddings(770)
    encoder.save_pretrained(base / "text_encoder")
    pipe = load_pipeline(str(base))
    assert encode_prompts(pipe, ["<my-style> ball"]).text_BLD.isfinite().all()


def test_parts_that_look_at_images_are_left_alone(base: Path) -> None:
    change(
        base,
        "model_index.json",
        safety_checker=["stable_diffusion", "StableDiffusionSafetyChecker"],
        feature_extractor=["transformers", "CLIPImageProcessor"],
        image_encoder=["transformers", "CLIPVisionModelWithProjection"],
        requires_safety_checker=True,
    )
    pipe = load_pipeline(str(base))
    assert pipe.safety_checker is None
    assert pipe.image_encoder is None
