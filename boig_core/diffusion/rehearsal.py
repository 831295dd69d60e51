"""The way of a trained policy into another program, walked before anything is trained.

What cannot be published is found in seconds, not after hours: the untrained policy, with an adapter
that changes its images, is written as `lora.save_policy` writes it, opened by diffusers alone, and
asked for the latents of one image, with the LoRA loaded and merged. Weights that training leaves as
they are stay where they are: what is written is the LoRA, the tokenizers and the settings of the
other parts, and what is held is one copy of the layers that the LoRA changes. Leaves out: the
writing of the frozen parts, which were read from just such files.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import torch
from diffusers import DiffusionPipeline
from diffusers.utils import logging

from boig_core.diffusion.lora import base_model, merge, other_weights, write_lora
from boig_core.diffusion.pipeline import latent_shape
from boig_core.diffusion.sample import sample_latents
from boig_core.errors import BoigError, RecipeError
from boig_core.observability.logs import get_logger

log = get_logger(__name__)

TOLERANCE: Final = {torch.float32: 0.01, torch.bfloat16: 0.25}
"""Largest difference of the published model's latents from the policy's, as a share of what the
adapter, or without one the model itself, makes of them. In tiny and random models it was up to 1e-5
in float32, and up to 0.07 in bfloat16, where the loaded adapter is rounded, too; without attention,
or without feed-forwards, 0.12 to 0.88. So the layers that were loaded are also compared by name."""
_STEPS: Final = 2
_PROMPT: Final = "a photograph of a red ball"
_CHANGE: Final = 0.5
"""By how much the adapter for a try changes a layer, as a share of the spread of its weights: so
much that rounding cannot hide it."""
_BROKEN: Final = (
    *(ArithmeticError, AssertionError, AttributeError, ImportError),
    *(LookupError, OSError, RuntimeError, TypeError, ValueError),
)
"""What diffusers and peft raise of a model that they cannot write, open or merge."""


def rehearse(pipe: Any, base: str) -> None:
    """Publish the untrained policy for a try; weights and random numbers stay as they are.

    Args:
        pipe: from `load_base`, with a UNet that `make_trainable` prepared, where it is trained.
        base: what the model is called in the recipe.

    Raises:
        RecipeError: diffusers does not open what would be published, or it differs from the policy.
    """
    lora = bool(getattr(pipe.unet, "peft_config", None))
    with (
        tempfile.TemporaryDirectory(prefix="boig-rehearsal-") as scratch,
        torch.random.fork_rng(devices=[]),
        _beside_the_unet(pipe.vae, pipe.unet.device),
        _errors_alone(),
        other_weights(pipe.unet, _other_weights(pipe.unet, lora)),
    ):
        try:
            differences = _walk(pipe, Path(scratch) / "policy", lora)
        except (BoigError, torch.OutOfMemoryError):
            raise
        except _BROKEN as error:
            # The system's errors have a number: a full disk is no property of the model.
            if getattr(error, "errno", None) is not None:
                raise
            reason = str(error).splitlines()[0][:200] if str(error) else ""
            raise RecipeError(
                f"sd.base = {base}",
                f"cannot be published: diffusers fails with {type(error).__name__} ({reason}) on what would be written",
                "use a Stable Diffusion model that diffusers itself saves and opens",
            ) from error
    allowed = TOLERANCE[pipe.unet.dtype]
    for way, difference in differences.items():
        # The comparison also fails where there is no number.
        if not difference <= allowed:
            raise RecipeError(
                f"sd.base = {base}",
                f"cannot be published: {way}, its latents differ by {difference:.2g} of what training changes, allowed is {allowed:g}",
                "use a Stable Diffusion model that diffusers itself saves and opens, or train all weights (lora_rank null)",
            )
    worst = max(differences.values())
    log.info("publishing was rehearsed: latents differ by %.1e of what training changes", worst)


def _walk(pipe: Any, folder: Path, lora: bool) -> dict[str, float]:
    """Difference from the policy by the way in which the model was opened."""
    policy = _latents(pipe)
    plain = _open_plain(pipe, folder)
    if not lora:
        return {"opened": _share(_plain_latents(plain, pipe), policy, torch.zeros_like(policy))}
    with base_model(pipe.unet):
        untrained = _latents(pipe)
    write_lora(pipe, folder / "lora", folder.name)
    names = list(plain.unet.state_dict())
    plain.load_lora_weights(folder / "lora")
    if (layers := _adapted(plain.unet)) != (trained := _adapted(pipe.unet)):
        missing = sorted(trained ^ layers)
        raise ValueError(f"{len(missing)} layers of the LoRA are lost, such as {missing[0]}")
    loaded = _share(_plain_latents(plain, pipe), policy, untrained)
    merge(plain.unet)
    if list(plain.unet.state_dict()) != names:
        raise ValueError("the merged UNet has other weights than its settings say")
    return {
        "with its LoRA loaded": loaded,
        "with its LoRA merged": _share(_plain_latents(plain, pipe), policy, untrained),
    }


def _open_plain(pipe: Any, folder: Path) -> Any:
    """The pipeline without its adapter, opened by diffusers from a folder that holds everything but
    weights; these are shared with the pipeline."""
    from accelerate import init_empty_weights

    pipe.save_config(folder)
    models = {name: p for name, p in pipe.components.items() if isinstance(p, torch.nn.Module)}
    for name, part in pipe.components.items():
        if part is not None and name not in models:
            part.save_pretrained(folder / name)
    build = type(pipe.unet)
    pipe.unet.save_config(folder / "unet")
    with init_empty_weights():
        unet = build.from_config(build.load_config(folder / "unet"))
    # Strict: a weight that the settings do not know would be lost by whoever opens the folder.
    unet.load_state_dict(_own_weights(pipe.unet), assign=True)
    unet.eval()
    plain = DiffusionPipeline.from_pretrained(folder, **{**models, "unet": unet})
    plain.set_progress_bar_config(disable=True)
    return plain


def _adapted(unet: Any) -> set[str]:
    """Layers with an adapter."""
    return {name for name, part in unet.named_modules() if hasattr(part, "lora_A")}


def _own_weights(unet: Any) -> dict[str, torch.Tensor]:
    """Weights by the names that they have without an adapter."""
    return {
        name.replace(".base_layer.", "."): weight
        for name, weight in unet.state_dict().items()
        if ".lora_" not in name
    }


def _other_weights(unet: Any, lora: bool) -> dict[str, torch.Tensor]:
    """What is tried in place of the trainable weights: an adapter that is not zero."""
    weights = {name: p.data for name, p in unet.named_parameters() if p.requires_grad}
    if not lora:
        return weights
    frozen = dict(unet.named_parameters())
    generator = torch.Generator("cpu").manual_seed(0)
    for name in [name for name in weights if ".lora_B." in name]:
        layer, rank = name.split(".lora_B.")[0], weights[name].shape[1]
        # The first matrix has a spread of 1 / rank, so the product has this one's over its root.
        spread = float(frozen[f"{layer}.base_layer.weight"].float().std()) * rank**0.5
        noise = torch.randn(weights[name].shape, generator=generator)
        weights[name] = noise * _CHANGE * spread
    return weights


def _start(pipe: Any) -> torch.Tensor:
    return torch.randn((1, *latent_shape(pipe)), generator=torch.Generator("cpu").manual_seed(0))


def _latents(pipe: Any) -> torch.Tensor:
    """One image's latents from the policy, as training and evaluation sample it."""
    return sample_latents(pipe, [_PROMPT], _start(pipe), _STEPS, 1.0).float()


@torch.no_grad()
def _plain_latents(plain: Any, pipe: Any) -> torch.Tensor:
    """The same by the pipeline's own call."""
    latents: torch.Tensor = plain(
        _PROMPT,
        num_inference_steps=_STEPS,
        guidance_scale=1.0,
        latents=_start(pipe).to(plain.unet.dtype),
        output_type="latent",
    ).images
    return latents.float()


def _share(
    latents_BCHW: torch.Tensor, policy_BCHW: torch.Tensor, without_BCHW: torch.Tensor
) -> float:
    """Difference from the policy's latents over what makes them the policy's."""
    difference, change = (latents_BCHW - policy_BCHW).norm(), (policy_BCHW - without_BCHW).norm()
    return float(difference / change)


@contextmanager
def _beside_the_unet(vae: Any, device: torch.device) -> Iterator[None]:
    """The autoencoder stands where the UNet does: a pipeline asks it where it runs."""
    home = vae.device
    vae.to(device)
    try:
        yield
    finally:
        vae.to(home)


@contextmanager
def _errors_alone() -> Iterator[None]:
    """diffusers leaves out its remarks on a model: they were in the log when it was opened."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
