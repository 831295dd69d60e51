"""Batches: which samples each optimizer step sees, and how they become tensors.

The order is a pure function of (seed, step): BoigLLM and its no-KPI twin see the same samples, and
a resumed training goes on exactly where it stopped. The task says in which groups samples are
drawn: with one for each bucket, a batch holds as many high as medium as low samples; with a single
one, each sample comes as often as any other. Shape letters: B examples, T tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from boig_core.errors import InputError
from boig_core.llm.tokens import Example
from boig_core.vocabulary import BUCKETS, Sample

IGNORE = -100


class SampleDraw(NamedTuple):
    """A sample of a step: its index, and how often it was drawn before."""

    row: int
    turn: int


class Order:
    """Indices of the samples of each step: groups take turns, each in passes of its own shuffling.

    Args:
        groups: indices of the samples of each group by its name, as `by_bucket` or `as_one` gives
            them.
        batch: samples per step, over all ranks.
        seed: of the shuffling.

    Raises:
        InputError: a group has no sample.
    """

    def __init__(self, groups: Mapping[str, Sequence[int]], batch: int, seed: int) -> None:
        self._batch = batch
        self._seed = seed
        self._groups = [np.array(group, np.int64) for group in groups.values()]
        self._passes: dict[tuple[int, int], NDArray[np.int64]] = {}
        for name, group in groups.items():
            if not len(group):
                raise InputError(
                    name,
                    "has no training sample",
                    "add posts, or lower data.floors and data.min_posts",
                )

    def rows(self, step: int) -> list[int]:
        """Sample indices of one step, as many of each group as divide evenly."""
        return [draw.row for draw in self.draws(step)]

    def draws(self, step: int) -> list[SampleDraw]:
        """The same with the pass that each sample is met in."""
        # Counted on through all steps, so that groups stay even where a batch is no multiple of
        # their number.
        draws, groups = range(step * self._batch, (step + 1) * self._batch), len(self._groups)
        return [self._draw(draw % groups, draw // groups) for draw in draws]

    def _draw(self, group: int, number: int) -> SampleDraw:
        members = self._groups[group]
        turn, place = divmod(number, len(members))
        if (group, turn) not in self._passes:
            # Each pass has a generator of its own: a step's draws need none of the steps before it.
            self._passes[group, turn] = np.random.default_rng(
                [self._seed, group, turn]
            ).permutation(len(members))
        return SampleDraw(int(members[self._passes[group, turn][place]]), turn)


def by_bucket(samples: Sequence[Sample]) -> dict[str, list[int]]:
    """A group for each bucket, drawn as often as the others; samples without a bucket are in
    none."""
    return {
        f"bucket {bucket}": [i for i, s in enumerate(samples) if s.bucket == bucket]
        for bucket in BUCKETS
    }


def as_one(samples: Sequence[Sample]) -> dict[str, list[int]]:
    """One group, so that each sample is drawn as often as any other."""
    return {"the training split": list(range(len(samples)))}


def collate(
    examples: Sequence[Example], pad: int, *, width: int | None = None
) -> tuple[Tensor, Tensor]:
    """Token ids and labels, each int64 (B, T), padded to ``width`` or to the longest; labels hold
    the answer's tokens alone.

    Padding on the right needs no attention mask in a causal model: nothing that counts can see it.
    """
    width = width or max(example.length for example in examples)
    ids_BT = torch.full((len(examples), width), pad, dtype=torch.int64)
    labels_BT = torch.full((len(examples), width), IGNORE, dtype=torch.int64)
    for row, example in enumerate(examples):
        split, end = len(example.prompt_T), example.length
        ids_BT[row, :split] = torch.from_numpy(example.prompt_T)
        ids_BT[row, split:end] = torch.from_numpy(example.answer_T)
        labels_BT[row, split:end] = ids_BT[row, split:end]
    return ids_BT, labels_BT
