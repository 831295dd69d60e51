"""Sampling: a saved language model answers each prompt several times, as often as it likes each
answer.

Leaves out: what the samples agree on (see `consensus`) and the likeliest answer (see `generate`).
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from transformers.cache_utils import DynamicLayer

from boig_core.llm.constraint import AnswerConstraint, AnswerMask
from boig_core.llm.generate import prompt_batches
from boig_core.llm.tokens import decode_answers

_ROOM: Final = 16
"""Tokens that a cache has room for beyond those it holds."""


@torch.inference_mode()
def sample_answers(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    *,
    samples: int,
    seed: int,
    constraint: AnswerConstraint | None = None,
    max_new_tokens: int = 256,
    batch: int = 64,
) -> list[list[str]]:
    """Several answers to each prompt, in order, drawn from the model's own distribution.

    A prompt is read once for all its answers. What is drawn depends on the seed and the prompt; on
    its company only through the last bits of the logits, which padding rounds otherwise.

    Args:
        prompts: as `templates.build_prompt` words them.
        samples: answers per prompt.
        seed: of the draws.
        constraint: of the tokenizer: each token is drawn among those that it allows; None: among
            all.
        max_new_tokens: longest answer.
        batch: answers at a time, and at least those of one prompt.
    """
    answers: list[list[str]] = [[] for _ in prompts]
    for rows, ids_BT, mask_BT in prompt_batches(
        model, tokenizer, prompts, max_new_tokens, max(1, batch // samples)
    ):
        size = (samples, max_new_tokens)
        # For all tokens at once: an answer keeps its numbers, whichever others leave the batch.
        chance_NT = np.concatenate([_chance(seed, prompts[i]).random(size) for i in rows])
        # Prompts are padded on the left, and yet their first token is at place 0.
        place_BT = (mask_BT.cumsum(dim=1) - 1).clamp(min=0)
        read = model(
            input_ids=ids_BT,
            attention_mask=mask_BT,
            position_ids=place_BT,
            use_cache=True,
            logits_to_keep=1,
        )
        read.past_key_values.batch_repeat_interleave(samples)
        layers = read.past_key_values.layers
        # Sliding windows drop columns, so their layers keep their own way of growing.
        read.past_key_values.layers = [
            Roomy(layer) if type(layer) is DynamicLayer else layer for layer in layers
        ]
        written_NT = _draw(
            model,
            read.past_key_values,
            read.logits[:, -1].repeat_interleave(samples, dim=0),
            mask_BT.repeat_interleave(samples, dim=0),
            torch.from_numpy(chance_NT).float().to(model.device),
            (tokenizer.eos_token_id, tokenizer.pad_token_id),
            None if constraint is None else constraint.begin(len(rows) * samples),
        )
        texts = decode_answers(tokenizer, written_NT)
        for place, i in enumerate(rows):
            answers[i] = texts[place * samples : (place + 1) * samples]
    return answers


def _chance(seed: int, prompt: str) -> np.random.Generator:
    """Random numbers of a prompt alone, whatever it is answered beside."""
    # crc32, because Python's own hash of a string differs from process to process.
    return np.random.default_rng([seed, zlib.crc32(prompt.encode())])


def _draw(
    model: Any,
    cache: Any,
    logits_NV: Tensor,
    mask_NT: Tensor,
    chance_NT: Tensor,
    marks: tuple[int, int],
    allowed: AnswerMask | None,
) -> Tensor:
    """Token ids drawn one after the other by inverting the cumulative distribution at
    ``chance_NT``, until every answer has ended.

    Lengths differ widely: answers that have ended leave the batch (N) as soon as they are a fifth
    of what is left of it (M).
    """
    end, pad = marks
    written_NT = torch.full(chance_NT.shape, pad, dtype=torch.int64, device=chance_NT.device)
    rows_M, place_M, mask_MT = (
        torch.arange(len(mask_NT), device=mask_NT.device),
        mask_NT.sum(dim=1),
        mask_NT,
    )
    over_M = torch.zeros_like(rows_M, dtype=torch.bool)
    logits_MV = logits_NV
    for step in range(chance_NT.shape[1]):
        if allowed is not None:
            logits_MV = allowed.apply(logits_MV)
        cumulated_MV = logits_MV.float().softmax(dim=-1).cumsum(dim=-1)
        # Rounding can leave the last sum below 1: unscaled, a draw could lie above all tokens.
        drawn_M = (cumulated_MV < chance_NT[rows_M, step, None] * cumulated_MV[:, -1:]).sum(dim=-1)
        if allowed is not None:
            # The running sum is rounded, so that a draw can land beside the token that it belongs
            # to.
            barred_M = logits_MV.gather(1, drawn_M[:, None])[:, 0].isneginf()
            drawn_M = drawn_M.where(~barred_M, logits_MV.argmax(dim=-1))
            allowed.advance(drawn_M.tolist())
        written_NT[rows_M, step] = drawn_M.masked_fill(over_M, pad)
        over_M = over_M | (drawn_M == end)
        # Leaving copies the whole cache, so it waits until it is worth that.
        if 5 * (over := int(over_M.sum())) >= len(over_M):
            if over == len(over_M):
                break
            kept_M = (~over_M).nonzero()[:, 0]
            rows_M, place_M, mask_MT, drawn_M, over_M = (
                x[kept_M] for x in (rows_M, place_M, mask_MT, drawn_M, over_M)
            )
            cache.batch_select_indices(kept_M)
            if allowed is not None:
                allowed.select(kept_M.tolist())
        # Answers that are over but still here are read on, and no other sees them.
        mask_MT = torch.cat([mask_MT, torch.ones_like(mask_MT[:, :1])], dim=1)
        logits_MV = model(
            input_ids=drawn_M[:, None],
            attention_mask=mask_MT,
            # A prompt of n tokens fills the places up to n - 1, so its first answer token is at n.
            position_ids=(place_M + step)[:, None],
            past_key_values=cache,
        ).logits[:, -1]
    return written_NT


class Roomy(DynamicLayer):  # type: ignore[misc]  # transformers has no types
    """Keys and values of one layer with room for more: a new token is written in place, where
    transformers' own copies all before it."""

    keys: Tensor
    values: Tensor

    def __init__(self, layer: DynamicLayer) -> None:
        super().__init__()
        # transformers takes a layer that is not marked as initialized to be empty, and sizes its
        # mask by that.
        self.lazy_initialization(layer.keys, layer.values)
        self._move(layer.keys, layer.values)

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Append tokens; returns all keys and values."""
        old, new = self.keys.shape[-2], self.keys.shape[-2] + key_states.shape[-2]
        # Decoding adds one token at a time, so that one move always makes room enough.
        if new > self._roomy[0].shape[-2]:
            self._move(self.keys, self.values)
        for room, states in zip(self._roomy, (key_states, value_states), strict=True):
            room[:, :, old:new] = states
        self.keys, self.values = (room[:, :, :new] for room in self._roomy)
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows."""
        self._move(self.keys[indices], self.values[indices])

    def _move(self, keys_NHTD: Tensor, values_NHTD: Tensor) -> None:
        length = keys_NHTD.shape[-2]
        self._roomy = [
            functional.pad(states, (0, 0, 0, _ROOM)) for states in (keys_NHTD, values_NHTD)
        ]
        self.keys, self.values = (room[:, :, :length] for room in self._roomy)
