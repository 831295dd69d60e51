"""Publishing: a trained language model as an ordinary transformers folder, which opens without peft
and without its base.

What is saved is a plain model of the same class with a configuration of its own: no adapter, no
trace of a quantization that the base came in, and the precision that its tensors have. Leaves out:
gathering the weights (see `finetune.export`), and trying all of this before a training (see
`rehearsal`).
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from boig_core.errors import RecipeError
from boig_core.llm.lora import merged
from boig_core.llm.task import Task


def publish(
    model: Any,
    tokenizer: Any,
    state: Mapping[str, Tensor],
    task: Task,
    metrics: Mapping[str, float],
    folder: Path,
) -> None:
    """Write a folder that transformers opens, with what the task puts beside it.

    Args:
        model: that was trained, for its class, configuration and LoRA alone.
        tokenizer: its own.
        state: its weights by name; names that a saved model does not have are left out.
        task: that it was trained for.
        metrics: of its training, for the model card.
        folder: that is made.

    Raises:
        RecipeError: the weights are not those of a plain model.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = saved_names(model)
    kept = {name: tensor for name, tensor in state.items() if name in names}
    plain, weights = plain_model(model, task.publish(kept, folder, metrics))
    plain.save_pretrained(folder, state_dict=weights)
    tokenizer.save_pretrained(folder)


def saved_names(model: Any) -> set[str]:
    """Names of a model's weights and saved buffers; of a tied weight one: under two, the best
    beside the last, it would be loaded as two."""
    twice = {name for name, _ in model.named_parameters(remove_duplicate=False)} - {
        name for name, _ in model.named_parameters()
    }
    return set(model.state_dict().keys() - twice)


def plain_model(model: Any, state: Mapping[str, Tensor]) -> tuple[Any, dict[str, Tensor]]:
    """A model without adapters and without memory, for its class and configuration, and its
    weights, in which a LoRA is merged.

    Args:
        model: that was trained.
        state: weights by name, in memory or not (``meta``).

    Raises:
        RecipeError: the weights are not those of a plain model.
    """
    weights = merged(model, state)
    config = plain_config(model)
    with torch.device("meta"):
        plain = type(model)(config)
    # The precision that most weights have: it is written down, and opens the folder.
    sizes: Counter[torch.dtype] = Counter()
    for tensor in weights.values():
        sizes[tensor.dtype] += tensor.numel() * tensor.is_floating_point()
    plain.to(sizes.most_common(1)[0][0])
    # A new model has the defaults, and not the limits that `set_limits` wrote.
    plain.generation_config = model.generation_config
    _check_same(plain, weights)
    return plain, weights


def plain_config(model: Any) -> Any:
    """A model's configuration as it would be, had the model never been quantized, tied otherwise
    than it is, or told how to sample."""
    config = copy.deepcopy(model.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    # They belong into the generation configuration; transformers refuses to save them here.
    for name in config._get_generation_parameters():
        vars(config).pop(name, None)
    head = model.get_output_embeddings()
    # A base may hold two tensors though its configuration says one: then they were trained apart.
    if head is not None and head.weight is not model.get_input_embeddings().weight:
        for part in (config, config.get_text_config(decoder=True)):
            part.tie_word_embeddings = False
    return config


def _check_same(plain: Any, weights: Mapping[str, Tensor]) -> None:
    """Whether weights are exactly a model's, by name and shape.

    Raises:
        RecipeError: they are not.
    """
    own = plain.state_dict()
    names = saved_names(plain)
    wrong = sorted(
        {name for name in names & weights.keys() if own[name].shape != weights[name].shape}
        | names ^ weights.keys()
    )
    if wrong:
        raise RecipeError(
            f"{type(plain).__name__}",
            f"has {len(wrong)} weights that a plain model of its configuration has not alike, {wrong[0]} among them",
            "give another llm.base, or train without llm.lora_rank",
        )
