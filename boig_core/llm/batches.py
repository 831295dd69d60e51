"""Batches: which samples each optimiser step sees, and how they become tensors.

The order is a pure function of (seed, step): BoigLLM and its no-KPI twin see the same samples, and a resumed training goes on exactly
where it stopped. Each batch holds as many high as medium as low samples, each bucket in passes of its own shuffling. Shape letters:
B examples, T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from boig_core.errors import InputError
from boig_core.llm.tokens import Example
from boig_core.vocabulary import BUCKETS, Sample

IGNORE = -100


class Draw(NamedTuple):
    """A sample of a step: its index, and how often it was drawn before."""

    row: int
    turn: int


class BalancedOrder:
    """Indices of the samples of each step.

    Args:
        samples: the training split; samples without a bucket are never drawn.
        batch: samples a step, over all ranks.
        seed: of the shuffling.

    Raises:
        InputError: a bucket has no sample.
    """

    def __init__(self, samples: Sequence[Sample], batch: int, seed: int) -> None:
        self._batch = batch
        self._seed = seed
        self._members = [np.array([i for i, s in enumerate(samples) if s.bucket == bucket], np.int64) for bucket in BUCKETS]
        self._passes: dict[tuple[int, int], NDArray[np.int64]] = {}
        for bucket, members in zip(BUCKETS, self._members, strict=True):
            if not len(members):
                raise InputError(f"bucket {bucket}", "has no training sample", "add posts, or lower data.floors and data.min_posts")

    def rows(self, step: int) -> list[int]:
        """Sample indices of one step, as many of each bucket as divide evenly."""
        return [draw.row for draw in self.draws(step)]

    def draws(self, step: int) -> list[Draw]:
        """The same with the pass that each sample is met in."""
        return [self._draw(draw % len(BUCKETS), draw // len(BUCKETS)) for draw in range(step * self._batch, (step + 1) * self._batch)]

    def _draw(self, bucket: int, number: int) -> Draw:
        members = self._members[bucket]
        turn, place = divmod(number, len(members))
        if (bucket, turn) not in self._passes:
            self._passes[bucket, turn] = np.random.default_rng([self._seed, bucket, turn]).permutation(len(members))
        return Draw(int(members[self._passes[bucket, turn][place]]), turn)


def collate(examples: Sequence[Example], pad: int, *, width: int | None = None) -> tuple[Tensor, Tensor]:
    """Token ids and labels, each int64 (B, T), padded to ``width`` or to the longest; labels hold the answer's tokens alone.

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
