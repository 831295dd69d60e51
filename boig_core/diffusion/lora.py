"""The trainable part of the UNet: a LoRA adapter or all weights, how it travels, and how it is
written out for deployment.

A policy is the base model, which every process opens by itself, plus an `Adapter`: the trainable
weights with a version and a checksum. Leaves out: optimizer state (see `boig_core.training`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from boig_core.diffusion.opening import Dtype
from boig_core.diffusion.pipeline import image_side, load_pipeline

TARGETS = ["to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2"]
"""Every linear part of the transformer blocks: attention alone moved backgrounds too slowly in the
tiny model."""
LORA_FILE: Final = "pytorch_lora_weights.safetensors"
"""The name that diffusers looks for in a folder."""


@dataclass(frozen=True)
class Adapter:
    """Trainable weights of a policy by parameter name.

    Attributes:
        version: number of the update that made it; 0 for the untrained policy.
        weights: float32 arrays.
        checksum: SHA-256 over names, shapes and bytes.
    """

    version: int
    weights: Mapping[str, NDArray[np.float32]]
    checksum: str

    def tensors(self) -> dict[str, torch.Tensor]:
        """The weights as tensors on the CPU."""
        return {name: torch.from_numpy(np.array(weight)) for name, weight in self.weights.items()}


def checksum(weights: Mapping[str, NDArray[np.float32]]) -> str:
    """SHA-256 over names, shapes and bytes, in the order of names."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(f"{name}{weights[name].shape}".encode())
        digest.update(np.ascontiguousarray(weights[name], dtype=np.float32).tobytes())
    return digest.hexdigest()


def make_trainable(unet: Any, rank: int | None, seed: int) -> None:
    """Freeze the UNet and add a LoRA of this rank, or make all its weights trainable when rank is
    None.

    The adapter starts as the identity, the same for every process with one seed. It is float32
    whatever the UNet is: steps of training are too small for bfloat16.
    """
    unet.requires_grad_(rank is None)
    if rank is None:
        return
    from peft import LoraConfig

    # The seed holds for the adapter alone: the CPU's generator goes on afterwards as before.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet.add_adapter(
            # PEFT scales an adapter by alpha / rank: alpha = rank keeps that at 1 for every rank.
            LoraConfig(
                r=rank, lora_alpha=rank, init_lora_weights="gaussian", target_modules=TARGETS
            )
        )
    for parameter in unet.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def engine_dtype(dtype: Dtype, rank: int | None) -> Dtype:
    """Precision of the engine that trains what `make_trainable` made trainable in a UNet of this
    dtype.

    An engine in bfloat16 would cast the adapter down; in float32 it leaves the frozen weights as
    they are.
    """
    return dtype if rank is None else "float32"


@contextmanager
def base_model(unet: Any) -> Iterator[None]:
    """The UNet of `make_trainable` computes as the frozen base model: its LoRA is switched off. For
    passes without a gradient."""
    # The frozen weights are the base itself, so no second UNet has to be held.
    unet.disable_adapters()
    try:
        yield
    finally:
        unet.enable_adapters()


@contextmanager
def other_weights(unet: Any, weights: Mapping[str, torch.Tensor]) -> Iterator[None]:
    """The UNet computes with these in place of its trainable weights; afterwards with its own
    again. For passes without a gradient."""
    parameters = {
        name: parameter for name, parameter in unet.named_parameters() if parameter.requires_grad
    }
    # Tensors are swapped and none is copied back, so the own weights return bit for bit. They are
    # whole, since no recipe of diffusion allows ZeRO 3.
    own = {name: parameter.data for name, parameter in parameters.items()}
    try:
        for name, parameter in parameters.items():
            parameter.data = weights[name].to(parameter)
        yield
    finally:
        for name, parameter in parameters.items():
            parameter.data = own[name]


def read_adapter(unet: Any, version: int) -> Adapter:
    """Copy of the trainable weights."""
    weights = {
        # On a CPU the array would share the parameter's memory, and the next update would change an
        # adapter that is still in use.
        name: p.detach().float().cpu().numpy().copy()
        for name, p in unet.named_parameters()
        if p.requires_grad
    }
    return Adapter(version, weights, checksum(weights))


@torch.no_grad()
def write_adapter(unet: Any, adapter: Adapter) -> None:
    """Put an adapter's weights into a UNet that was prepared by `make_trainable` in the same way.

    Raises:
        ValueError: the weights do not match their checksum, or belong to another shape of policy.
    """
    # Checked before anything is written: a policy of damaged weights would sample without an error.
    if checksum(adapter.weights) != adapter.checksum:
        raise ValueError(
            f"adapter version {adapter.version} does not match its checksum {adapter.checksum[:12]}"
        )
    parameters = {name: p for name, p in unet.named_parameters() if p.requires_grad}
    if parameters.keys() != adapter.weights.keys():
        odd = sorted(parameters.keys() ^ adapter.weights.keys())[0]
        raise ValueError(f"adapter and policy differ in {odd}")
    for name, weight in adapter.tensors().items():
        parameters[name].copy_(weight)


def open_policy(base: str, rank: int | None, seed: int, adapter: Adapter) -> Any:
    """Pipeline of the base model with a trained adapter in its UNet."""
    # In float32 whatever `sd.dtype` says: in bfloat16 the merge would round small steps away.
    pipe = load_pipeline(base)
    make_trainable(pipe.unet, rank, seed)
    write_adapter(pipe.unet, adapter)
    return pipe


def save_policy(pipe: Any, folder: Path, *, lora: bool) -> None:
    """Write a diffusers folder that `DiffusionPipeline.from_pretrained` opens as it is.

    Args:
        pipe: pipeline whose UNet is trained; its adapter is merged and gone afterwards.
        folder: new folder; its name is the adapter's title.
        lora: the UNet carries a LoRA: it is kept unmerged in ``lora/`` (see `write_lora`) and
            merged into the pipeline's UNet.
    """
    if lora:
        # Before the merge, which takes the adapter away.
        write_lora(pipe, folder / "lora", folder.name)
        merge(pipe.unet)
    pipe.save_pretrained(folder, safe_serialization=True)


def write_lora(pipe: Any, folder: Path, title: str) -> None:
    """Write the UNet's adapter as one safetensors file in the layout of kohya's trainer, which
    diffusers, ComfyUI and the web UIs load whole, on the base model.

    Args:
        pipe: pipeline whose UNet carries the adapter.
        folder: new folder.
        title: what programs show it as.
    """
    from diffusers.utils import convert_state_dict_to_kohya
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    layers = {f"unet.{name}": w for name, w in get_peft_model_state_dict(pipe.unet).items()}
    # Alpha is the rank (`make_trainable`), which every reader takes where a layer names none.
    weights = {
        name: weight.detach().cpu().contiguous()
        for name, weight in convert_state_dict_to_kohya(layers).items()
        if not name.endswith(".alpha")
    }
    rank = pipe.unet.peft_config["default"].r
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / LORA_FILE, metadata=_about(pipe, rank, title))


def _about(pipe: Any, rank: int, title: str) -> dict[str, str]:
    """What programs read of a LoRA's file: web UIs offer it for models of its own family alone."""
    by_v = pipe.scheduler.config.prediction_type == "v_prediction"
    # The width of OpenCLIP's texts, by which SD 2.x differs for whoever loads a LoRA.
    second = pipe.unet.config.cross_attention_dim == 1024
    if "text_encoder_2" in pipe.components:
        base, architecture = "sdxl_base_v1-0", "stable-diffusion-xl-v1-base"
    elif second:
        base = "sd_v2_v" if by_v else "sd_v2"
        architecture = "stable-diffusion-v2-768-v" if by_v else "stable-diffusion-v2-512"
    else:
        base, architecture = "sd_v1", "stable-diffusion-v1"
    side = image_side(pipe)
    return {
        "ss_base_model_version": base,
        "ss_v2": str(second),
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(rank),
        "ss_network_alpha": str(rank),
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": f"{architecture}/lora",
        "modelspec.implementation": "diffusers",
        "modelspec.title": title,
        "modelspec.resolution": f"{side}x{side}",
        "modelspec.prediction_type": "v" if by_v else "epsilon",
    }


def merge(unet: Any) -> None:
    """Add the adapter to the weights that it changes and take it away.

    Raises:
        ValueError: a merged weight is not a number.
    """
    # Into copies: a UNet that shares its weights with another leaves that one as it is.
    unet.fuse_lora(safe_fusing=True)
    unet.unload_lora()
