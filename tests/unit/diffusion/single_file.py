"""Stable Diffusion 1.x in one file, with the names of weights that web interfaces keep."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

_BLOCK = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_MIDDLE = {"resnets.0": "0", "attentions.0": "1", "resnets.1": "2"}
_AUTOENCODER = (
    (r"down_blocks\.(\d)\.resnets", r"down.\1.block"),
    (r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample"),
    (r"up_blocks\.(\d)\.resnets", r"up.\1.block"),
    (r"up_blocks\.(\d)\.upsamplers\.0", r"up.\1.upsample"),
    (r"mid_block\.resnets\.0", "mid.block_1"),
    (r"mid_block\.resnets\.1", "mid.block_2"),
    (r"mid_block\.attentions\.0", "mid.attn_1"),
    ("group_norm", "norm"),
    (r"to_(q|k|v)\.", r"\1."),
    (r"to_out\.0", "proj_out"),
    ("conv_shortcut", "nin_shortcut"),
    ("conv_norm_out", "norm_out"),
)


def save_single_file(pipe: Any, path: Path, marks: tuple[str, ...] = ()) -> None:
    """Write a pipeline of one layer per block and an AutoencoderKL as one file.

    Args:
        pipe: the pipeline.
        path: of the file.
        marks: names of empty tensors beside the weights.
    """
    levels = len(pipe.vae.config.block_out_channels)
    weights = {
        **{f"model.diffusion_model.{_of_unet(key)}": value for key, value in _state(pipe.unet)},
        **{
            f"first_stage_model.{_of_autoencoder(key, levels)}": value
            for key, value in _state(pipe.vae)
        },
        **{
            f"cond_stage_model.transformer.text_model.{key.removeprefix('text_model.')}": value
            for key, value in _state(pipe.text_encoder)
        },
        **{mark: torch.zeros(0) for mark in marks},
    }
    save_file({name: weight.contiguous().clone() for name, weight in weights.items()}, path)


def _state(part: Any) -> Any:
    state: Mapping[str, torch.Tensor] = part.state_dict()
    return state.items()


def _of_unet(key: str) -> str:
    for name, other in _ENDS.items():
        if key.startswith(f"{name}."):
            return other + key.removeprefix(name)
    place, _, inner = _place(key)
    for name, other in _BLOCK.items():
        inner = re.sub(rf"^{name}\.", f"{other}.", inner)
    return f"{place}.{inner}"


def _place(key: str) -> tuple[str, str, str]:
    """Where a weight of a block stands in the numbering of one layer per block, its kind, and the
    rest of its name."""
    if key.startswith("mid_block."):
        _, kind, number, inner = key.split(".", 3)
        return f"middle_block.{_MIDDLE[f'{kind}.{number}']}", kind, inner
    side, level, kind, number, inner = key.split(".", 4)
    at, layer = int(level), int(number)
    if side == "down_blocks":
        if kind == "downsamplers":
            return f"input_blocks.{2 * at + 2}.0", kind, inner.replace("conv", "op")
        return f"input_blocks.{2 * at + 1}.{int(kind == 'attentions')}", kind, inner
    if kind == "upsamplers":
        return f"output_blocks.{2 * at + 1}.2", kind, inner
    return f"output_blocks.{2 * at + layer}.{int(kind == 'attentions')}", kind, inner


def _of_autoencoder(key: str, levels: int) -> str:
    key = re.sub(
        r"decoder\.up_blocks\.(\d)",
        lambda match: f"decoder.up_blocks.{levels - 1 - int(match[1])}",
        key,
    )
    for pattern, other in _AUTOENCODER:
        key = re.sub(pattern, other, key)
    return key
