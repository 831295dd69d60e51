"""Answering: a saved language model writes descriptions for prompts, greedily, in batches.

Leaves out: what the answers are worth (see `metrics`) and scoring a given answer (see `score`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from boig_core.errors import InputError
from boig_core.llm.tokens import encode_prompts
from boig_core.verbalization.answer import from_answer
from boig_core.vocabulary import Description


def load_llm(folder: Path | str) -> tuple[Any, Any]:
    """Model (evaluation mode, on the GPU if there is one) and tokenizer of a transformers folder.

    Raises:
        InputError: the folder holds no causal language model.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder))
        model = AutoModelForCausalLM.from_pretrained(str(folder))
    except (OSError, ValueError) as exc:
        raise InputError(f"language model {folder}", "cannot be opened", "give the folder of a published boigllm") from exc
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return model.to("cuda" if torch.cuda.is_available() else "cpu").eval(), tokenizer


@torch.inference_mode()
def generate_answers(model: Any, tokenizer: Any, prompts: Sequence[str], *, max_new_tokens: int = 256, batch: int = 64) -> list[str]:
    """The model's answer to each prompt, in order, by greedy decoding; it may or may not parse.

    Args:
        prompts: as `templates.build_prompt` words them.
        max_new_tokens: longest answer.
        batch: prompts at a time; those of similar length are answered together, which saves padding.
    """
    room = model.config.max_position_embeddings - max_new_tokens
    if room < 16:
        raise InputError(f"max_new_tokens = {max_new_tokens}", "leaves no room for a prompt in the model's context", "lower it")
    prompts_NT = encode_prompts(tokenizer, prompts, room)
    order = sorted(range(len(prompts)), key=lambda i: len(prompts_NT[i]))
    answers = [""] * len(prompts)
    for start in range(0, len(order), batch):
        rows = order[start : start + batch]
        width = max(len(prompts_NT[i]) for i in rows)
        ids_BT = torch.full((len(rows), width), tokenizer.pad_token_id, dtype=torch.int64)
        mask_BT = torch.zeros_like(ids_BT)
        for row, i in enumerate(rows):
            ids_BT[row, width - len(prompts_NT[i]) :] = torch.from_numpy(prompts_NT[i])
            mask_BT[row, width - len(prompts_NT[i]) :] = 1
        written_BT = model.generate(
            input_ids=ids_BT.to(model.device),
            attention_mask=mask_BT.to(model.device),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )[:, width:]
        for i, text in zip(rows, tokenizer.batch_decode(written_BT, skip_special_tokens=True), strict=True):
            answers[i] = text
    return answers


def parse_or_none(text: str) -> Description | None:
    """The description that an answer states, or None when it cannot be parsed: the caller counts those.

    More forgiving than `parse_answer` in one thing: of a name that is written twice, a small model's habit, the first counts.
    """
    try:
        return from_answer(json.loads(text, object_pairs_hook=lambda pairs: dict(reversed(pairs))))
    except (InputError, ValueError, RecursionError):
        return None
