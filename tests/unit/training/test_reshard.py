from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from boig_core.training.reshard import pieces, refill

SHAPES = st.lists(
    st.lists(st.lists(st.integers(1, 5), min_size=1, max_size=3), min_size=1, max_size=4),
    min_size=1,
    max_size=3,
)
KINDS = ("weights", "exp_avg", "exp_avg_sq")
Groups = list[dict[str, list[int]]]


def partitions(
    groups: Groups, full: dict[str, dict[str, Tensor]], ranks: int, stage: int
) -> list[dict[str, Any]]:
    """States as ZeRO lays them out, written down anew: one flat tensor a group, cut as a whole, or
    parameter by parameter (ZeRO 3)."""
    states = []
    for rank in range(ranks):
        flats: list[dict[str, Tensor]] = []
        slices: list[dict[str, Any]] = []
        paddings = []
        for group in groups:
            if stage == 3:
                flats.append(
                    {k: torch.cat([chunk(full[n][k], rank, ranks) for n in group]) for k in KINDS}
                )
                continue
            whole = {k: torch.cat([full[n][k] for n in group]) for k in KINDS}
            size = -(-len(whole["weights"]) // ranks)
            begin, end = rank * size, min((rank + 1) * size, len(whole["weights"]))
            at, named = 0, {}
            for n in group:
                low, high = max(at, begin), min(at + len(full[n]["weights"]), end)
                if low < high:
                    named[n] = SimpleNamespace(start=low - begin, numel=high - low)
                at += len(full[n]["weights"])
            paddings.append(size - max(0, end - begin))
            slices.append(named)
            flats.append({k: chunk(whole[k], rank, ranks) for k in KINDS})
        moments = {
            i: {"step": torch.tensor(7.0), **{k: flat[k] for k in KINDS[1:]}}
            for i, flat in enumerate(flats)
        }
        if stage == 3:
            states.append(
                {
                    "fp32_flat_groups": [flat["weights"] for flat in flats],
                    "optimizer_state_dict": {"state": moments},
                }
            )
        else:
            lean = [
                flat["weights"][: len(flat["weights"]) - padding]
                for flat, padding in zip(flats, paddings, strict=True)
            ]
            states.append(
                {
                    "single_partition_of_fp32_groups": lean,
                    "base_optimizer_state": {"state": moments},
                    "param_slice_mappings": slices,
                    "group_paddings": paddings,
                }
            )
    return states


def chunk(flat: Tensor, rank: int, ranks: int) -> Tensor:
    size = -(-len(flat) // ranks)
    part = flat[rank * size : (rank + 1) * size]
    return torch.cat([part, torch.zeros(size - len(part))])


def values(state: dict[str, Any], stage: int) -> list[Tensor]:
    moments = state["optimizer_state_dict" if stage == 3 else "base_optimizer_state"]["state"]
    weights = state["fp32_flat_groups" if stage == 3 else "single_partition_of_fp32_groups"]
    return [*weights, *(moments[i][k] for i in range(len(weights)) for k in ("step", *KINDS[1:]))]


@given(
    SHAPES,
    st.integers(1, 5),
    st.integers(1, 5),
    st.sampled_from([2, 3]),
    st.sampled_from([2, 3]),
    st.booleans(),
)
def test_any_ranks_and_stages_refill_any_others(
    shapes: list[list[list[int]]],
    old_ranks: int,
    new_ranks: int,
    old_stage: int,
    new_stage: int,
    stepped: bool,
) -> None:
    groups = [
        {f"{g}.{i}": shape for i, shape in enumerate(group)} for g, group in enumerate(shapes)
    ]
    sizes = {name: torch.Size(shape).numel() for group in groups for name, shape in group.items()}
    full = {name: {kind: torch.randn(size) for kind in KINDS} for name, size in sizes.items()}
    zeros = {name: {kind: torch.zeros(size) for kind in KINDS} for name, size in sizes.items()}
    old = partitions(groups, full, old_ranks, old_stage)
    new, expected = (
        partitions(groups, zeros, new_ranks, new_stage),
        partitions(groups, full, new_ranks, new_stage),
    )
    saved = [
        (state, list(pieces(state, groups, rank, old_ranks))) for rank, state in enumerate(old)
    ]
    before = dict.fromkeys(sizes, 0)
    for rank, state in enumerate(new):
        if not stepped:
            state["optimizer_state_dict" if new_stage == 3 else "base_optimizer_state"][
                "state"
            ].clear()
        mine = list(pieces(state, groups, rank, new_ranks))
        refill(state, mine, before, saved)
        for piece in mine:
            before[piece.name] += piece.size
        result = values(state, new_stage)
        assert all(
            torch.equal(item, other)
            for item, other in zip(result, values(expected[rank], new_stage), strict=True)
        )
        steps = {id(value) for value in result if not value.dim()}
        assert len(steps) == len(groups), "each group counts its own steps"
    assert before == sizes
