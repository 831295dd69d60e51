"""Deterministic sampling for evaluation: the same prompt and seed give the same start for every
model, so models compare in pairs.

Plain DDIM without noise between the steps. Leaves out log-probabilities (`rollout`) and measuring
the images (`boig_core.evaluation`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from boig_core.diffusion.ddim import ddim_step, predict, schedule
from boig_core.diffusion.pipeline import decode, encode_prompts, latent_shape


def sample_images(
    pipe: Any,
    prompts: Sequence[str],
    seeds: Sequence[int],
    steps: int,
    guidance: float,
    batch: int = 32,
) -> NDArray[np.uint8]:
    """Sample one image per prompt and seed.

    Args:
        pipe: from `load_pipeline`.
        prompts: texts.
        seeds: seed of each image's starting noise, drawn on the CPU.
        steps: denoising steps.
        guidance: classifier-free guidance; 1 for none.
        batch: images at a time; the last batch is padded, since another batch size changes the last
            bits.

    Returns:
        uint8 RGB ``images_BHWC``, in the order of the prompts.
    """
    if len(prompts) != len(seeds):
        raise ValueError(f"{len(prompts)} prompts and {len(seeds)} seeds")
    parts = []
    for start in range(0, len(prompts), batch):
        texts, keys = list(prompts[start : start + batch]), list(seeds[start : start + batch])
        count = len(texts)
        texts += [""] * (batch - count)
        keys += [0] * (batch - count)
        noise = [
            torch.randn(latent_shape(pipe), generator=torch.Generator("cpu").manual_seed(key))
            for key in keys
        ]
        parts.append(
            decode(pipe, sample_latents(pipe, texts, torch.stack(noise), steps, guidance))[:count]
        )
    if not parts:
        raise ValueError("no prompts to sample")
    return np.concatenate(parts)


@torch.no_grad()
def sample_latents(
    pipe: Any, prompts: Sequence[str], start_BCHW: torch.Tensor, steps: int, guidance: float
) -> torch.Tensor:
    """Scaled latents ``latents_BCHW`` of one image per prompt, from the noise that is given."""
    timesteps, timesteps_prev, alphas_T1 = schedule(pipe, steps)
    prediction = pipe.scheduler.config.prediction_type
    condition, blank = encode_prompts(pipe, prompts), encode_prompts(pipe, [None])
    latents_BCHW = start_BCHW.to(pipe.unet.device)
    for t, t_prev in zip(timesteps, timesteps_prev, strict=True):
        pred_BCHW = predict(pipe.unet, latents_BCHW, t, condition, blank, guidance)
        latents_BCHW, _ = ddim_step(
            pred_BCHW, latents_BCHW, t, t_prev, alphas_T1, 0.0, prediction=prediction
        )
    return latents_BCHW
