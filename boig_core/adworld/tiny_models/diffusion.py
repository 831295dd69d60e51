"""Train a tiny Stable Diffusion: an autoencoder, then a U-Net together with CLIP's text half.

The parts are ordinary diffusers classes and the result an ordinary `StableDiffusionPipeline`; only
sizes and schedules are ours. Sampling for reinforcement learning is `boig_core.diffusion`'s. Shape
letters: N scenes, K captions, L tokens, B batch, T timesteps, C channels, H height, W width.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import torch
from diffusers import AutoencoderTiny, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import nn
from torch.nn import functional

from boig_core.adworld.tiny_models.clip import TEXT_WIDTH, to_pixels
from boig_core.adworld.tiny_models.data import SIDE, TrainingSet, tokenize

LATENT_SIDE: Final = SIDE // 4
_LATENT_NOISE: Final = 0.03
_VAE_BATCH, _VAE_RATE = 32, 2e-3
_BATCH, _RATE = 48, 1.5e-3
_MIN_SNR: Final = 5.0
_UNNAMED_SHARE: Final = 0.12
_EMA_DECAY: Final = 0.998


def build_vae() -> AutoencoderTiny:
    """An untrained autoencoder from (3, 32, 32) to (4, 8, 8), about 0.26 M parameters.

    No blocks at full resolution: they cost most of a step and taught little.
    """
    return AutoencoderTiny(
        encoder_block_out_channels=(32, 32, 32),
        decoder_block_out_channels=(32, 32, 32),
        num_encoder_blocks=(0, 2, 2),
        num_decoder_blocks=(2, 2, 0),
    )


def train_vae(
    vae: AutoencoderTiny, data: TrainingSet, steps: int, seed: int, advance: Callable[[str], None]
) -> None:
    """Train in place on the squared pixel error, with latents held near zero mean and unit spread.

    The decoder sees slightly noisy latents, so that it forgives what a sampler leaves.
    ``scaling_factor`` is set from the data at the end.
    """
    rng, noise = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    vae.to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(vae.parameters(), lr=_VAE_RATE, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, _VAE_RATE, total_steps=steps, pct_start=0.1
    )
    for _ in range(steps):
        pixels_BCHW = to_pixels(
            data.images_NHWC[rng.integers(len(data.scenes), size=_VAE_BATCH)]
        ).to(memory_format=torch.channels_last)
        latents_BCHW = vae.encode(pixels_BCHW).latents
        spread_C, mean_C = torch.std_mean(latents_BCHW, dim=(0, 2, 3))
        noisy_BCHW = latents_BCHW + _LATENT_NOISE * torch.randn(latents_BCHW.shape, generator=noise)
        error = functional.mse_loss(vae.decode(noisy_BCHW).sample, pixels_BCHW)
        # The scaling factor mends one spread for all channels afterwards. It can mend no mean and
        # no channel that differs from the others, so those are held here.
        loss = error + 0.01 * (mean_C.square().mean() + (spread_C - 1).square().mean())
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        advance(f"PSNR {psnr(error):.1f}")
    vae.eval()
    vae.register_to_config(scaling_factor=round(1 / float(encode(vae, data, limit=2000).std()), 4))


def psnr(error: torch.Tensor) -> float:
    """Decibels of a mean squared error on pixels in [-1, 1]."""
    return float(10 * torch.log10(4 / error.detach()))


@torch.no_grad()
def encode(vae: AutoencoderTiny, data: TrainingSet, limit: int | None = None) -> torch.Tensor:
    """Unscaled latents ``latents_NCHW`` of the first ``limit`` images."""
    images_NHWC = data.images_NHWC[:limit]
    return torch.cat(
        [
            vae.encode(to_pixels(images_NHWC[i : i + 256])).latents
            for i in range(0, len(images_NHWC), 256)
        ]
    ).contiguous()


@torch.no_grad()
def measure_vae(vae: AutoencoderTiny, data: TrainingSet) -> float:
    """PSNR in decibels of encoding and decoding held-out scenes."""
    decoded_NCHW = torch.cat(
        [vae.decode(latents_BCHW).sample for latents_BCHW in torch.split(encode(vae, data), 256)]
    )
    return round(
        psnr(functional.mse_loss(decoded_NCHW.clamp(-1, 1), to_pixels(data.images_NHWC))), 2
    )


def build_unet() -> UNet2DConditionModel:
    """An untrained U-Net on (4, 8, 8) latents, about 2.2 M parameters.

    Cross-attention stands at 4 x 4 alone: it tells the five places apart there, at a third less
    time a step than at 8 x 8 too.
    """
    return UNet2DConditionModel(
        sample_size=LATENT_SIDE,
        block_out_channels=(48, 96),
        layers_per_block=1,
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,
        norm_num_groups=16,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    )


def build_scheduler() -> DDIMScheduler:
    """Stable Diffusion's own noise schedule; trailing timesteps, so that few-step sampling starts
    from pure noise, as it was trained to."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        timestep_spacing="trailing",
    )


def train_unet(
    unet: UNet2DConditionModel,
    text_encoder: nn.Module,
    latents_NCHW: torch.Tensor,
    tokenizer: Any,
    data: TrainingSet,
    steps: int,
    seed: int,
    advance: Callable[[str], None],
) -> None:
    """Train both in place to predict the noise in scaled ``latents_NCHW``; they end as the moving
    average of their weights.

    The loss weight is min-SNR: min(SNR, 5) / SNR. One caption in eight is empty, for
    classifier-free guidance.
    """
    rng, noise = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    ids_NKL, empty_L = (
        torch.from_numpy(tokenize(tokenizer, data.captions)),
        torch.from_numpy(tokenize(tokenizer, [[""]])[0, 0]),
    )
    scheduler = build_scheduler()
    snr_T = scheduler.alphas_cumprod / (1 - scheduler.alphas_cumprod)
    trained = nn.ModuleList([unet, text_encoder]).train()
    average = copy.deepcopy(trained)
    optimizer = torch.optim.AdamW(trained.parameters(), lr=_RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, _RATE, total_steps=steps, pct_start=0.05
    )
    shown = 1.0
    for step in range(steps):
        scenes_B = torch.from_numpy(rng.integers(len(latents_NCHW), size=_BATCH))
        ids_BL = ids_NKL[scenes_B, torch.from_numpy(rng.integers(ids_NKL.shape[1], size=_BATCH))]
        ids_BL = torch.where(
            torch.from_numpy(rng.random((_BATCH, 1)) < _UNNAMED_SHARE), empty_L, ids_BL
        )
        # From a generator of its own, like the choice of scenes: what else draws random numbers
        # changes no step.
        noise_BCHW = torch.randn((_BATCH, *latents_NCHW.shape[1:]), generator=noise)
        steps_B = torch.from_numpy(rng.integers(len(snr_T), size=_BATCH))
        noisy_BCHW = scheduler.add_noise(latents_NCHW[scenes_B], noise_BCHW, steps_B)
        predicted_BCHW = unet(noisy_BCHW, steps_B, text_encoder(ids_BL)[0]).sample
        weight_B = snr_T[steps_B].clamp(max=_MIN_SNR) / snr_T[steps_B]
        loss = ((predicted_BCHW - noise_BCHW).square().mean(dim=(1, 2, 3)) * weight_B).mean()
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(trained.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        # The average forgets fast at first: it would otherwise keep the untrained weights for
        # hundreds of steps.
        _blend(average, trained, min(_EMA_DECAY, (1 + step) / (10 + step)))
        # Smoothed for people: the loss of one batch varies with the timesteps that it drew.
        shown += 0.02 * (loss.item() - shown)
        advance(f"loss {shown:.3f}")
    trained.load_state_dict(average.state_dict())
    trained.eval()


@torch.no_grad()
def _blend(average: nn.Module, trained: nn.Module, decay: float) -> None:
    torch._foreach_lerp_(list(average.parameters()), list(trained.parameters()), 1 - decay)


def assemble(
    vae: AutoencoderTiny, unet: UNet2DConditionModel, text_encoder: nn.Module, tokenizer: Any
) -> StableDiffusionPipeline:
    """The pipeline of the four parts, without a safety checker."""
    pipe = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe
