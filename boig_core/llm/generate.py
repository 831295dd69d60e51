"""Answering: a saved language model writes the likeliest description for each prompt, in batches.

Leaves out: samples of its answers (see `sampling`), what answers are worth (see `metrics`) and
scoring a given answer (see `score`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from boig_core.errors import InputError
from boig_core.llm.constraint import AnswerConstraint, MaskedLogits
from boig_core.llm.opening import open_language_model
from boig_core.llm.tokens import decode_answers, encode_prompts, limits_of, prompt_room
from boig_core.verbalization.answer import from_answer
from boig_core.vocabulary import Description


def load_llm(folder: Path | str) -> tuple[Any, Any]:
    """Model (evaluation mode, on the GPU if there is one) and tokenizer of a transformers folder.

    Raises:
        InputError: the folder holds no causal language model.
    """
    tokenizer, model = open_language_model(str(folder), f"language model {folder}")
    return model.to("cuda" if torch.cuda.is_available() else "cpu").eval(), tokenizer


@torch.inference_mode()
def generate_answers(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    *,
    constraint: AnswerConstraint | None = None,
    max_new_tokens: int = 256,
    batch: int = 64,
) -> list[str]:
    """The model's answer to each prompt, in order, by greedy decoding; it may or may not parse.

    Args:
        prompts: as `templates.build_prompt` words them.
        constraint: of the tokenizer: what ends can be parsed; None: the model writes as it likes.
        max_new_tokens: longest answer; a longer one is cut, and cannot be parsed.
        batch: prompts at a time; those of similar length are answered together, which saves
            padding.
    """
    answers = [""] * len(prompts)
    for rows, ids_BT, mask_BT in prompt_batches(model, tokenizer, prompts, max_new_tokens, batch):
        masks = (
            []
            if constraint is None
            else [MaskedLogits(constraint.begin(len(rows)), ids_BT.shape[1])]
        )
        with _greedy(model, tokenizer, max_new_tokens) as config:
            written_BT = model.generate(
                input_ids=ids_BT,
                attention_mask=mask_BT,
                generation_config=config,
                logits_processor=masks,
            )[:, ids_BT.shape[1] :]
        for i, text in zip(rows, decode_answers(tokenizer, written_BT), strict=True):
            answers[i] = text
    return answers


@contextmanager
def _greedy(model: Any, tokenizer: Any, max_new_tokens: int) -> Iterator[Any]:
    """Settings under which a model writes the token that it finds likeliest, and nothing else
    counts."""
    from transformers import GenerationConfig

    config = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        num_beams=1,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    # transformers fills whatever a config leaves open with the model's own: penalties, bans, beams.
    own, model.generation_config = model.generation_config, config
    try:
        yield config
    finally:
        model.generation_config = own


def prompt_batches(
    model: Any, tokenizer: Any, prompts: Sequence[str], max_new_tokens: int, batch: int
) -> Iterator[tuple[list[int], Tensor, Tensor]]:
    """Indices, token ids and attention mask (B, T) of prompts of similar length, padded on the
    left, on the model's device.

    Raises:
        InputError: the model's context leaves no room for a prompt.
    """
    context, longest = limits_of(model, tokenizer)
    # Prompts are cut as in training, however short an answer is asked for; one longer than trained
    # for takes its room from the prompt.
    room = min(prompt_room(context, longest), context - max_new_tokens)
    if room < 16:
        raise InputError(
            f"max_new_tokens = {max_new_tokens}",
            "leaves no room for a prompt in the model's context",
            "lower it",
        )
    prompts_NT = encode_prompts(tokenizer, prompts, room)
    order = sorted(range(len(prompts)), key=lambda i: len(prompts_NT[i]))
    for start in range(0, len(order), batch):
        rows = order[start : start + batch]
        width = max(len(prompts_NT[i]) for i in rows)
        ids_BT = torch.full((len(rows), width), tokenizer.pad_token_id, dtype=torch.int64)
        mask_BT = torch.zeros_like(ids_BT)
        # On the left: all prompts of a batch must end where the first answer token is appended.
        for row, i in enumerate(rows):
            ids_BT[row, width - len(prompts_NT[i]) :] = torch.from_numpy(prompts_NT[i])
            mask_BT[row, width - len(prompts_NT[i]) :] = 1
        yield rows, ids_BT.to(model.device), mask_BT.to(model.device)


def parse_or_none(text: str) -> Description | None:
    """The description that an answer states, or None when it cannot be parsed: the caller counts
    those.

    More forgiving than `parse_answer` in one thing: of a name that is written twice, a small
    model's habit, the first counts.
    """
    try:
        # Reversed, because a dict keeps the last of equal keys.
        return from_answer(json.loads(text, object_pairs_hook=lambda pairs: dict(reversed(pairs))))
    except (InputError, ValueError, RecursionError):
        # RecursionError: a model may open brackets until Python's parser gives up.
        return None
