"""Packing: samples of a micro-batch laid end to end in rows, each blind to the others.

Position ids restart at each sample, and from them transformers builds a mask of blocks (SDPA,
eager) or calls flash attention with the samples' lengths. It does so only where it is given neither
an attention mask nor a cache: with either, samples silently see those before them. So nothing here
makes a mask, and `check_packing` asks the model itself before it is trained. Leaves out: which
samples share a micro-batch (see `batches`). Shape letters: B rows, T columns, N answer tokens, E
samples, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from boig_core.errors import RecipeError
from boig_core.llm.architecture import text_config
from boig_core.llm.tokens import Example

_MOVED = {torch.float32: 1e-3, torch.bfloat16: 0.1}
_SEEN = 1e-5
"""Largest differences of logits that rounding explains, as shares of their spread: of a sample that
is packed instead of alone, and of one beside another neighbor (where experts are batched together,
else there is none at all)."""


@dataclass(frozen=True)
class Rows:
    """What one forward pass reads.

    Attributes:
        ids_BT: token ids, int64, padded on the right, where nothing that counts can see it.
        positions_BT: place of each token in its sample, int64; none where every row holds one
            sample.
        keep_BT: whether the next token belongs to an answer, bool: the columns that need logits.
        targets_N: those next tokens, int64, row by row.
        first_E: index among them of each sample's first, int64, in the order in which the samples
            were given: its column is that of the last token of the sample's prompt.
    """

    ids_BT: Tensor
    positions_BT: Tensor | None
    keep_BT: Tensor
    targets_N: Tensor
    first_E: Tensor

    def inputs(self, device: torch.device) -> dict[str, Any]:
        """Keyword arguments of a causal language model; its logits are then (N, V)."""
        inputs = {
            "input_ids": self.ids_BT.to(device),
            "logits_to_keep": self.keep_BT.to(device),
            "use_cache": False,
        }
        return (
            inputs
            if self.positions_BT is None
            else {**inputs, "position_ids": self.positions_BT.to(device)}
        )


@dataclass(frozen=True)
class Layout:
    """How samples become rows.

    Attributes:
        pad: token id of padding.
        room: tokens a row may hold; 0: one sample a row, infinite: one row (what flash attention
            needs: it takes no second one).
        hidden: width of the model, which says how much a longer row may cost.
    """

    pad: int
    room: float = 0
    hidden: int = 1

    def __call__(self, examples: Sequence[Example]) -> Rows:
        """Rows of some samples, which keep their order within and among rows as far as first fit
        does."""
        rows = cheapest_rows([example.length for example in examples], self.room, self.hidden)
        shape = len(rows), max(sum(examples[i].length for i in row) for row in rows)
        ids_BT = np.full(shape, self.pad, np.int64)
        places_BT = np.zeros(shape, np.int64)
        answered_BT = np.zeros(shape, bool)
        for b, row in enumerate(rows):
            end = 0
            for example in (examples[i] for i in row):
                start, end = end, end + example.length
                answer = start + len(example.prompt_T)
                ids_BT[b, start:answer], ids_BT[b, answer:end] = example.prompt_T, example.answer_T
                # Runs on to the end of the row, so that padding is the tail of the last sample,
                # which no token before it sees. Places that stood still there would make each a
                # sample of its own.
                places_BT[b, start:] = np.arange(shape[1] - start)
                answered_BT[b, answer:end] = True
        keep_BT = np.roll(answered_BT, -1, axis=1)  # no answer stands in the first column
        # One sample a row is plain causal attention, in whatever way a model counts places: so
        # models that take no position ids can be trained, too.
        packed = any(len(row) > 1 for row in rows)
        # Answers' tokens stand in the order in which samples were laid, `first_E` in the one in
        # which they came: first fit may change it.
        laid = [i for row in rows for i in row]
        first_E = np.empty(len(examples), np.int64)
        first_E[laid] = np.cumsum([0, *(len(examples[i].answer_T) for i in laid[:-1])])
        return Rows(
            torch.from_numpy(ids_BT),
            torch.from_numpy(places_BT) if packed else None,
            torch.from_numpy(keep_BT),
            torch.from_numpy(ids_BT[answered_BT]),
            torch.from_numpy(first_E),
        )


def first_fit(lengths: Sequence[int], room: float) -> list[list[int]]:
    """Indices of the samples of each row: every sample goes into the first row that has room for
    it, a longer one into its own."""
    rows: list[list[int]] = []
    left: list[float] = []
    for index, length in enumerate(lengths):
        row = next((r for r, free in enumerate(left) if length <= free), len(rows))
        if row == len(rows):
            rows.append([])
            left.append(room)
        rows[row].append(index)
        left[row] -= length
    return rows


def cheapest_rows(lengths: Sequence[int], room: float, hidden: int) -> list[list[int]]:
    """The rows, each of at most ``room`` tokens, that cost a transformer least: longer ones hold
    less padding, and attend to more.

    A token of a layer costs about 24 h^2 operations in its matrices and 4 h for each column that it
    attends to; a mask of blocks saves none of those, a causal one without a mask half.
    """
    if not room or math.isinf(room):
        return first_fit(lengths, room)
    longest, total = max(lengths), sum(lengths)
    # Candidates: for each number of rows the width at which they would hold no padding.
    widths = {max(longest, -(-total // count)) for count in range(1, len(lengths) + 1)}
    choices = [first_fit(lengths, width) for width in sorted(widths) if width <= max(room, longest)]

    def cost(rows: list[list[int]]) -> float:
        width = max(sum(lengths[i] for i in row) for row in rows)
        # In units of 4 h, which all choices share: 24 h^2 leaves 6 h.
        return len(rows) * width * (6 * hidden + (width if len(rows) < len(lengths) else width / 2))

    return min(choices, key=cost)


def layout_for(model: Any, pad: int, context: int, *, packing: bool) -> Layout:
    """The layout that a model's attention needs."""
    # Before it calls flash attention, transformers looks for packed samples only in a batch of one
    # row; of several it takes each for a single sample.
    flash = "flash" in (getattr(model.config, "_attn_implementation", None) or "")
    room = (math.inf if flash else context) if packing else 0
    return Layout(pad, room, text_config(model).hidden_size)


@torch.no_grad()
def check_packing(
    forward: Callable[..., Any], vocab_size: int, name: str, device: torch.device
) -> None:
    """Make sure that a packed sample is computed as it is alone, and that no other sample changes
    it.

    Args:
        forward: the causal language model, in evaluation mode; every rank calls it (ZeRO 3).
        vocab_size: token ids are drawn below it.
        name: of the model, for the message.
        device: where it computes.

    Raises:
        RecipeError: the architecture sees across samples, or does not heed position ids.
    """
    one_row = Layout(pad=0, room=math.inf)
    # Both neighbors are equally long, so that the last sample stands at the same place: what then
    # changes its logits is what they say.
    first, other, last = (
        _random_sample(length, seed, vocab_size) for seed, length in enumerate((7, 7, 9))
    )
    packed_TV, changed_TV = (
        _logits(forward, one_row([before, last]), device)[-8:] for before in (first, other)
    )
    alone_TV = _logits(forward, one_row([last]), device)[-8:]
    spread = float(alone_TV.float().std())
    seen, moved = (
        float((packed_TV - logits_TV).abs().max()) for logits_TV in (changed_TV, alone_TV)
    )
    # A leak also moves the logits from those of the sample alone, so it is asked about first.
    if seen > _SEEN * spread:
        raise RecipeError(
            "llm.packing = true",
            f"{name} sees other samples of a row: logits change by {seen:.2g}",
            "set llm.packing=false",
        )
    if moved > _MOVED[alone_TV.dtype] * spread:
        raise RecipeError(
            "llm.packing = true",
            f"{name} does not start anew at each sample of a row",
            "set llm.packing=false",
        )


def _random_sample(length: int, seed: int, vocab_size: int) -> Example:
    ids_T = np.random.default_rng(seed).integers(vocab_size, size=length).astype(np.int32)
    return Example(ids_T[:1], ids_T[1:])


def _logits(forward: Callable[..., Any], rows: Rows, device: torch.device) -> Tensor:
    logits_NV: Tensor = forward(**rows.inputs(device)).logits
    return logits_NV
