"""This process among those of a training: its rank, its random numbers, its accelerator."""

from __future__ import annotations

import os
import random
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist

T = TypeVar("T")


def rank() -> int:
    """Rank of this process; 0 without a process group."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Number of ranks; 1 without a process group."""
    return dist.get_world_size() if dist.is_initialized() else 1


def of_first_rank(value: T) -> T:
    """What rank 0 holds, on every rank; all must call it, before or after there is an engine.

    Args:
        value: read on rank 0 alone; anything that pickles.
    """
    if world_size() == 1:
        return value
    held = [value]
    # NCCL would take the first GPU for every rank before DeepSpeed has told each its own.
    gpu = (
        torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        if dist.get_backend() == "nccl"
        else None
    )
    dist.broadcast_object_list(held, src=0, device=gpu)
    return held[0]


def name_accelerator() -> None:
    """Tell DeepSpeed where there is no GPU; else it warns of that on stdout, in whatever process a
    library imports it."""
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
        # Else DeepSpeed asks numactl how many devices a CPU is.
        os.environ.setdefault("LOCAL_SIZE", "1")


def rng_state() -> dict[str, Any]:
    """State of all random generators of this process, for a checkpoint: tensors and plain
    values."""
    kind, keys, *rest = np.random.get_state(legacy=True)
    state: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": (kind, np.asarray(keys).tolist(), *rest),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        # Of the current device alone, as a rank has one.
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_rng_state(state: dict[str, Any]) -> None:
    """Go on with the random numbers of a state that `rng_state` gave."""
    random.setstate(state["python"])
    np.random.set_state(tuple(state["numpy"]))
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def seed_rank(step: int, rank: int) -> None:
    """Random numbers of their own for a rank, where no saved state of it can be used."""
    # Hashed, so that neighboring steps and ranks do not meet in one seed; of 32 bits, the most that
    # `np.random.seed` takes.
    seed = int(np.random.SeedSequence((step, rank)).generate_state(1)[0])
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)  # of the CPU and of all GPUs
