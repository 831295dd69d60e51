"""Language models from GGUF files: transformers turns their quantized weights into plain ones.

What comes out is a model like any other, which trains and is saved: transformers itself marks it as
quantized, and refuses to save it. Leaves out: which file a reference means (see
`boig_core.models.gguf`) and what is asked of any model (see `opening`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import torch

from boig_core.errors import InputError
from boig_core.models.opening import check_whole

_MARKS: Final = ("quantization_config", "_model_name_or_path", "_name_or_path")
"""Entries of a config that say where weights came from, and no more what they are."""
_ELSE: Final = "give a GGUF file of a language model, or its repository of safetensors"


def load_gguf(file: Path, value: str, dtype: Any) -> tuple[Any, Any]:
    """Tokenizer, with the file's chat template, and model, with its weights dequantized.

    Args:
        file: one GGUF file.
        value: what names the model, for messages.
        dtype: of the weights; ``auto``: float32.

    Raises:
        InputError: it holds something else than a whole language model, or one that would read
            places in a text otherwise than its makers' does.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    _check_header(file, value)
    tokenizer = AutoTokenizer.from_pretrained(
        file.parent, gguf_file=file.name, trust_remote_code=False
    )
    quantized, report = AutoModelForCausalLM.from_pretrained(
        file.parent,
        gguf_file=file.name,
        dtype=torch.float32 if dtype == "auto" else dtype,
        # Else weights may stay in blocks, which cannot be trained.
        quantization_config=GgufConfig(dequantize=True),
        output_loading_info=True,
        trust_remote_code=False,
    )
    check_whole(report, value)
    config = quantized.config.to_dict()
    plain = type(quantized.config).from_dict(
        {name: setting for name, setting in config.items() if name not in _MARKS}
    )
    model = type(quantized).from_pretrained(
        None, config=plain, state_dict=quantized.state_dict(), dtype=quantized.dtype
    )
    return tokenizer, model


def _check_header(file: Path, value: str) -> None:
    """Refuse by the file's header what transformers would open as something else."""
    from transformers import PreTrainedConfig
    from transformers.integrations.gguf import read_gguf_metadata

    metadata, tensors = read_gguf_metadata(str(file))
    architecture = metadata["general.architecture"]
    kind = metadata.get("general.type", "model")
    if kind != "model" or architecture == "clip":
        raise InputError(value, f"is a GGUF file of no language model ({kind})", _ELSE)
    # Fails where transformers does not know the architecture.
    config, _ = PreTrainedConfig.get_config_dict(file.parent, gguf_file=file.name)
    stretched = metadata.get(f"{architecture}.rope.scaling.type", "none") != "none"
    factors = any("rope_f" in name for name in tensors)
    rope = config.get("rope_scaling") or config.get("rope_parameters") or {}
    if (stretched or factors) and rope.get("rope_type", "default") == "default":
        raise InputError(
            value,
            f"is a {architecture} with scaled rotary positions, which transformers does not read from GGUF",
            "give its repository of safetensors",
        )
