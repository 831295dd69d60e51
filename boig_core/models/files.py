"""What can be told of a model's files without opening them: Git LFS pointers, files that are empty
or cut off, shards that are missing.

A library that opens such a file names a byte or a header, and not what to do. Only files that will
be read are looked at: a repository may hold others as pointers on purpose. Imports no torch, so
that a recipe can be checked anywhere. Leaves out: which files a kind of model has (see
`language`).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from boig_core.errors import InputError
from boig_core.models.opening import opening

_POINTER: Final = b"version https://git-lfs.github.com/spec/"
_LONGEST_HEADER: Final = 100_000_000
"""Bytes of a safetensors header at most, as safetensors itself has it."""
_AGAIN: Final = "download the file again"
_BESIDE: Final = (
    "generation_config.json",
    "preprocessor_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "spiece.model",
    "sentencepiece.bpe.model",
    "vocab.json",
    "vocab.txt",
)
"""Files that transformers reads beside the weights, where they are there."""


def check_file(path: Path, value: str) -> None:
    """Whether a file of a model is there whole, as far as its first bytes and its size tell.

    Args:
        path: of the file; ``.json`` must be JSON, ``.safetensors`` as long as its header says.
        value: what names the model, for messages.

    Raises:
        InputError: it is missing, empty, a Git LFS pointer, or cut off.
    """
    if not path.is_file():
        raise InputError(value, f"lacks the file {path.name}", "give a whole model folder")
    unread = f"has a {path.name} that cannot be read"
    with (
        opening(value, unread, "let the user of this process read it"),
        path.open("rb") as file,
    ):
        begin = file.read(len(_POINTER))
    if begin.startswith(_POINTER):
        raise InputError(
            value,
            f"holds a Git LFS pointer in place of {path.name}",
            "run `git lfs pull` in its folder, or download it with `hf download`",
        )
    if not begin:
        raise InputError(value, f"holds an empty {path.name}", _AGAIN)
    if path.suffix == ".json":
        read_json(path, value)
    if path.suffix == ".safetensors":
        _check_safetensors(path, value)


def read_json(path: Path, value: str) -> Any:
    """Content of a JSON file of a model.

    Raises:
        InputError: it cannot be read as JSON.
    """
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as exc:
        raise InputError(value, f"holds a {path.name} that is no JSON ({exc})", _AGAIN) from exc


def read_config(folder: Path, value: str) -> dict[str, Any]:
    """Content of the ``config.json`` that makes a folder one of transformers.

    Raises:
        InputError: there is none, or it cannot be read.
    """
    path = folder / "config.json"
    if not path.is_file():
        rule = f"holds no model: there is no config.json in {folder}"
        raise InputError(value, rule, "give the folder that save_pretrained wrote")
    check_file(path, value)
    config = read_json(path, value)
    if not isinstance(config, dict):
        raise InputError(value, "holds a config.json that is no object", _AGAIN)
    return config


def check_transformers_folder(folder: Path, value: str) -> None:
    """Whether the files of a folder that transformers would read are there whole.

    Raises:
        InputError: from `read_config`, `check_file` and `weight_files`.
    """
    read_config(folder, value)
    for name in _BESIDE:
        if (folder / name).exists():
            check_file(folder / name, value)
    for path in weight_files(folder, value, "model", "pytorch_model"):
        check_file(path, value)


def weight_files(
    folder: Path, value: str, stem: str, pickled: str, variant: str | None = None
) -> list[Path]:
    """The files that a library reads a model's weights from: safetensors before pickles, one file
    before shards.

    Args:
        folder: that the weights stand in.
        value: what names the model, for messages.
        stem: of safetensors: ``model``, diffusers' ``diffusion_pytorch_model``.
        pickled: of pickles: ``pytorch_model``, diffusers' ``diffusion_pytorch_model``.
        variant: such as ``fp16``, which stands before the ending of each name.

    Raises:
        InputError: there are none, or an index names shards that are not there.
    """
    for name in (f"{stem}.safetensors", f"{pickled}.bin"):
        if (folder / _of_variant(name, variant)).is_file():
            return [folder / _of_variant(name, variant)]
        index = folder / _of_variant(f"{name}.index.json", variant)
        if not index.is_file():
            continue
        check_file(index, value)
        content = read_json(index, value)
        places = content.get("weight_map") if isinstance(content, dict) else None
        if not isinstance(places, dict) or not places:
            raise InputError(value, f"holds a {index.name} that lists no weights", _AGAIN)
        shards = sorted({str(place) for place in places.values()})
        missing = [shard for shard in shards if not (folder / shard).is_file()]
        if missing:
            raise InputError(
                value,
                f"lacks {len(missing)} of the {len(shards)} shards of its weights, {missing[0]} among them",
                "download the missing files",
            )
        return [folder / shard for shard in shards]
    raise InputError(
        value,
        f"holds no weights ({stem}.safetensors or {pickled}.bin) in {folder}",
        "give a whole model folder",
    )


def _of_variant(name: str, variant: str | None) -> str:
    stem, _, ending = name.rpartition(".")
    return name if variant is None else f"{stem}.{variant}.{ending}"


def _check_safetensors(path: Path, value: str) -> None:
    """Whether a safetensors file is as long as its header says: 8 bytes of the header's length, the
    header, the tensors."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > min(size - 8, _LONGEST_HEADER):
            rule = f"holds a {path.name} that is cut off or no safetensors file"
            raise InputError(value, rule, _AGAIN)
        header = file.read(length)
    try:
        entries = json.loads(header)
        ends = [entry["data_offsets"][1] for name, entry in entries.items() if name[:2] != "__"]
        whole = 8 + length + max(ends, default=0)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as exc:
        rule = f"holds a {path.name} whose header cannot be read"
        raise InputError(value, rule, _AGAIN) from exc
    if size != whole:
        raise InputError(
            value, f"holds a {path.name} of {size} bytes, and its header promises {whole}", _AGAIN
        )
