"""Teacher forcing: how probable a language model finds given answers, token by token.

This stands in the reward's inner loop, where many images answer one prompt, and the HIGH and the
LOW prompt of a post differ in their last line alone. So what rows have in common is read once, in
up to three levels: the stem that several prompts begin with, the rest of each prompt, and each
row's answer, every level over the keys and values of the one before. What is common is found on
tokens, because BPE merges across any boundary of texts. Leaves out: which prompts and answers to
score, and what to make of it (see `rewards`). Shape letters: R rows of a level, T its columns, S
columns before it, H heads, D width of a head, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Final
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer

from boig_core.llm.architecture import positions_of, text_config
from boig_core.llm.batches import IGNORE, collate
from boig_core.llm.tokens import Example, Tokens, encode_examples, limits_of
from boig_core.observability.logs import get_logger

log = get_logger(__name__)

_ROWS: Final = 8
"""Rows of a forward pass are filled up to a multiple of this, and so are its columns: few shapes,
each with its own fixed kernels."""
_COLUMNS: Final = 8
_ALIKE: Final = 0.8
"""Prompts that share at least this much of the longer one share a stem: rests are padded to the
longest, so short rests pay."""
_APART: Final = {torch.float32: 1e-3, torch.float64: 1e-3}
_APART_HALF: Final = 0.25
"""Difference in nats between both ways of reading that rounding can explain, by dtype; a wrong
position or mask shows as more."""

Values = NDArray[np.float64]


def answer_logprobs(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    answers: Sequence[str],
    *,
    chunk: int = 64,
    share: bool = True,
) -> list[Values]:
    """Natural log-probabilities of each answer's tokens under its prompt, EOS included, one array
    (T,) a pair.

    Pairs are sorted by prompt and scored in passes of at most ``chunk``, whose shapes follow from
    the pairs alone, so that the same call gives the same bits again.

    Args:
        model: a causal language model in evaluation mode.
        tokenizer: its own.
        prompts: one per answer; equal and similar ones may stand in any order.
        answers: canonical answer texts.
        chunk: rows of a forward pass.
        share: read what prompts have in common once; False: read each prompt anew, as a model is
            read whose cache is not one of plain keys and values.

    Raises:
        InputError: an answer is too long for the model's context.
        ValueError: other than one prompt an answer.
    """
    if len(prompts) != len(answers):
        raise ValueError(f"{len(prompts)} prompts for {len(answers)} answers")
    examples = encode_examples(tokenizer, prompts, answers, *limits_of(model, tokenizer))
    return example_logprobs(model, tokenizer.pad_token_id, examples, chunk=chunk, share=share)


@torch.inference_mode()
def example_logprobs(
    model: Any, pad: int, examples: Sequence[Example], *, chunk: int = 64, share: bool = True
) -> list[Values]:
    """The same as `answer_logprobs` of what is encoded already, with token id ``pad`` for
    padding."""
    share = share and _can_share(model, pad)
    # Rows that share a prompt are found as runs, so they have to stand together.
    order = sorted(range(len(examples)), key=lambda i: examples[i].prompt_T.tolist())
    scored: list[Values] = [np.empty(0)] * len(examples)
    for start in range(0, len(order), chunk):
        picked = order[start : start + chunk]
        rows = [examples[i] for i in picked]
        # Filled up with the last row, which brings no new prompt; the zip below drops its scores.
        filled = [*rows, *[rows[-1]] * (-len(rows) % _ROWS)]
        logprobs = _score_shared(model, pad, filled) if share else _score_plain(model, pad, filled)
        for i, values_T in zip(picked, logprobs, strict=False):
            scored[i] = values_T
    return scored


def _score_plain(model: Any, pad: int, examples: Sequence[Example]) -> list[Values]:
    longest = max(example.length for example in examples)
    # Rounding up must not pass the last place: learned positions have no row beyond it.
    width = min(_padded(longest), max(longest, positions_of(model)))
    ids_RT, labels_RT = (x.to(model.device) for x in collate(examples, pad, width=width))
    # Logits from the end of the shortest prompt on: no column before it predicts an answer.
    keep = width - min(len(example.prompt_T) for example in examples) + 1
    logits_RTV = model(input_ids=ids_RT, logits_to_keep=keep, use_cache=False).logits[:, :-1]
    return _chosen(logits_RTV, labels_RT[:, 1 - keep :])


def _score_shared(model: Any, pad: int, examples: Sequence[Example]) -> list[Values]:
    """Score rows whose equal prompts stand together. The last token of a prompt is read with the
    answer, whose first token it predicts."""
    heads = [
        np.array(head, np.int32)
        for head, _ in groupby(example.prompt_T[:-1].tolist() for example in examples)
    ]
    head_of_row = _numbered([example.prompt_T[:-1].tobytes() for example in examples])
    stems, stem_of_head = _stems(heads)
    level = _read(model, pad, stems)
    # Otherwise each stem is a whole head, and no rest is left to read.
    if len(stems) < len(heads):
        rests = [head[len(stems[stem]) :] for head, stem in zip(heads, stem_of_head, strict=True)]
        level = _read_on(model, pad, rests, level, stem_of_head)
    texts = [np.concatenate([example.prompt_T[-1:], example.answer_T[:-1]]) for example in examples]
    ids_RT, here_RT = _batch(model, pad, texts)
    labels_RT = torch.full(ids_RT.shape, IGNORE)
    for row, example in enumerate(examples):
        labels_RT[row, : len(example.answer_T)] = torch.from_numpy(example.answer_T)
    logits_RTV, _ = _forward(model, ids_RT, here_RT, level, head_of_row, keep=False)
    return _chosen(logits_RTV, labels_RT.to(model.device))


def _chosen(logits_RTV: Tensor, labels_RT: Tensor) -> list[Values]:
    logits_RTV = logits_RTV.float()
    # logsumexp alone: log_softmax would make another tensor as large as the logits. IGNORE is no
    # index, so it looks up token 0, which is dropped below.
    chosen_RT = logits_RTV.gather(-1, labels_RT.clamp(min=0)[..., None])[
        ..., 0
    ] - logits_RTV.logsumexp(-1)
    values_RT, counts_RT = chosen_RT.double().cpu().numpy(), (labels_RT != IGNORE).cpu().numpy()
    return [row[kept] for row, kept in zip(values_RT, counts_RT, strict=True)]


@dataclass(frozen=True)
class _Level:
    """What was read of some texts: keys and values (R, H, S, D) of each layer, and which columns
    hold tokens (1) or padding (0)."""

    layers: list[tuple[Tensor, Tensor]]
    seen_RS: Tensor


class _Grown(DynamicLayer):  # type: ignore[misc]  # transformers has no types
    """Keys and values of one layer: those of a parent level, row by row, before those of the rows
    that are read.

    ``spans`` are parent row, first row and end of the rows that follow it. What is read last is not
    kept: the rows of a whole batch, in all layers, may be larger than the model.
    """

    def __init__(
        self, parent: tuple[Tensor, Tensor], spans: Sequence[tuple[int, int, int]], keep: bool
    ) -> None:
        super().__init__()
        self._parent, self._spans, self._keep = parent, spans, keep

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """All keys and values of the rows; called once."""
        grown = self._grow(self._parent[0], key_states), self._grow(self._parent[1], value_states)
        if self._keep:
            self.keys, self.values = grown
        return grown

    def get_seq_length(self) -> int:
        """Columns before those that are read."""
        # transformers sizes its mask by this before `update`, when the layer has no keys of its
        # own.
        return self._parent[0].shape[-2]

    def _grow(self, old_RHSD: Tensor, new_RHTD: Tensor) -> Tensor:
        rows, heads, columns, width = new_RHTD.shape
        before = old_RHSD.shape[-2]
        # Filled in place: picking the parent's rows and joining would copy the shared columns
        # twice.
        whole = new_RHTD.new_empty(rows, heads, before + columns, width)
        for parent, start, stop in self._spans:
            whole[start:stop, :, :before] = old_RHSD[parent]
        whole[:, :, before:] = new_RHTD
        return whole


def _read(model: Any, pad: int, texts: Sequence[Tokens]) -> _Level:
    """Read texts from their beginning. Padding on the right needs no mask here: nothing that counts
    can see it."""
    ids_RT, here_RT = _batch(model, pad, texts)
    layers = model(input_ids=ids_RT, use_cache=True, logits_to_keep=1).past_key_values.layers
    return _Level([(layer.keys, layer.values) for layer in layers], here_RT)


def _read_on(
    model: Any, pad: int, texts: Sequence[Tokens], parent: _Level, parent_of_row: Sequence[int]
) -> _Level:
    """Read texts that go on where a row of the parent ends; an empty one ends there too."""
    _, level = _forward(model, *_batch(model, pad, texts), parent, parent_of_row, keep=True)
    return level


def _forward(
    model: Any,
    ids_RT: Tensor,
    here_RT: Tensor,
    parent: _Level,
    parent_of_row: Sequence[int],
    *,
    keep: bool,
) -> tuple[Tensor, _Level]:
    ends = [sum(1 for _ in rows) for _, rows in groupby(parent_of_row)]
    stops = np.cumsum(ends).tolist()
    spans = [
        (parent_of_row[stop - 1], stop - count, stop)
        for stop, count in zip(stops, ends, strict=True)
    ]
    before_RS = parent.seen_RS[torch.tensor(parent_of_row, device=ids_RT.device)]
    mask_RS = torch.cat([before_RS, here_RT], dim=1)
    # Places count tokens and not columns: between the levels lies padding.
    place_RT = before_RS.sum(dim=1, keepdim=True) + torch.arange(
        ids_RT.shape[1], device=ids_RT.device
    )
    cache = DynamicCache(config=text_config(model))
    cache.layers = [_Grown(layer, spans, keep) for layer in parent.layers]
    read = model(
        input_ids=ids_RT,
        attention_mask=mask_RS,
        position_ids=place_RT.clamp(
            max=positions_of(model) - 1
        ),  # only padding may stand behind the last place
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1 if keep else 0,  # 0: all
    )
    return read.logits, _Level(
        [(layer.keys, layer.values) for layer in cache.layers] if keep else [], mask_RS
    )


def _batch(model: Any, pad: int, texts: Sequence[Tokens]) -> tuple[Tensor, Tensor]:
    """Token ids and where they are (1) or padding is (0), each (R, T), on the model's device."""
    width = _padded(max(len(text_T) for text_T in texts))
    ids_RT = torch.full((len(texts), width), pad, dtype=torch.int64)
    here_RT = torch.zeros_like(ids_RT)
    for row, text_T in enumerate(texts):
        ids_RT[row, : len(text_T)] = torch.from_numpy(text_T)
        here_RT[row, : len(text_T)] = 1
    return ids_RT.to(model.device), here_RT.to(model.device)


def _stems(heads: Sequence[Tokens]) -> tuple[list[Tokens], list[int]]:
    """Stems of sorted texts, and which of them each text begins with: a text that is like none
    before it is a stem of its own."""
    stems: list[Tokens] = []
    stem_of_head: list[int] = []
    for head in heads:
        common = _common(stems[-1], head) if stems else 0
        if stems and common and common >= _ALIKE * max(len(stems[-1]), len(head)):
            # A stem only becomes shorter, so that the texts before this one still begin with it.
            stems[-1] = head[:common]
        else:
            stems.append(head)
        stem_of_head.append(len(stems) - 1)
    return stems, stem_of_head


def _common(first_T: Tokens, second_T: Tokens) -> int:
    """Length of what two texts begin with alike."""
    length = min(len(first_T), len(second_T))
    differ = np.flatnonzero(first_T[:length] != second_T[:length])
    return int(differ[0]) if differ.size else length


def _numbered(keys: Sequence[bytes]) -> list[int]:
    """Number of each key's run, from 0."""
    return [number for number, (_, run) in enumerate(groupby(keys)) for _ in run]


def _padded(length: int) -> int:
    return max(1, -(-length // _COLUMNS)) * _COLUMNS


# Weak keys, so that knowing of a model does not keep it in memory.
_sharing: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()


def _can_share(model: Any, pad: int) -> bool:
    """Whether a model reads on from given keys and values as if it had read them itself; found out
    once a model."""
    if model not in _sharing:
        reason = _why_not(model, pad)
        if reason:
            log.warning("prompts are read anew for each answer, which is slower: %s", reason)
        _sharing[model] = not reason
    return _sharing[model]


@torch.inference_mode()
def _why_not(model: Any, pad: int) -> str:
    config = text_config(model)
    layers = [] if getattr(model, "_is_stateful", False) else DynamicCache(config=config).layers
    if not layers or any(type(layer) is not DynamicLayer for layer in layers):
        return f"the cache of {type(model).__name__} holds other than plain keys and values"
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") in {"dynamic", "longrope"}:
        return f"positions of {type(model).__name__} depend on the length of the whole text"
    ids = np.arange(40, dtype=np.int32) % config.vocab_size
    # All three levels are tried: two prompts with a stem in common, one of them ending with it, a
    # third without, and several answers to one prompt.
    rows = [
        Example(prompt, answer)
        for prompt in (ids[:20], ids[1:20])
        for answer in (ids[20:30], ids[30:36])
    ]
    rows += [Example(np.append(ids[:18], ids[30:31]), ids[20:26])]
    rows.sort(key=lambda row: row.prompt_T.tolist())
    pairs = zip(_score_plain(model, pad, rows), _score_shared(model, pad, rows), strict=True)
    apart = max(float(np.abs(plain_T - shared_T).max()) for plain_T, shared_T in pairs)
    # In this form NaN counts as apart.
    if not apart <= _APART.get(model.dtype, _APART_HALF):
        return f"{type(model).__name__} differs by {apart:.2g} nats when it reads on from a shared prompt"
    return ""
