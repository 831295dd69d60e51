"""Answering: a saved language model writes descriptions for prompts, in batches: its likeliest answer, or samples of its answers.

Leaves out: what the answers are worth (see `metrics`) and scoring a given answer (see `score`).
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

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
    answers = [""] * len(prompts)
    for rows, ids_BT, mask_BT in _batches(model, tokenizer, prompts, max_new_tokens, batch):
        written_BT = model.generate(
            input_ids=ids_BT,
            attention_mask=mask_BT,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )[:, ids_BT.shape[1] :]
        for i, text in zip(rows, tokenizer.batch_decode(written_BT, skip_special_tokens=True), strict=True):
            answers[i] = text
    return answers


@torch.inference_mode()
def sample_answers(
    model: Any, tokenizer: Any, prompts: Sequence[str], *, samples: int, seed: int, max_new_tokens: int = 256, batch: int = 64
) -> list[list[str]]:
    """Several answers to each prompt, in order, drawn from the model's own distribution.

    A prompt is read once for all its answers. What is drawn depends on the seed and the prompt, not on its company.

    Args:
        prompts: as `templates.build_prompt` words them.
        samples: answers a prompt.
        seed: of the draws.
        max_new_tokens: longest answer.
        batch: prompts at a time.
    """
    answers: list[list[str]] = [[] for _ in prompts]
    for rows, ids_BT, mask_BT in _batches(model, tokenizer, prompts, max_new_tokens, batch):
        chance_NT = np.concatenate(
            [np.random.default_rng([seed, zlib.crc32(prompts[i].encode())]).random((samples, max_new_tokens)) for i in rows]
        )
        place_BT = (mask_BT.cumsum(dim=1) - 1).clamp(min=0)
        read = model(input_ids=ids_BT, attention_mask=mask_BT, position_ids=place_BT, use_cache=True, logits_to_keep=1)
        read.past_key_values.batch_repeat_interleave(samples)
        written_NT = _draw(
            model,
            read.past_key_values,
            read.logits[:, -1].repeat_interleave(samples, dim=0),
            mask_BT.repeat_interleave(samples, dim=0),
            torch.from_numpy(chance_NT).to(model.device),
            (tokenizer.eos_token_id, tokenizer.pad_token_id),
        )
        texts = tokenizer.batch_decode(written_NT, skip_special_tokens=True)
        for place, i in enumerate(rows):
            answers[i] = texts[place * samples : (place + 1) * samples]
    return answers


def _draw(model: Any, cache: Any, logits_NV: Tensor, mask_NT: Tensor, chance_NT: Tensor, marks: tuple[int, int]) -> Tensor:
    """Token ids drawn one after the other by inverting the cumulative distribution at ``chance_NT``, until every answer has ended."""
    end, pad = marks
    place_N = mask_NT.sum(dim=1)
    over_N = torch.zeros(len(mask_NT), dtype=torch.bool, device=mask_NT.device)
    written: list[Tensor] = []
    for step in range(chance_NT.shape[1]):
        cumulated_NV = logits_NV.double().softmax(dim=-1).cumsum(dim=-1)
        drawn_N = (cumulated_NV < chance_NT[:, step, None] * cumulated_NV[:, -1:]).sum(dim=-1)
        written.append(drawn_N.masked_fill(over_N, pad))
        over_N = over_N | (drawn_N == end)
        if bool(over_N.all()):
            break
        mask_NT = torch.cat([mask_NT, torch.ones_like(mask_NT[:, :1])], dim=1)
        logits_NV = model(
            input_ids=written[-1][:, None], attention_mask=mask_NT, position_ids=(place_N + step)[:, None], past_key_values=cache
        ).logits[:, -1]
    return torch.stack(written, dim=1)


def _batches(
    model: Any, tokenizer: Any, prompts: Sequence[str], max_new_tokens: int, batch: int
) -> Iterator[tuple[list[int], Tensor, Tensor]]:
    """Indices, token ids and attention mask (B, T) of prompts of similar length, padded on the left, on the model's device.

    Raises:
        InputError: the model's context leaves no room for a prompt.
    """
    room = model.config.max_position_embeddings - max_new_tokens
    if room < 16:
        raise InputError(f"max_new_tokens = {max_new_tokens}", "leaves no room for a prompt in the model's context", "lower it")
    prompts_NT = encode_prompts(tokenizer, prompts, room)
    order = sorted(range(len(prompts)), key=lambda i: len(prompts_NT[i]))
    for start in range(0, len(order), batch):
        rows = order[start : start + batch]
        width = max(len(prompts_NT[i]) for i in rows)
        ids_BT = torch.full((len(rows), width), tokenizer.pad_token_id, dtype=torch.int64)
        mask_BT = torch.zeros_like(ids_BT)
        for row, i in enumerate(rows):
            ids_BT[row, width - len(prompts_NT[i]) :] = torch.from_numpy(prompts_NT[i])
            mask_BT[row, width - len(prompts_NT[i]) :] = 1
        yield rows, ids_BT.to(model.device), mask_BT.to(model.device)


def parse_or_none(text: str) -> Description | None:
    """The description that an answer states, or None when it cannot be parsed: the caller counts those.

    More forgiving than `parse_answer` in one thing: of a name that is written twice, a small model's habit, the first counts.
    """
    try:
        return from_answer(json.loads(text, object_pairs_hook=lambda pairs: dict(reversed(pairs))))
    except (InputError, ValueError, RecursionError):
        return None
