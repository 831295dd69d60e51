"""A LoRA on a causal language model: small matrices that are trained in place of its own, and their
sum with them.

Every linear layer gets one but the output head, and so do the experts of a mixture, which
transformers holds as one parameter (experts, out, in) for all of them. Leaves out: training it
(see `finetune`). Shape letters: E experts, O what a matrix gives, I what it reads, R rank.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from boig_core.config import LLM
from boig_core.observability.logs import get_logger

log = get_logger(__name__)
_NAME: Final = "default"
_OWN: Final = re.compile(r"\.(lora_[AB]|base_layer)\b")
"""In the names of what peft puts into a model, and of the layers that it wraps."""


def add_lora(model: Any, llm: LLM) -> None:
    """Freeze a model and give it the LoRA of a recipe."""
    from peft import LoraConfig

    unfit = _unfit(model)
    model.requires_grad_(False)
    model.add_adapter(
        LoraConfig(
            r=llm.lora_rank,
            lora_alpha=llm.lora_alpha,
            # Peft leaves the output head out of these.
            target_modules="all-linear",
            # By itself peft knows the experts of some architectures, and passes over the others'.
            target_parameters=_fused_experts(model) or None,
            exclude_modules=unfit or None,
            task_type="CAUSAL_LM",
        ),
        _NAME,
    )
    head = model.get_output_embeddings()
    without = [
        name
        for name, module in model.named_modules()
        if _is_linear(module) and module is not head and name not in unfit and not _OWN.search(name)
    ]
    if without:
        log.warning(
            "%d linear layers get no LoRA from peft, %s among them", len(without), without[0]
        )


def merged(model: Any, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of the base with each LoRA added to its matrix: W + scale B A, summed in float32.

    Args:
        model: with or without a LoRA; its own weights are not looked at.
        state: its weights by name.
    """
    from peft.tuners.lora import LoraLayer

    plain = dict(state)
    for name, layer in model.named_modules():
        if not isinstance(layer, LoraLayer):
            continue
        down, up = (plain.pop(f"{name}.lora_{part}.{_NAME}.weight").float() for part in "AB")
        # Of an experts' module with several matrices each layer wraps the one before.
        own, path = layer.base_layer, f"{name}.base_layer"
        while isinstance(own, LoraLayer):
            own, path = own.base_layer, f"{path}.base_layer"
        key = f"{path}.{getattr(layer, 'parameter_name', 'weight')}"
        weight = plain[key]
        change = _change(layer, own, down, up, weight.dim()) * layer.scaling[_NAME]
        plain[key] = (weight.float() + change).to(weight.dtype)
    return {name.replace(".base_layer", ""): tensor for name, tensor in plain.items()}


def _change(layer: Any, own: nn.Module, down: Tensor, up: Tensor, dims: int) -> Tensor:
    """What a LoRA adds to a matrix, or to those of all experts, before it is scaled."""
    if dims == 2:
        # Some layers, such as GPT-2's, hold their weight transposed.
        return (up @ down).T if layer.fan_in_fan_out else up @ down
    # Peft lays out the experts of A one after another, and those of B in turns.
    down_ERI = down.reshape(layer.num_experts, -1, down.shape[1])
    up_EOR = up.reshape(len(up), -1, layer.num_experts).permute(2, 0, 1)
    change_EOI = up_EOR @ down_ERI
    # Here what peft calls in and out are the last two dimensions as they stand.
    return change_EOI if not getattr(own, "is_transposed", False) else change_EOI.mT


def _fused_experts(model: Any) -> list[str]:
    """Names of the parameters that hold the same matrix of every expert, (E, O, I) or (E, I, O)."""
    return [
        f"{path}.{name}"
        for path, module in model.named_modules()
        for name, param in module.named_parameters(recurse=False)
        if param.dim() == 3 and getattr(module, "num_experts", None) == param.shape[0]
    ]


def _unfit(model: Any) -> list[str]:
    """Names of linear layers that a LoRA would be useless or wrong on: those of other modalities,
    which no text reaches, and those of a state-space layer behind its first, whose weights its
    kernels read past any LoRA."""
    reached = {*model.get_decoder().modules(), model.get_output_embeddings()}
    past = {
        child
        for module in model.modules()
        if hasattr(module, "A_log")
        for name, child in module.named_children()
        if not name.startswith("in_proj")
    }
    return [
        name
        for name, module in model.named_modules()
        if _is_linear(module) and (module in past or module not in reached)
    ]


def _is_linear(module: nn.Module) -> bool:
    # What peft calls all-linear; Conv1D is GPT-2's transposed linear layer.
    return isinstance(module, (nn.Linear, Conv1D))
