"""The optimizer's state for another number of ranks, or another ZeRO stage from 1 to 3: flat
partitions cut by parameter and refilled.

A rank's file holds one flat partition a group: master weights in float32 and both moments of AdamW.
They are read as mapped files, one parameter at a time, and copied into the partitions of the new
ranks; nothing is rounded. DeepSpeed's universal checkpoint does this through one file for each
state of each parameter; it is not used, because under ZeRO 3 it gives all groups the weight decay
of the first, restores no buffers, and fails where a rank holds nothing of a small group. Leaves
out: files and collectives (see `engine`).
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, prod
from typing import Any

import torch
from torch import Tensor

from boig_core.errors import RecipeError

State = dict[str, Any]
"""What ``state_dict()`` of a ZeRO optimizer gives on one rank."""
Groups = Sequence[Mapping[str, Sequence[int]]]
"""Shape by name of the trained parameters in each of the optimizer's groups, in the order in which
they are flattened."""
_WEIGHTS = "weights"


@dataclass(frozen=True)
class Piece:
    """``size`` numbers of the parameter ``name``, which lie from ``start`` on in the rank's
    partition of ``group``."""

    group: int
    name: str
    start: int
    size: int


def refuse_other_model(saved: Groups, groups: Groups) -> None:
    """Refuse a checkpoint whose trained parameters are others.

    Args:
        saved: those of the checkpoint.
        groups: those of the model.

    Raises:
        RecipeError: naming the first that differs.
    """
    old, new = (
        {name: shape for group in side for name, shape in group.items()} for side in (saved, groups)
    )
    for name in sorted(old.keys() | new.keys()):
        if old.get(name) != new.get(name):
            raise RecipeError(
                f"trained parameter {name}",
                f"has shape {old.get(name, 'none')} in the checkpoint and {new.get(name, 'none')} in this model",
                "go back to the recipe of that run, or start a new one",
            )


def pieces(state: State, groups: Groups, rank: int, ranks: int) -> Iterator[Piece]:
    """What a rank's partitions hold. The pieces of a parameter follow each other in the order of
    the ranks."""
    if _partitions_weights(state):
        for group, shapes in enumerate(groups):
            start = 0
            for (
                name,
                shape,
            ) in shapes.items():  # each parameter is cut into equal parts, the last ones padded
                size = ceil(prod(shape) / ranks)
                # The last ranks may hold less than a whole part, or nothing of it but padding.
                yield Piece(group, name, start, max(0, min(size, prod(shape) - rank * size)))
                # By the whole part: padding takes its place in the partition, too.
                start += size
        return
    for group, addresses in enumerate(
        state["param_slice_mappings"]
    ):  # the whole group is cut, wherever a parameter lies
        for name, address in addresses.items():
            yield Piece(group, name, address.start, address.numel)


def refill(
    state: State,
    mine: Sequence[Piece],
    before: Mapping[str, int],
    saved: Sequence[tuple[State, Sequence[Piece]]],
) -> None:
    """Replace weights and moments in a rank's state by those of a checkpoint.

    Args:
        state: of a rank of the new training; its moments may be missing, as before the first step.
        mine: its pieces.
        before: how many numbers of each parameter lie on the ranks before it.
        saved: each rank's state in the checkpoint, with its pieces, in the order of the ranks.
    """
    parts_of: dict[str, list[tuple[dict[str, Tensor], Piece]]] = defaultdict(list)
    steps: dict[str, Any] = {}
    for old, parts in saved:
        flats = [_flats(old, group) for group in range(len(_weights(old)))]
        # What is no flat tensor is the step count. Any rank's will do, since all step together.
        steps = steps or {
            key: value for key, value in _moments(old)[0].items() if key not in flats[0]
        }
        for piece in parts:
            parts_of[piece.name].append((flats[piece.group], piece))
    kinds = [kind for kind in _flats(saved[0][0], 0) if kind != _WEIGHTS]
    for group, weights in enumerate(_weights(state)):
        # ZeRO 1 and 2 give weights without their padding and moments with it; ZeRO 3 pads both.
        padded = weights.numel() + (
            0 if _partitions_weights(state) else state["group_paddings"][group]
        )
        # Each group its own step count: AdamW raises it in place.
        _moments(state)[group] = {
            **copy.deepcopy(steps),
            **{kind: torch.zeros(padded) for kind in kinds},
        }
    for piece in mine:
        first, flats_of_mine = before.get(piece.name, 0), _flats(state, piece.group)
        for kind in (_WEIGHTS, *kinds):
            whole = torch.cat(
                [
                    flats[kind][old.start : old.start + old.size]
                    for flats, old in parts_of[piece.name]
                ]
            )
            flats_of_mine[kind][piece.start : piece.start + piece.size].copy_(
                whole[first : first + piece.size]
            )


def _partitions_weights(state: State) -> bool:
    return "fp32_flat_groups" in state  # ZeRO 3


def _weights(state: State) -> list[Tensor]:
    weights: list[Tensor] = state[
        "fp32_flat_groups" if _partitions_weights(state) else "single_partition_of_fp32_groups"
    ]
    return weights


def _moments(state: State) -> dict[int, dict[str, Any]]:
    moments: dict[int, dict[str, Any]] = state[
        "optimizer_state_dict" if _partitions_weights(state) else "base_optimizer_state"
    ]["state"]
    return moments


def _flats(state: State, group: int) -> dict[str, Tensor]:
    """What is partitioned of a group; a step count is a single number, or none."""
    moments = {
        key: value
        for key, value in _moments(state)[group].items()
        if isinstance(value, Tensor) and value.dim()
    }
    return {_WEIGHTS: _weights(state)[group].detach(), **moments}
