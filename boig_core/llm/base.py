"""The language model that a training starts from: a base model, a LoRA on one, or a new one.

Leaves out: its training (see `finetune`).
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from boig_core.config import LLM
from boig_core.errors import RecipeError
from boig_core.llm.lora import add_lora
from boig_core.llm.tokens import build_tokenizer
from boig_core.observability.logs import get_logger
from boig_core.storage import manifest, store

log = get_logger(__name__)


def make_model(llm: LLM, prompts: Sequence[str], seed: int) -> tuple[Any, Any]:
    """Tokenizer and model: a base with its own tokenizer, or a Llama from scratch with a tokenizer
    built from the prompts."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    # Every rank has to begin with the same weights, and the twin begins with BoigLLM's.
    torch.manual_seed(seed)
    dtype = torch.bfloat16 if llm.dtype == "bfloat16" else torch.float32
    if llm.base is not None:
        try:
            with _opened(llm.base) as folder:
                tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
                model = AutoModelForCausalLM.from_pretrained(
                    folder, dtype=dtype, trust_remote_code=False
                )
        except (OSError, ValueError, UnpicklingError) as exc:
            # transformers goes on for lines about hub access; the first says what is missing.
            first = (str(exc).strip() or type(exc).__name__).splitlines()[0]
            raise RecipeError(
                f"llm.base = {llm.base!r}",
                f"cannot be opened ({first})",
                "give a hub id, a folder or a store URI",
            ) from exc
        # Any token will do: nothing that counts sees padding, and no loss counts it.
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        room = getattr(model.config, "max_position_embeddings", llm.context)
        if llm.context > room:
            raise RecipeError(
                f"llm.context = {llm.context}",
                f"is more than {llm.base} reads: {room} tokens",
                "lower it",
            )
        return tokenizer, prepared(model, llm)
    tokenizer = build_tokenizer(prompts, llm.vocab_size)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=llm.hidden,
        # A Llama's feed-forward part has three matrices: at 8/3 of the width they hold as many
        # weights as the usual two at four times the width.
        intermediate_size=llm.hidden * 8 // 3,
        num_hidden_layers=llm.layers,
        num_attention_heads=llm.heads,
        num_key_value_heads=llm.heads,
        max_position_embeddings=llm.context,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return tokenizer, prepared(LlamaForCausalLM(config).to(dtype), llm)


@contextmanager
def _opened(base: str) -> Iterator[str]:
    """A folder or hub id; what stands in an object store is fetched for as long as it is read."""
    if not store.is_s3(base):
        yield base
        return
    with tempfile.TemporaryDirectory(prefix="boig-base-") as scratch:
        fetch = (
            manifest.fetch_folder
            if store.exists(store.join(base, manifest.MANIFEST))
            else store.download_folder
        )
        fetch(base, Path(scratch))
        yield scratch


def prepared(model: Any, llm: LLM) -> Any:
    """A model as it is trained: with flash attention where it is installed, a LoRA or activation
    checkpointing as the recipe says."""
    from transformers.utils import is_flash_attn_2_available

    # Flash attention computes in half precision alone, and not for every architecture.
    if llm.dtype == "bfloat16" and is_flash_attn_2_available():
        try:
            model.set_attn_implementation("flash_attention_2")
        except ValueError as exc:
            log.info("without flash attention: %s", exc)
    if llm.gradient_checkpointing:
        model.activation_checkpointing_enable()
    if llm.lora_rank is not None:
        add_lora(model, llm)
    return model.train()
