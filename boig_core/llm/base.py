"""The language model that a training starts from: a base model, a LoRA on one, or a new one.

Leaves out: how a base is opened (see `opening`) and its training (see `finetune`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from boig_core.config import LLM
from boig_core.errors import RecipeError
from boig_core.llm.opening import open_language_model
from boig_core.llm.tokens import build_tokenizer
from boig_core.observability.logs import get_logger

log = get_logger(__name__)


def make_model(llm: LLM, prompts: Sequence[str], seed: int) -> tuple[Any, Any]:
    """Tokenizer and model: a base with its own tokenizer, or a Llama from scratch with a tokenizer
    built from the prompts.

    Raises:
        InputError: the base does not open as a causal language model.
        RecipeError: it reads less than the recipe's context.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    # Every rank has to begin with the same weights, and the twin begins with BoigLLM's.
    torch.manual_seed(seed)
    dtype = torch.bfloat16 if llm.dtype == "bfloat16" else torch.float32
    if llm.base is not None:
        tokenizer, model = open_language_model(llm.base, f"llm.base = {llm.base!r}", dtype)
        room = getattr(model.config.get_text_config(), "max_position_embeddings", llm.context)
        if llm.context > room:
            raise RecipeError(
                f"llm.context = {llm.context}",
                f"is more than {llm.base} reads: {room} tokens",
                "lower it",
            )
        return tokenizer, _prepared(model, llm)
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
    return tokenizer, _prepared(LlamaForCausalLM(config).to(dtype), llm)


def _prepared(model: Any, llm: LLM) -> Any:
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
        from peft import LoraConfig

        model.requires_grad_(False)
        model.add_adapter(
            LoraConfig(
                r=llm.lora_rank,
                lora_alpha=llm.lora_alpha,
                # Peft leaves the output head out of these.
                target_modules="all-linear",
                task_type="CAUSAL_LM",
            )
        )
    return model.train()
