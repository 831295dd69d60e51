"""DDPO written a second time: plain torch from the papers' formulas, sharing nothing with boig."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from torch.distributions import Normal

from boig_core.config import Recipe
from boig_core.diffusion.learner import Learner
from boig_core.diffusion.lora import read_adapter
from boig_core.diffusion.rollout import LocalRollouts, Sampler, epoch_chunks
from boig_core.diffusion.trajectory import Trajectory, concatenate
from boig_core.models import resolve_model
from boig_core.training.checkpoint import Checkpoints
from boig_core.vocabulary import Sample

AGREEMENT = 1e-5
RATIO_MEAN = 2e-6
"""float32, CPU, mean over latent dimensions: what another composition of the batch may change in a
ratio."""
RATIO_SUM = 256 * RATIO_MEAN
"""The same for the sum: a log-ratio grows by the number of latent dimensions, here 4 x 8 x 8."""
RATIO_BF16 = 1e-4
"""The same for the mean in bfloat16 in sampling and scoring alike, its LoRA in float32: a tenth of
the default clip, which the start-up check asks for. The CPU it was measured on gave 0."""


def open_reference() -> Any:
    folder = resolve_model("package:tiny-sd")
    return StableDiffusionPipeline.from_pretrained(
        folder, safety_checker=None, requires_safety_checker=False
    ).to(dtype=torch.float32)


def reference_policy(
    pipe: Any, t: int, t_prev: int, x: Any, texts: list[str], eta: float, guidance: float
) -> Normal:
    config = pipe.scheduler.config
    betas = (
        np.linspace(config.beta_start**0.5, config.beta_end**0.5, config.num_train_timesteps) ** 2
    )
    bars = np.cumprod(1 - betas)
    a, a_prev = float(bars[t]), float(bars[t_prev])  # a trained step is never the last one
    with torch.no_grad():
        tokens = [
            pipe.tokenizer(
                text,
                padding="max_length",
                max_length=pipe.tokenizer.model_max_length,
                truncation=True,
            ).input_ids
            for text in [*texts, ""]
        ]
        embedded = pipe.text_encoder(torch.tensor(tokens)).last_hidden_state
    x = torch.as_tensor(x)
    eps = pipe.unet(x, t, encoder_hidden_states=embedded[:-1]).sample
    if guidance != 1:
        blank = pipe.unet(
            x, t, encoder_hidden_states=embedded[-1:].expand(len(texts), -1, -1)
        ).sample
        eps = (1 - guidance) * blank + guidance * eps
    sigma = eta * math.sqrt((1 - a_prev) / (1 - a)) * math.sqrt(1 - a / a_prev)
    mean = (
        math.sqrt(a_prev / a) * x
        + (math.sqrt(1 - a_prev - sigma**2) - math.sqrt(a_prev * (1 - a) / a)) * eps
    )
    return Normal(mean, sigma)


def reference_logprobs(
    pipe: Any,
    t: int,
    t_prev: int,
    x: Any,
    x_prev: Any,
    texts: list[str],
    eta: float,
    guidance: float,
) -> torch.Tensor:
    return (
        reference_policy(pipe, t, t_prev, x, texts, eta, guidance)
        .log_prob(torch.as_tensor(x_prev))
        .flatten(1)
        .mean(1)
    )


def set_ddpo(recipe: Recipe, **settings: Any) -> Recipe:
    return recipe.model_copy(update={"ddpo": recipe.ddpo.model_copy(update=settings)})


def roll_out(recipe: Recipe, samples: list[Sample]) -> tuple[Sampler, Trajectory]:
    sampler = Sampler(recipe)
    adapter = read_adapter(sampler.pipe.unet, 0)
    return sampler, concatenate(
        [
            sampler.rollout(adapter, chunk)
            for chunk in epoch_chunks(recipe.ddpo, samples, recipe.seed, 0)
        ]
    )


def make_learner(
    recipe: Recipe, samples: list[Sample], sampler: Sampler, scorer: Any, folder: Path
) -> Learner:
    return Learner(
        recipe,
        samples,
        LocalRollouts(sampler, scorer),
        Checkpoints(str(folder), 1),
        lambda *_: None,
    )


def reference_draw(
    recipe: Recipe, index: int, draw: int, shape: tuple[int, ...]
) -> tuple[torch.Tensor, int]:
    """Noise, then a place in this draw's share of the span: the stream of (9, seed, epoch 0, index,
    draw)."""
    rng = np.random.default_rng((9, recipe.seed, 0, index, draw))
    noise = torch.from_numpy(rng.standard_normal(shape, dtype=np.float32))
    return noise, 999 - math.floor(
        1000 * recipe.ddpo.window_span * (draw + rng.random()) / recipe.ddpo.draws
    )


def reference_predictions(
    pipe: Any, whole: Trajectory, recipe: Recipe, k: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """What a UNet says of every image's noise in draw k, one image at a time, and the noise."""
    config = pipe.scheduler.config
    bars = np.cumprod(
        1
        - np.linspace(config.beta_start**0.5, config.beta_end**0.5, config.num_train_timesteps) ** 2
    )
    answers, noises = [], []
    for text, index, clean in zip(
        whole.prompts_B,
        whole.indices_B.tolist(),
        torch.from_numpy(whole.latents_BSCHW[:, -1]),
        strict=True,
    ):
        noise, t = reference_draw(recipe, index, k, tuple(clean.shape))
        noisy = math.sqrt(bars[t]) * clean + math.sqrt(1 - bars[t]) * noise
        with torch.no_grad():
            tokens = pipe.tokenizer(
                text,
                padding="max_length",
                max_length=pipe.tokenizer.model_max_length,
                truncation=True,
            ).input_ids
            embedded = pipe.text_encoder(torch.tensor([tokens])).last_hidden_state
        answers.append(pipe.unet(noisy[None], t, encoder_hidden_states=embedded).sample[0])
        noises.append(noise)
    return torch.stack(answers), torch.stack(noises)
