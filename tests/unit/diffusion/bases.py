"""Small bases for the tests of opening: written in the ways that people have them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, CLIPTextModel

from boig_core.diffusion.pipeline import latent_shape, load_pipeline
from boig_core.errors import InputError
from boig_core.models import resolve_model

PROMPTS = ["a red ball", "a blue star at left"]
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
SCHEDULER = "scheduler/scheduler_config.json"


def make_parts() -> dict[str, Any]:
    """A random Stable Diffusion 1.x with a full autoencoder, around the shipped text encoder."""
    shipped = Path(resolve_model("package:tiny-sd"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            block_out_channels=(8, 8, 8),
            norm_num_groups=4,
            sample_size=32,
        )
    return {
        "vae": vae,
        "unet": small_unet(),
        "text_encoder": CLIPTextModel.from_pretrained(shipped / "text_encoder").float(),
        "tokenizer": AutoTokenizer.from_pretrained(shipped / "tokenizer", trust_remote_code=False),
        "scheduler": DDIMScheduler(
            **BETAS, clip_sample=False, set_alpha_to_one=False, steps_offset=1
        ),
    }


def small_unet(**settings: Any) -> UNet2DConditionModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        plain = {
            "sample_size": 8,
            "block_out_channels": (16, 32),
            "layers_per_block": 1,
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
            "attention_head_dim": 4,
            "norm_num_groups": 8,
            "cross_attention_dim": 64,
        }
        return UNet2DConditionModel(**{**plain, **settings})


def save(parts: dict[str, Any], folder: Path, **others: Any) -> Path:
    pipe = StableDiffusionPipeline(
        **{**parts, **others},
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.save_pretrained(folder)
    return folder


def change(base: Path, file: str, **settings: Any) -> None:
    content = json.loads((base / file).read_text())
    (base / file).write_text(json.dumps({**content, **settings}))


def refused(ref: Path | str, match: str) -> None:
    with pytest.raises(InputError, match=match) as caught:
        load_pipeline(str(ref))
    assert "\n" not in str(caught.value)


def weights_of(pipe: Any) -> dict[str, torch.Tensor]:
    return {
        f"{name}.{key}": value
        for name in ("unet", "vae", "text_encoder")
        for key, value in getattr(pipe, name).state_dict().items()
    }


def start_of(pipe: Any) -> torch.Tensor:
    shape = (len(PROMPTS), *latent_shape(pipe))
    return torch.randn(shape, generator=torch.Generator().manual_seed(3))


def without(base: Path, file: str, beginning: str) -> None:
    weights = load_file(base / file)
    kept = {name: weight for name, weight in weights.items() if beginning not in name}
    assert len(kept) < len(weights)
    save_file(kept, base / file, {"format": "pt"})
