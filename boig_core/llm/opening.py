"""Opening a language model that somebody names: it opens right, or says in one line why it cannot.

The one door for bases and for what was published from them. transformers is too kind: it gives an
encoder that sees what it is to predict, weights drawn by chance where some are missing, the base of
an adapter without the adapter, and tokens that the model has no embeddings of. Leaves out: what can
be told without torch (see `boig_core.models.language`) and how a model is trained (see `base`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import torch

from boig_core.errors import InputError
from boig_core.llm.gguf import load_gguf
from boig_core.models.gguf import gguf_of
from boig_core.models.language import check_adapter, check_config, check_language_model
from boig_core.models.opening import check_whole, opening
from boig_core.observability.quiet import hide_bars
from boig_core.storage.models import located

_REMEDY: Final = "give a hub id, a folder or a store URI of a causal language model"
_LEAK: Final = {torch.float32: 1e-4}
"""Largest change of a logit by a token behind it that rounding explains, as a share of the logits'
spread; there is none at all but where experts are batched together."""
_COARSE: Final = 0.02
"""The same in half precision."""


def open_language_model(ref: str, value: str, dtype: Any = "auto") -> tuple[Any, Any]:
    """Tokenizer and model of a reference, with a token for padding.

    Args:
        ref: a folder, a ``.gguf`` file, a hub id or a store URI.
        value: what names the model, such as ``llm.base = 'my/model'``.
        dtype: of the weights; ``auto``: as they were saved.

    Raises:
        InputError: it does not open as a causal language model, or its tokenizer does not fit it.
        EndpointError: the hub does not answer.
    """
    hide_bars()
    check_language_model(ref, value)
    with located(ref, value) as place, opening(value, "cannot be opened", _REMEDY):
        if place != ref:  # what was fetched can be looked at now
            check_language_model(place, value)
        tokenizer, model = _load(place, value, dtype)
        _check_tokens(tokenizer, model, value)
        _check_causal(model, value)
    # Any token will do: nothing that counts sees padding, and no loss counts it.
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer, model


def _load(place: str, value: str, dtype: Any) -> tuple[Any, Any]:
    """Tokenizer and model, with all weights of a causal language model."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    file = gguf_of(Path(place), value)
    _check_kind(place, value, file)
    if file is not None:
        return load_gguf(file, value, dtype)
    tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=False)
    model, report = AutoModelForCausalLM.from_pretrained(
        place, dtype=dtype, output_loading_info=True, trust_remote_code=False
    )
    check_whole(report, value)
    if not model.can_generate():
        raise InputError(value, f"is a {type(model).__name__}, which cannot generate", _REMEDY)
    return tokenizer, model


def _check_kind(place: str, value: str, file: Path | None) -> None:
    """Refuse what is no causal language model before its weights are read, or fetched from a
    hub."""
    from transformers import PreTrainedConfig
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    from transformers.utils import find_adapter_config_file

    if file is not None:
        config, _ = PreTrainedConfig.get_config_dict(file.parent, gguf_file=file.name)
    else:
        if adapter := find_adapter_config_file(place):
            check_adapter(Path(adapter), value)
        config, _ = PreTrainedConfig.get_config_dict(place)
    check_config(config, value)
    kind = config.get("model_type")
    if kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        return
    if kind in CONFIG_MAPPING_NAMES:
        rule = f"is a {kind}, which transformers cannot open as a causal language model"
        remedy = "give a model that reads and writes text alone"
    elif config.get("auto_map"):
        rule = "needs code of its own (auto_map), and boig runs none that comes with a model"
        remedy = "give a model that transformers itself knows"
    else:
        rule = f"is of a type that this version of transformers does not know: {kind!r}"
        remedy = "give another, or install boig with a newer transformers"
    raise InputError(value, rule, remedy)


def _check_tokens(tokenizer: Any, model: Any, value: str) -> None:
    """Whether the model has an embedding of each token, and a token ends a text."""
    rows = model.get_input_embeddings().weight.shape[0]
    vocabulary = tokenizer.get_vocab()
    unused = _unused(tokenizer)
    beyond = sorted(
        (number, token)
        for token, number in vocabulary.items()
        if number >= rows and number != unused
    )
    if beyond:
        number, token = beyond[0]
        raise InputError(
            value,
            f"has {rows} embeddings, and its tokenizer {len(beyond)} tokens beyond them: {token!r} is number {number}",
            "save it again after resize_token_embeddings, or with the tokenizer it was trained with",
        )
    if not vocabulary:
        raise InputError(value, "has a tokenizer without tokens", "give a folder with a tokenizer")
    if tokenizer.eos_token_id is None:
        raise InputError(
            value,
            "has a tokenizer without a token that ends a text (EOS)",
            "set eos_token in its tokenizer_config.json",
        )


def _unused(tokenizer: Any) -> int | None:
    """Id of a token for unknown text that no text gives, if there is one: transformers adds it to
    tokenizers that do without."""
    unknown = tokenizer.unk_token_id
    if unknown in (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id):
        return None
    # Of no script that a model is trained on, so that whatever can be unknown is.
    strange = tokenizer("\u0378 \U0001f9ff \U000e0041 \x00", add_special_tokens=False)["input_ids"]
    return None if unknown in strange else unknown


@torch.no_grad()
def _check_causal(model: Any, value: str) -> None:
    """Whether what the model says of a place depends on what stands before it alone, and is a
    number."""
    rows = min(model.get_input_embeddings().weight.shape[0], 1000)
    ids_1T = torch.arange(8)[None] * 7 % rows
    other_1T = ids_1T.clone()
    other_1T[0, -1] = (int(ids_1T[0, -1]) + 1) % rows
    model.eval()
    # With a cache some would answer for the last place alone.
    first_TV, second_TV = (
        model(input_ids=ids, use_cache=False).logits[0, :-1].float() for ids in (ids_1T, other_1T)
    )
    if not torch.isfinite(first_TV).all():
        raise InputError(value, "computes logits that are not finite", "download its weights again")
    change = float((first_TV - second_TV).abs().max())
    if change > _LEAK.get(model.dtype, _COARSE) * float(first_TV.std()):
        raise InputError(
            value,
            f"is a {type(model).__name__} that sees the tokens it is to predict: an encoder",
            "give a causal (decoder-only) language model",
        )
