"""What can be told of a language model's folder before anything is paid for: kinds that boig cannot
train, such as an adapter or a quantized model, and files that are not there whole.

Imports no torch. Leaves out: what only opening tells, and what stands on a hub or in an object
store (see `boig_core.llm.opening`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from boig_core.errors import InputError
from boig_core.models.files import check_file, check_transformers_folder, read_json

ADAPTER: Final = "adapter_config.json"
_QUANTIZED: Final = {
    "quantize_config.json": "GPTQ",
    "quant_config.json": "AWQ",
    "hf_quant_config.json": "ModelOpt",
}
"""Files beside a model that say how it was quantized, as some tools leave them."""
_TOKENIZER: Final = ("tokenizer", "vocab", "merges", "tekken")
_OTHER_HEADS: Final = (
    "ForMaskedLM", "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering",
    "ForMultipleChoice", "ForNextSentencePrediction", "ForPreTraining", "RewardModel",
)  # fmt: skip
_UNQUANTIZED: Final = "give its repository without quantization, or its GGUF file"
_DECODER: Final = "give a causal (decoder-only) language model, such as a Llama or a Qwen"


def is_path(ref: str) -> bool:
    """Whether a reference can only be a path: a hub id has one slash at most."""
    return ref.startswith(("/", ".", "~")) or ref.count("/") > 1 or Path(ref).exists()


def check_language_model(ref: str, value: str) -> None:
    """Look at a folder or GGUF file that is to be trained on; what lies elsewhere is let pass.

    Args:
        ref: a folder, a ``.gguf`` file, a hub id or a store URI.
        value: what names the model, such as ``llm.base = 'my/model'``.

    Raises:
        InputError: it is of a kind that cannot be trained, or lacks files.
    """
    if "://" in ref:
        return
    path = Path(ref).expanduser()
    if path.is_dir():
        _check_folder(path, value)
    elif path.suffix == ".gguf" and is_path(ref):
        check_file(path, value)
    elif path.is_file():
        raise InputError(
            value, "is a file, and only a .gguf file opens as one", "give the folder of the model"
        )
    elif is_path(ref):
        raise InputError(value, "leads nowhere: there is no such folder", "correct the path")


def check_language_model_here(ref: str | None, value: str) -> None:
    """`check_language_model` of what this machine has: a folder may lie where the training runs
    alone.

    Raises:
        InputError: it is of a kind that cannot be trained, or lacks files.
    """
    if ref is not None and "://" not in ref and Path(ref).expanduser().exists():
        check_language_model(ref, value)


def check_config(config: Mapping[str, Any], value: str) -> None:
    """Whether a model's ``config.json`` tells of a kind that boig cannot train.

    Raises:
        InputError: it does.
    """
    text = config.get("text_config")
    for part in (config, text if isinstance(text, Mapping) else {}):
        if quantization := part.get("quantization_config"):
            raise InputError(value, f"is quantized ({_method(quantization)})", _UNQUANTIZED)
    kind = config.get("model_type", "model of no known type")
    if config.get("is_encoder_decoder"):
        raise InputError(value, f"is an encoder-decoder model ({kind})", _DECODER)
    architectures = config.get("architectures")
    for name in architectures if isinstance(architectures, list) else ():
        if str(name).endswith(_OTHER_HEADS):
            raise InputError(value, f"is a {name}, which does not write text", _DECODER)


def check_adapter(path: Path, value: str) -> None:
    """Refuse what an ``adapter_config.json`` stands in, by the name of the adapter's base.

    Raises:
        InputError: always.
    """
    settings = read_json(path, value)
    base = settings.get("base_model_name_or_path") if isinstance(settings, dict) else None
    whole = f"give that, or the {base}" if base else "give that"
    raise InputError(
        value,
        f"holds an adapter (LoRA) of the model {base or 'that its card names'}",
        f"merge it (peft's merge_and_unload, then save_pretrained) and {whole} itself",
    )


def _check_folder(folder: Path, value: str) -> None:
    names = {path.name for path in folder.iterdir()}
    if "model_index.json" in names:
        rule = "is a diffusers pipeline, which paints images"
        raise InputError(value, rule, "give a language model; an image model belongs to sd.base")
    if ADAPTER in names:
        check_adapter(folder / ADAPTER, value)
    ggufs = [folder / name for name in sorted(names) if name.endswith(".gguf")]
    if ggufs:
        for path in ggufs:
            check_file(path, value)
        return
    for name, method in _QUANTIZED.items():
        if name in names:
            raise InputError(value, f"is quantized ({method}: {name})", _UNQUANTIZED)
    if "config.json" not in names:
        rule = f"holds no model: there is no config.json in {folder}"
        raise InputError(value, rule, "give the folder that save_pretrained wrote")
    check_file(folder / "config.json", value)
    config = read_json(folder / "config.json", value)
    if not isinstance(config, dict):
        raise InputError(value, "holds a config.json that is no object", "download it again")
    check_config(config, value)
    check_transformers_folder(folder, value)
    if not any(name.startswith(_TOKENIZER) or name.endswith(".model") for name in names):
        remedy = "save its tokenizer into the same folder (tokenizer.save_pretrained)"
        raise InputError(value, "holds no tokenizer", remedy)


def _method(quantization: Any) -> str:
    """Name of a way of quantizing, from a ``quantization_config``."""
    if not isinstance(quantization, Mapping):
        return "in a way of its own"
    for bits in ("4", "8"):
        if quantization.get(f"load_in_{bits}bit"):
            return f"bitsandbytes, {bits} bits"
    return str(quantization.get("quant_method", "in a way of its own"))
