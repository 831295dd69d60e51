"""What can be told of a folder of Stable Diffusion without opening it: of what class it is, whether
each part that is read is there whole, and whether the parts fit.

Says by name what people give in its place: a ControlNet, a LoRA, an embedding, a part alone.
Imports no torch, so that a recipe can be checked before anything is paid for. Leaves out: what
settings mean (see `sd_settings`) and single files (see `sd_file`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from boig_core.errors import InputError
from boig_core.models.files import check_file, read_json, weight_files
from boig_core.models.sd_settings import MODELS, check_family, check_settings

INDEX: Final = "model_index.json"
"""The file that says of what class a pipeline is, and of what classes its parts are."""
_FULL: Final = "give a whole diffusers folder"
_OTHERS: Final = {
    "pytorch_lora_weights.safetensors": "is a LoRA alone",
    "pytorch_lora_weights.bin": "is a LoRA alone",
    "adapter_config.json": "is an adapter of PEFT alone",
    "learned_embeds.safetensors": "is a textual inversion alone",
    "learned_embeds.bin": "is a textual inversion alone",
}
"""What a folder is that holds such a file, and no model_index.json."""
_VOCABULARIES: Final = ("tokenizer.json", "vocab.json")
_VARIANT: Final = re.compile(
    r"(?:diffusion_pytorch_model|pytorch_model|model)\.(?:([A-Za-z]\w*)\.(?:safetensors|bin)|(?:safetensors|bin)\.index\.(\w+)\.json)$"
)
"""A file of a variant's weights, or the index of its shards."""
_TOKENIZER: Final = (
    *_VOCABULARIES, "merges.txt", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
)  # fmt: skip


def check_folder(folder: Path, value: str) -> None:
    """Look at a model's folder as far as files and settings tell.

    Args:
        folder: that is here, whole.
        value: what names the model, for messages.

    Raises:
        InputError: boig cannot train it, or not all of it is there.
    """
    family, index = read_index(folder, value)
    settings = {"scheduler": read_settings(folder, "scheduler", value)}
    for name, classes in MODELS[family].items():
        _check_class(index, name, classes, value)
        settings[name] = read_settings(folder, name, value)
    check_settings(family, settings, value)
    for name in MODELS[family]:
        for path in part_weights(folder, name, value)[0]:
            check_file(path, f"{value}, {name}")
        if name.startswith("text_encoder"):
            _check_tokenizer(folder / name.replace("text_encoder", "tokenizer"), value)


def read_index(folder: Path, value: str) -> tuple[str, Mapping[str, Any]]:
    """The class of a pipeline, one of `MODELS`, and the content of its model_index.json.

    Raises:
        InputError: there is none, or the class is another.
    """
    path = folder / INDEX
    if not path.is_file():
        rule, remedy = _what_it_is(folder, value)
        raise InputError(value, rule, remedy)
    check_file(path, value)
    index = read_json(path, value)
    if not isinstance(index, dict):
        raise InputError(value, f"holds a {INDEX} that names no parts", _FULL)
    return check_family(index.get("_class_name"), value), index


def read_settings(folder: Path, part: str, value: str) -> Mapping[str, Any]:
    """Settings of a part by its name.

    Raises:
        InputError: they are missing, or no JSON object.
    """
    name = "scheduler_config.json" if part == "scheduler" else "config.json"
    path = folder / part / name
    if not path.is_file():
        raise InputError(value, f"lacks the file {part}/{name}", _FULL)
    check_file(path, f"{value}, {part}")
    settings = read_json(path, value)
    if not isinstance(settings, dict):
        raise InputError(value, f"holds a {part}/{name} without settings", _FULL)
    return settings


def part_weights(folder: Path, part: str, value: str) -> tuple[list[Path], str | None]:
    """Files that a part's weights are read from, and the variant that they are of: None where the
    full ones are there, else ``fp16`` or the only one.

    Raises:
        InputError: there are none, or not all.
    """
    of_text = part.startswith("text_encoder")
    stem = "model" if of_text else "diffusion_pytorch_model"
    pickled = "pytorch_model" if of_text else stem
    names = (f"{stem}.safetensors", f"{pickled}.bin")
    place = folder / part
    variants = sorted(
        {found[1] or found[2] for found in map(_VARIANT.match, _names(place)) if found}
    )
    full = any((place / f"{name}{end}").is_file() for name in names for end in ("", ".index.json"))
    if full or not variants:
        return weight_files(place, f"{value}, {part}", stem, pickled), None
    if "fp16" not in variants and len(variants) > 1:
        raise InputError(
            value,
            f"holds several variants of {part}, {', '.join(variants)}, and no full weights",
            "leave one of them",
        )
    variant = "fp16" if "fp16" in variants else variants[0]
    return weight_files(place, f"{value}, {part}", stem, pickled, variant), variant


def _names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()] if folder.is_dir() else []


def _check_class(index: Mapping[str, Any], part: str, classes: tuple[str, ...], value: str) -> None:
    kind = index.get(part)
    name = kind[1] if isinstance(kind, list) and len(kind) == 2 else None
    if name is None:
        raise InputError(value, f"has no {part} in its {INDEX}", _FULL)
    if name not in classes:
        raise InputError(
            value,
            f"has a {part} of class {name}, which boig does not know",
            f"give a model whose {part} is a {' or '.join(classes)}",
        )


def _check_tokenizer(folder: Path, value: str) -> None:
    if not any((folder / name).is_file() for name in _VOCABULARIES):
        raise InputError(value, f"has no vocabulary in {folder.name}", _FULL)
    for name in _TOKENIZER:
        if (folder / name).is_file():
            check_file(folder / name, f"{value}, {folder.name}")


def _what_it_is(folder: Path, value: str) -> tuple[str, str]:
    """Rule and remedy for a folder that is no pipeline."""
    for name, kind in _OTHERS.items():
        if (folder / name).is_file():
            return f"{kind} ({name}), without a {INDEX}", "give the model that it belongs to"
    settings = folder / "config.json"
    if settings.is_file():
        content = read_json(settings, value)
        of_class = content.get("_class_name") if isinstance(content, dict) else None
        if of_class is not None:
            rule = f"is a {of_class} alone, without a {INDEX}"
            return rule, "give the whole diffusers folder that such a part belongs to"
        model_type = content.get("model_type") if isinstance(content, dict) else None
        return f"does not open as Stable Diffusion: it is a {model_type} without a {INDEX}", _FULL
    files = sorted(name for name in _names(folder) if name.endswith(".safetensors"))
    if files:
        return f"has no {INDEX}", f"give its file {files[0]}, if that is a whole model"
    return f"does not open as Stable Diffusion: it has no {INDEX}", _FULL
