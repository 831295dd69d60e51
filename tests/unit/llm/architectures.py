"""Tiny random models of the architectures that people start from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from boig_core.config import Recipe, parse_recipe
from boig_core.llm.tokens import build_tokenizer
from boig_core.verbalization.templates import build_prompt, condition_of
from boig_core.vocabulary import Sample

_SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
_GROUPED = {**_SIZES, "num_key_value_heads": 2}
_ROUTED = {**_GROUPED, "num_experts": 4, "num_experts_per_tok": 2}
_PLACES = {"max_position_embeddings": 256}
# Class, and what its configuration says beside the size of the vocabulary.
CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaForCausalLM", {**_GROUPED, **_PLACES}),
    "llama, tied": ("LlamaForCausalLM", {**_GROUPED, **_PLACES, "tie_word_embeddings": True}),
    "qwen2": ("Qwen2ForCausalLM", {**_GROUPED, **_PLACES}),
    "qwen3": ("Qwen3ForCausalLM", {**_GROUPED, **_PLACES, "head_dim": 12}),
    "gpt2": ("GPT2LMHeadModel", {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 256}),
    "opt": ("OPTForCausalLM", {**_SIZES, **_PLACES, "ffn_dim": 48, "word_embed_proj_dim": 32}),
    "bloom": ("BloomForCausalLM", {"hidden_size": 32, "n_layer": 2, "n_head": 2}),
    "gpt-neox": ("GPTNeoXForCausalLM", {**_SIZES, **_PLACES}),
    "falcon": ("FalconForCausalLM", {**_SIZES, "alibi": True}),
    "phi3": (
        "Phi3ForCausalLM",
        {**_SIZES, **_PLACES, "original_max_position_embeddings": 256, "pad_token_id": 0},
    ),
    "gemma2": ("Gemma2ForCausalLM", {**_GROUPED, **_PLACES, "head_dim": 8, "sliding_window": 24}),
    "gemma3": ("Gemma3ForCausalLM", {**_GROUPED, **_PLACES, "head_dim": 8, "sliding_window": 24}),
    "gemma3, with images": ("Gemma3ForConditionalGeneration", {}),
    "mamba": ("MambaForCausalLM", {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4}),
    "mixtral": (
        "MixtralForCausalLM",
        {**_GROUPED, **_PLACES, "num_local_experts": 4, "num_experts_per_tok": 2},
    ),
    "qwen2-moe": (
        "Qwen2MoeForCausalLM",
        {
            **_ROUTED,
            **_PLACES,
            "moe_intermediate_size": 24,
            "shared_expert_intermediate_size": 24,
        },
    ),
    "qwen3-moe": (
        "Qwen3MoeForCausalLM",
        {**_ROUTED, **_PLACES, "head_dim": 8, "moe_intermediate_size": 24},
    ),
    "olmoe": ("OlmoeForCausalLM", {**_ROUTED, **_PLACES}),
    "gpt-oss": (
        "GptOssForCausalLM",
        {
            **_GROUPED,
            **_PLACES,
            "head_dim": 8,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
        },
    ),
}
EXPERTS = ("mixtral", "qwen2-moe", "qwen3-moe", "olmoe", "gpt-oss")


def build_model(name: str, vocab_size: int) -> Any:
    """A model of an architecture, in float32; none of its weights is as a new model's is."""
    import transformers

    kind, options = CONFIGS[name]
    model_class = getattr(transformers, kind)
    if name == "gemma3, with images":
        options = {
            "text_config": {**CONFIGS["gemma3"][1], "vocab_size": vocab_size},
            "vision_config": {**_SIZES, "num_hidden_layers": 1, "image_size": 28, "patch_size": 14},
            "mm_tokens_per_image": 4,
            "image_token_index": vocab_size - 1,
            "boi_token_index": vocab_size - 2,
            "eoi_token_index": vocab_size - 3,
        }
    else:
        options = {**options, "vocab_size": vocab_size}
    torch.manual_seed(0)
    model = model_class(model_class.config_class(**options))
    with torch.no_grad():
        for param in model.parameters():
            param.add_(torch.randn_like(param), alpha=0.05)
    return model


def save_base(name: str, samples: list[Sample], folder: Path) -> str:
    """A base of an architecture with a tokenizer; returns its folder."""
    tokenizer = build_tokenizer([build_prompt(s, condition_of(s)) for s in samples], 512)
    # Rows beyond the tokenizer's, as bases have them.
    build_model(name, len(tokenizer) + 3).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def small(base: str, **llm: Any) -> Recipe:
    """Two steps on a base."""
    options = {"context": 160, "max_new_tokens": 64, "batch": 12, "micro_batch": 6, "lr": 1e-2}
    steps = {"steps": 2, "checkpoint_every": 2, "packing": False}
    return parse_recipe({"llm": {**options, **steps, "base": base, **llm}})
