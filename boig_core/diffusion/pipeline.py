"""Open a Stable Diffusion model, and move between text, latents and pixels with it.

Knows what parts the two families of `opening` hold; the rest of this room samples, scores and
trains on top of these few functions, the same for both. Sampling with log-probabilities is
`ddim`'s; nothing here draws noise. Leaves out: models that are trained by flow matching. Shape
letters: B batch, L tokens, D text width, C channels, H height, W width.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from boig_core.config import SD
from boig_core.diffusion.opening import Dtype, Pipeline, open_pipeline
from boig_core.errors import RecipeError
from boig_core.vocabulary import require_whole_characters

_AT_ONCE: Final = 2**20
"""Pixels that the autoencoder sees at a time: it holds some thousand bytes of activations for
each."""
_REMEMBERED: Final = 256
"""Prompts whose conditions are kept: SDXL's take 0.3 MB each in half precision."""


@dataclass(frozen=True)
class Condition:
    """What a UNet is told beside latents and time, one row per image.

    Attributes:
        text_BLD: text embeddings, in the precision of the UNet.
        added: what SDXL is told besides: ``text_embeds``, the second text encoder's pooled
            embeddings, and ``time_ids``, six numbers of pixels a row: original height and width,
            top and left of the crop, height and width to paint. Empty for the other family.
    """

    text_BLD: torch.Tensor
    added: Mapping[str, torch.Tensor] = field(default_factory=dict)

    @property
    def inputs(self) -> dict[str, Any]:
        """The same as keyword arguments of a diffusers UNet."""
        added = {"added_cond_kwargs": dict(self.added)} if self.added else {}
        return {"encoder_hidden_states": self.text_BLD, **added}

    def after(self, blank: Condition) -> Condition:
        """One row of ``blank`` for each row here, then the rows here: what guidance takes."""

        def both(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
            return torch.cat([first.expand_as(second), second])

        return Condition(
            both(blank.text_BLD, self.text_BLD),
            {name: both(blank.added[name], rows) for name, rows in self.added.items()},
        )


def load_pipeline(ref: str, dtype: Dtype = "float32") -> Pipeline:
    """Open a Stable Diffusion pipeline, ready to sample and to be trained: with a DDIM scheduler
    and without a safety checker.

    Args:
        ref: as of `open_pipeline`.
        dtype: of UNet and text encoders; the autoencoder is always float32.

    Raises:
        InputError: nothing that boig can train stands at ``ref``.
        EndpointError: the hub does not answer.
    """
    pipe = open_pipeline(ref, dtype)
    pipe.set_progress_bar_config(disable=True)
    for part in (pipe.unet, pipe.vae, *text_encoders(pipe)):
        part.eval()
    return pipe


def load_base(sd: SD) -> Pipeline:
    """The recipe's base model in the recipe's precision; it saves activations where the recipe says
    so, which sampling does not notice.

    Raises:
        InputError: from `load_pipeline`.
        RecipeError: the recipe's images have another side than the model's.
    """
    pipe = load_pipeline(sd.base, sd.dtype)
    if (side := image_side(pipe)) != sd.resolution:
        raise RecipeError(
            f"sd.resolution = {sd.resolution}",
            f"must be {side}, the side of the images of {sd.base}",
            "change one of the two",
        )
    if sd.gradient_checkpointing:
        pipe.unet.enable_gradient_checkpointing()
    return pipe


def text_encoders(pipe: Any) -> list[Any]:
    """The text encoders of a pipeline."""
    return [
        pipe.components[name]
        for name in ("text_encoder", "text_encoder_2")
        if name in pipe.components
    ]


@torch.no_grad()
def encode_prompts(pipe: Any, prompts: Sequence[str | None]) -> Condition:
    """What the UNet is told of prompts, padded or truncated to the tokenizer's length, for images
    of the model's own side, not cropped.

    Args:
        pipe: from `load_pipeline`.
        prompts: texts; None for no prompt, which guidance leads away from: the empty text, or zeros
            where the model's ``force_zeros_for_empty_prompt`` says so.

    Raises:
        InputError: a prompt holds half a character.
    """
    texts = [prompt or "" for prompt in prompts]
    require_whole_characters(texts)
    first = _embed(pipe.tokenizer, pipe.text_encoder, texts)
    if "text_encoder_2" not in pipe.components:
        return Condition(first.last_hidden_state)
    second = _embed(pipe.tokenizer_2, pipe.text_encoder_2, texts)
    # SDXL takes the last layer but one of both encoders, and the second one's pooled output alone.
    text_BLD, pooled_BP = (
        torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=-1),
        second.text_embeds,
    )
    if pipe.config.force_zeros_for_empty_prompt:
        without = [row for row, prompt in enumerate(prompts) if prompt is None]
        text_BLD[without], pooled_BP[without] = 0.0, 0.0
    side = float(image_side(pipe))
    sizes_B6 = torch.tensor([side, side, 0.0, 0.0, side, side], device=text_BLD.device).expand(
        len(texts), 6
    )
    return Condition(text_BLD, {"text_embeds": pooled_BP, "time_ids": sizes_B6})


class Prompts:
    """What the UNet is told of prompts, each encoded once and by itself: text encoders are frozen,
    and a prompt has the same bits anywhere.

    What is kept from `torch.inference_mode` cannot be trained with: a sampler and a learner have
    one each.

    Args:
        pipe: from `load_pipeline`.
    """

    def __init__(self, pipe: Any) -> None:
        # The cache belongs to the object and goes with it. On a decorated method it would belong to
        # the class and keep every pipeline alive.
        self._row = functools.lru_cache(_REMEMBERED)(lambda prompt: encode_prompts(pipe, [prompt]))

    def __call__(self, prompts: Sequence[str | None]) -> Condition:
        """As `encode_prompts`."""
        rows = [self._row(prompt) for prompt in prompts]
        added = {name: torch.cat([row.added[name] for row in rows]) for name in rows[0].added}
        return Condition(torch.cat([row.text_BLD for row in rows]), added)


def _embed(tokenizer: Any, encoder: Any, texts: list[str]) -> Any:
    tokens = tokenizer(
        texts,
        # The name of a mark in a post is text: else it would end the prompt there.
        split_special_tokens=True,
        padding="max_length",
        max_length=tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    )
    return encoder(tokens.input_ids.to(encoder.device), output_hidden_states=True)


@torch.no_grad()
def decode(pipe: Any, latents_BCHW: torch.Tensor) -> NDArray[np.uint8]:
    """Pixels of scaled latents: uint8 ``images_BHWC`` RGB, on the CPU."""
    mean_C11, std_C11 = _moments(pipe)
    scaled_BCHW = latents_BCHW.to(pipe.vae.device, pipe.vae.dtype) / pipe.vae.config.scaling_factor
    scaled_BCHW = scaled_BCHW * std_C11 + mean_C11
    images_BCHW = torch.cat(
        [
            pipe.vae.decode(part_BCHW).sample
            for part_BCHW in scaled_BCHW.split(_at_once(image_side(pipe)))
        ]
    )
    levels_BHWC = (images_BCHW.float() * 127.5 + 127.5).round().clamp(0, 255).permute(0, 2, 3, 1)
    pixels_BHWC: NDArray[np.uint8] = levels_BHWC.to(torch.uint8).cpu().numpy()
    return pixels_BHWC


@torch.no_grad()
def encode_images(pipe: Any, images_BHWC: NDArray[np.uint8]) -> torch.Tensor:
    """Scaled latents ``latents_BCHW`` of uint8 RGB images of the pipeline's own sides; the mode
    where the encoder gives a distribution."""
    step, parts = _at_once(images_BHWC.shape[1]), []
    for start in range(0, len(images_BHWC), step):
        levels_BHWC = torch.from_numpy(np.ascontiguousarray(images_BHWC[start : start + step]))
        encoded = pipe.vae.encode(
            levels_BHWC.permute(0, 3, 1, 2).to(pipe.vae.device, pipe.vae.dtype) / 127.5 - 1
        )
        parts.append(
            encoded.latent_dist.mode() if hasattr(encoded, "latent_dist") else encoded.latents
        )
    mean_C11, std_C11 = _moments(pipe)
    latents_BCHW: torch.Tensor = (
        (torch.cat(parts) - mean_C11) / std_C11 * pipe.vae.config.scaling_factor
    )
    return latents_BCHW


def _moments(pipe: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and spread of the autoencoder's latents by channel; 0 and 1 where it names none."""
    moments = (
        getattr(pipe.vae.config, name, None) or [neutral]
        for name, neutral in (("latents_mean", 0.0), ("latents_std", 1.0))
    )
    mean_C11, std_C11 = (
        torch.tensor(moment, device=pipe.vae.device, dtype=pipe.vae.dtype).reshape(-1, 1, 1)
        for moment in moments
    )
    return mean_C11, std_C11


def _at_once(side: int) -> int:
    return max(1, _AT_ONCE // side**2)


def latent_shape(pipe: Any) -> tuple[int, int, int]:
    """Channels, height and width of one image's latents."""
    size = int(pipe.unet.config.sample_size)
    return int(pipe.unet.config.in_channels), size, size


def image_side(pipe: Any) -> int:
    """Height and width of the images, in pixels."""
    return int(pipe.unet.config.sample_size * pipe.vae_scale_factor)
