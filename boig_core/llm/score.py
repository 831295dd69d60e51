"""Teacher forcing: how probable a language model finds given answers, token by token.

This stands in the reward's inner loop. Leaves out: which prompts and answers to score, and what to make of it (see `rewards`).
Shape letters: B pairs, T tokens, K columns that can hold answers, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from boig_core.llm.batches import IGNORE, collate
from boig_core.llm.tokens import Example, encode_examples, limits_of

_MULTIPLE = 16


@torch.inference_mode()
def answer_logprobs(
    model: Any, tokenizer: Any, prompts: Sequence[str], answers: Sequence[str], *, chunk: int = 64
) -> list[NDArray[np.float64]]:
    """Natural log-probabilities of each answer's tokens under its prompt, EOS included, one array (T,) a pair.

    Pairs are scored in chunks of a fixed number of rows (the last one filled up) padded to a multiple of 16 columns, so that the same
    call gives the same bits again.

    Args:
        model: a causal language model in evaluation mode.
        tokenizer: its own.
        prompts: one an answer.
        answers: canonical answer texts.
        chunk: rows of a forward pass.

    Raises:
        InputError: an answer is too long for the model's context.
        ValueError: other than one prompt an answer.
    """
    if len(prompts) != len(answers):
        raise ValueError(f"{len(prompts)} prompts for {len(answers)} answers")
    examples = encode_examples(tokenizer, prompts, answers, *limits_of(model, tokenizer))
    scored: list[NDArray[np.float64]] = []
    for start in range(0, len(examples), chunk):
        rows = examples[start : start + chunk]
        scored += _score(model, tokenizer.pad_token_id, [*rows, *[rows[-1]] * (chunk - len(rows))])[: len(rows)]
    return scored


def _score(model: Any, pad: int, examples: Sequence[Example]) -> list[NDArray[np.float64]]:
    longest = max(example.length for example in examples)
    width = min(-(-longest // _MULTIPLE) * _MULTIPLE, max(longest, model.config.max_position_embeddings))
    ids_BT, labels_BT = (x.to(model.device) for x in collate(examples, pad, width=width))
    keep = width - min(len(example.prompt_T) for example in examples) + 1
    logits_BKV = model(input_ids=ids_BT, logits_to_keep=keep, use_cache=False).logits[:, :-1].float()
    labels_BK = labels_BT[:, 1 - keep :]
    chosen_BK = logits_BKV.gather(-1, labels_BK.clamp(min=0)[..., None])[..., 0] - logits_BKV.logsumexp(-1)
    values_BK, counts_BK = chosen_BK.double().cpu().numpy(), (labels_BK != IGNORE).cpu().numpy()
    return [row[kept] for row, kept in zip(values_BK, counts_BK, strict=True)]
