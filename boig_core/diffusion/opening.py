"""Opening a Stable Diffusion that somebody names: it opens right, or says in a line why it cannot.

The one door for bases and for what was published from them: folders, single ``.safetensors`` files,
hub ids and store URIs. diffusers is too kind: it fills weights that are missing by chance, takes
half precision where the full one lies beside it, and opens models that take more than a prompt.
Leaves out: what can be told without torch (see `boig_core.models.diffusion`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import diffusers
import torch
import transformers
from diffusers import (
    DDIMScheduler,
    DiffusionPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
)

from boig_core.errors import InputError
from boig_core.models import resolve_model
from boig_core.models.diffusion import check_diffusion_model
from boig_core.models.opening import check_whole, opening
from boig_core.models.sd_file import SingleFile, read_single_file
from boig_core.models.sd_folder import INDEX, check_folder, part_weights, read_index
from boig_core.models.sd_settings import (
    MODELS,
    SD,
    SDXL,
    check_family,
    check_scheduler,
    check_settings,
    image_size,
    refuse_zero_snr,
)
from boig_core.observability.quiet import hide_bars
from boig_core.storage.models import located

Dtype = Literal["float32", "bfloat16"]
Pipeline: TypeAlias = StableDiffusionPipeline | StableDiffusionXLPipeline
FAMILIES: Final[dict[str, tuple[Any, dict[str, Any]]]] = {
    SD: (StableDiffusionPipeline, {"requires_safety_checker": False}),
    SDXL: (StableDiffusionXLPipeline, {"add_watermarker": False}),
}
"""Class and settings that open each class of pipeline."""
_UNUSED: Final = ("safety_checker", "feature_extractor", "image_encoder")
"""Parts that look at images, which neither training nor sampling asks."""
_SETTINGS: Final = ["*.json", "*.txt", "*.model"]
"""Files of a hub's repository without its weights."""


def open_pipeline(ref: str, dtype: Dtype) -> Pipeline:
    """A pipeline with its own scheduler turned into DDIM, without parts that look at images.

    Args:
        ref: hub id, local folder, ``.safetensors`` file of a whole model, ``package:tiny-sd``
            (`resolve_model`) or store URI.
        dtype: of UNet and text encoders. The autoencoder is always float32: SDXL's overflows in
            half precision, as its ``force_upcast`` says, and it takes a small share of the time.

    Raises:
        InputError: nothing that boig can train stands at ``ref``.
        EndpointError: the hub does not answer.
    """
    hide_bars()
    check_diffusion_model(ref, ref)
    rule, remedy = "does not open as Stable Diffusion", "give a whole diffusers folder"
    with located(ref, ref) as place, opening(ref, rule, remedy):
        path = Path(place).expanduser()
        if path.is_file():
            file = read_single_file(path, ref)
            pipe, marks = _open_file(path, file, dtype, ref), file.scheduler
        else:
            pipe, marks = _open_folder(_fetched(place, ref), dtype, ref), {}
        _check(pipe, ref)
        pipe.scheduler = _diffusing(pipe.scheduler, marks, ref)
        # As a pair it would have to be told apart wherever it is read.
        pipe.unet.register_to_config(sample_size=image_size(pipe.unet.config, ref))
    return pipe


def _fetched(place: str, ref: str) -> Path:
    """The folder of a model, from the hub where it is not here."""
    location = resolve_model(place)
    if os.path.isdir(location):
        return Path(location)
    # Asked before weights are fetched, which takes longest.
    family = check_family(DiffusionPipeline.load_config(location).get("_class_name"), ref)
    skipped = _unused(family)
    folder = Path(DiffusionPipeline.download(location, **skipped))
    try:
        for part in MODELS[family]:
            part_weights(folder, part, ref)
    except InputError:
        # Some repositories hold half precision alone, which is fetched by its name only.
        try:
            folder = Path(DiffusionPipeline.download(location, variant="fp16", **skipped))
        except ValueError as exc:
            # Without such a variant the look at the folder says what is missing.
            if isinstance(exc, OSError):
                raise
    return folder


def _unused(family: str) -> dict[str, None]:
    build, _ = FAMILIES[family]
    expected, _ = build._get_signature_keys(build)
    return {name: None for name in _UNUSED if name in expected}


def _open_folder(folder: Path, dtype: Dtype, ref: str) -> Any:
    check_folder(folder, ref)
    family, index = read_index(folder, ref)
    parts = {name: _open_part(folder, name, index[name][1], dtype, ref) for name in MODELS[family]}
    build, settings = FAMILIES[family]
    return build.from_pretrained(folder, **parts, **settings, **_unused(family))


def _open_part(folder: Path, name: str, kind: str, dtype: Dtype, ref: str) -> Any:
    """A part with its weights, in full precision where that lies beside half."""
    build = getattr(diffusers, kind, None) or getattr(transformers, kind)
    precision = torch.float32 if name == "vae" else getattr(torch, dtype)
    variant = part_weights(folder, name, ref)[1]
    chosen = {} if variant is None else {"variant": variant}
    part, report = build.from_pretrained(
        folder / name, dtype=precision, output_loading_info=True, **chosen
    )
    check_whole(report, f"{ref}, {name}")
    return part


def _open_file(path: Path, file: SingleFile, dtype: Dtype, ref: str) -> Any:
    """A pipeline from one file, by diffusers' own conversion of names."""
    beside = path.parent if (path.parent / INDEX).is_file() else _hub_settings(file, ref)
    family, _ = read_index(beside, ref)
    if (family == SDXL) != (file.generation == "xl_base"):
        raise InputError(
            ref,
            f"stands beside the {INDEX} of a {family}, and is of another family",
            "move it away from there",
        )
    build, settings = FAMILIES[family]
    # One precision for all: what would be cast down for the UNet is lost to the autoencoder.
    pipe = build.from_single_file(
        str(path), config=str(beside), dtype=torch.float32, **settings, **_unused(family)
    )
    for name in MODELS[family]:
        part = getattr(pipe, name)
        empty = [key for key, weight in part.named_parameters() if weight.is_meta]
        check_whole({"missing_keys": empty}, f"{ref}, {name}")
        if name != "vae":
            part.to(getattr(torch, dtype))
    return pipe


def _hub_settings(file: SingleFile, ref: str) -> Path:
    """Settings of the repository that files of a generation go back to."""
    from diffusers.loaders.single_file_utils import DIFFUSERS_DEFAULT_PIPELINE_PATHS
    from huggingface_hub import is_offline_mode, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

    name = DIFFUSERS_DEFAULT_PIPELINE_PATHS[file.generation]["pretrained_model_name_or_path"]
    try:
        folder = Path(snapshot_download(name, allow_patterns=_SETTINGS))
    except (LocalEntryNotFoundError, OfflineModeIsEnabled):
        if not is_offline_mode():
            raise
        folder = Path()
    if not (folder / INDEX).is_file():
        patterns = " ".join(f"'{pattern}'" for pattern in _SETTINGS)
        raise InputError(
            ref,
            f"holds no settings; those of {name} are not in the hub's cache, and the network is off",
            f"run `hf download {name} --include {patterns}` where there is a network, or put the file into its diffusers folder",
        )
    return folder


def _check(pipe: Any, ref: str) -> None:
    """What open parts tell: their settings, and how much tokenizers and encoders take."""
    family = type(pipe).__name__
    settings: dict[str, Mapping[str, Any]] = {
        name: dict(getattr(pipe, name).config)
        if name in ("unet", "vae")
        else getattr(pipe, name).config.to_dict()
        for name in MODELS[family]
    }
    scheduler = {**pipe.scheduler.config, "_class_name": type(pipe.scheduler).__name__}
    check_settings(family, {"scheduler": scheduler, **settings}, ref)
    lengths = []
    for name in settings:
        if not name.startswith("text_encoder"):
            continue
        encoder = getattr(pipe, name)
        tokenizer = getattr(pipe, name.replace("text_encoder", "tokenizer"))
        rows, tokens = encoder.get_input_embeddings().weight.shape[0], len(tokenizer)
        if tokens > rows:
            raise InputError(
                ref,
                f"has {rows} embeddings in its {name}, and its tokenizer {tokens} tokens",
                "save it again after resize_token_embeddings, or with its own tokenizer",
            )
        # A tokenizer may name no limit, or one beyond the encoder's positions.
        tokenizer.model_max_length = min(
            tokenizer.model_max_length, encoder.config.max_position_embeddings
        )
        lengths.append(tokenizer.model_max_length)
    if len(set(lengths)) > 1:
        raise InputError(
            ref,
            f"has text encoders that read {' and '.join(str(length) for length in lengths)} tokens",
            "give a model whose parts belong together",
        )


def _diffusing(scheduler: Any, marks: Mapping[str, Any], ref: str) -> DDIMScheduler:
    """The noise schedule of a scheduler under DDIM."""
    if "beta_schedule" not in scheduler.config:
        raise InputError(
            ref,
            f"denoises by {type(scheduler).__name__}",
            "give a model with Stable Diffusion's own noise schedule",
        )
    # Other schedulers share the training noise schedule; clipping x0 in latent space would change
    # the policy's mean.
    ddim: DDIMScheduler = DDIMScheduler.from_config(scheduler.config, clip_sample=False, **marks)
    check_scheduler(ddim.config, ref)
    alphas_T = ddim.alphas_cumprod
    # NaN compares as False. None is left of the image at the last timestep at most.
    sound = bool((alphas_T < 1).all() and (alphas_T[:-1] > 0).all() and alphas_T[-1] >= 0)
    if not sound or bool((alphas_T.diff() > 0).any()):
        raise InputError(
            ref,
            "has a noise schedule whose noise does not grow (beta_start, beta_end or trained_betas of its scheduler)",
            "set them in scheduler/scheduler_config.json as it was trained",
        )
    if ddim.config.prediction_type == "epsilon" and float(alphas_T[-1]) == 0.0:
        refuse_zero_snr(ref)
    return ddim
