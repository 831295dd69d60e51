"""Open a Stable Diffusion model, and move between text, latents and pixels with it.

The rest of this room samples, scores and trains on top of these few functions, so that no other file needs to know how a pipeline
stores its parts. Sampling with log-probabilities is `ddim`'s; nothing here draws noise. Shape letters: B batch, L tokens, D text width,
C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from numpy.typing import NDArray

from boig_core.errors import InputError
from boig_core.models import resolve_model


def load_pipeline(ref: str, dtype: torch.dtype = torch.float32) -> StableDiffusionPipeline:
    """Open a Stable Diffusion pipeline with a DDIM scheduler and without a safety checker.

    Args:
        ref: hub id, local folder, or ``package:tiny-sd`` (`resolve_model`).
        dtype: of all weights; float32 on CPU.

    Raises:
        InputError: nothing that opens as Stable Diffusion stands at ``ref``.
    """
    location = resolve_model(ref)
    try:
        pipe = StableDiffusionPipeline.from_pretrained(location, torch_dtype=dtype, safety_checker=None, requires_safety_checker=False)
    except (OSError, ValueError, TypeError) as error:
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise InputError(ref, f"does not open as Stable Diffusion ({reason})", "give a diffusers folder with a model_index.json") from error
    # Other schedulers share the training noise schedule; clipping x0 in latent space would change the policy's mean.
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, clip_sample=False)
    pipe.set_progress_bar_config(disable=True)
    for part in (pipe.unet, pipe.vae, pipe.text_encoder):
        part.eval()
    return pipe


def encode_prompts(pipe: Any, prompts: Sequence[str]) -> torch.Tensor:
    """Text embeddings ``embeddings_BLD``, padded or truncated to the tokenizer's length; the empty prompt is the unconditional one.

    Gradients reach the text encoder unless the caller forbids them.
    """
    tokens = pipe.tokenizer(
        list(prompts), padding="max_length", max_length=pipe.tokenizer.model_max_length, truncation=True, return_tensors="pt"
    )
    embeddings_BLD: torch.Tensor = pipe.text_encoder(tokens.input_ids.to(pipe.text_encoder.device))[0]
    return embeddings_BLD


@torch.no_grad()
def decode(pipe: Any, latents_BCHW: torch.Tensor) -> NDArray[np.uint8]:
    """Pixels of scaled latents: uint8 ``images_BHWC`` RGB, on the CPU."""
    scaled_BCHW = latents_BCHW.to(pipe.vae.device, pipe.vae.dtype) / pipe.vae.config.scaling_factor
    images_BCHW = pipe.vae.decode(scaled_BCHW).sample
    levels_BHWC = (images_BCHW.float() * 127.5 + 127.5).round().clamp(0, 255).permute(0, 2, 3, 1)
    pixels_BHWC: NDArray[np.uint8] = levels_BHWC.to(torch.uint8).cpu().numpy()
    return pixels_BHWC


@torch.no_grad()
def encode_images(pipe: Any, images_BHWC: NDArray[np.uint8]) -> torch.Tensor:
    """Scaled latents ``latents_BCHW`` of uint8 RGB images of the pipeline's own sides; the mode where the encoder gives a distribution."""
    images_BCHW = torch.from_numpy(np.ascontiguousarray(images_BHWC)).permute(0, 3, 1, 2).to(pipe.vae.device, pipe.vae.dtype) / 127.5 - 1
    encoded = pipe.vae.encode(images_BCHW)
    unscaled_BCHW = encoded.latent_dist.mode() if hasattr(encoded, "latent_dist") else encoded.latents
    latents_BCHW: torch.Tensor = unscaled_BCHW * pipe.vae.config.scaling_factor
    return latents_BCHW


def latent_shape(pipe: Any) -> tuple[int, int, int]:
    """Channels, height and width of one image's latents."""
    size = int(pipe.unet.config.sample_size)
    return int(pipe.unet.config.in_channels), size, size
