"""The shipped tiny model, and a random SDXL, under a recipe that is small enough for a test."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from numpy.typing import NDArray
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from boig_core.config import Recipe, load_recipe
from boig_core.models import resolve_model
from boig_core.vocabulary import Sample

BASE = "package:tiny-sd"
SMALL = (
    "epochs=2",
    "prompts=4",
    "images_per_prompt=2",
    "sampling_steps=5",
    "window=2",
    "chunk=4",
    "micro_batch=3",
    "updates=2",
    "lora_rank=4",
)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def recipe() -> Recipe:
    return load_recipe("tiny", [f"sd.base={BASE}", *(f"ddpo.{setting}" for setting in SMALL)])


@pytest.fixture
def samples() -> list[Sample]:
    colors = ("red", "green", "blue", "yellow", "white", "black", "pink")
    return [
        Sample(
            f"s{i}",
            f"p{i}",
            "a",
            "c",
            "2020-01-01T00:00:00Z",
            f"a {color} ball",
            (),
            50,
            95,
            "high",
            "train",
            "0" * 64,
            128,
            128,
        )
        for i, color in enumerate(colors)
    ]


class Warmth:
    """A reward that the pixels alone decide: red minus blue."""

    def score(self, images: NDArray[np.uint8], samples: Sequence[Sample]) -> NDArray[np.float64]:
        return (images[..., 0].astype(np.float64) - images[..., 2]).mean(axis=(1, 2)) / 255


@pytest.fixture
def warmth() -> Warmth:
    return Warmth()


@pytest.fixture(scope="session")
def sdxl(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of a random SDXL for images of 32 x 32: the parts and settings of the published one,
    at a few thousand weights."""
    folder = tmp_path_factory.mktemp("sdxl")
    tokenizer = CLIPTokenizer.from_pretrained(Path(resolve_model("package:tiny-sd")) / "tokenizer")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        StableDiffusionXLPipeline(
            vae=AutoencoderKL(
                down_block_types=("DownEncoderBlock2D",) * 3,
                up_block_types=("UpDecoderBlock2D",) * 3,
                block_out_channels=(8, 8, 8),
                norm_num_groups=4,
                sample_size=32,
                scaling_factor=0.13025,
                force_upcast=True,
            ),
            text_encoder=CLIPTextModel(text_config(tokenizer, 32)),
            text_encoder_2=CLIPTextModelWithProjection(text_config(tokenizer, 48)),
            tokenizer=tokenizer,
            tokenizer_2=tokenizer,
            unet=UNet2DConditionModel(
                sample_size=8,
                block_out_channels=(16, 32),
                layers_per_block=1,
                down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
                up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
                transformer_layers_per_block=(1, 2),
                attention_head_dim=(2, 4),
                norm_num_groups=8,
                cross_attention_dim=32 + 48,
                use_linear_projection=True,
                addition_embed_type="text_time",
                addition_time_embed_dim=8,
                projection_class_embeddings_input_dim=6 * 8 + 16,
            ),
            scheduler=EulerDiscreteScheduler(
                beta_start=0.00085,
                beta_end=0.012,
                beta_schedule="scaled_linear",
                steps_offset=1,
                timestep_spacing="leading",
            ),
            add_watermarker=False,
        ).save_pretrained(folder)
    return str(folder)


def text_config(tokenizer: CLIPTokenizer, width: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=tokenizer.model_max_length,
        projection_dim=16,
        hidden_act="gelu",
        initializer_factor=5.0,  # else random embeddings of different texts hardly differ
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
