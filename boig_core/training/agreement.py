"""What the ranks of a training do together, so that a failure of one is the failure of all and none
is left waiting. Leaves out: which of them this process is (see `ranks`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch.distributed as dist

from boig_core.errors import BoigError, InfrastructureError
from boig_core.storage.disk import full_disk
from boig_core.training.ranks import rank, world_size

T = TypeVar("T")


def on_every_rank(act: Callable[[], T]) -> list[T]:
    """Run something on every rank and gather the results; if it fails anywhere, raise everywhere:
    no rank is left waiting."""
    outcome: tuple[T | None, BoigError | None]
    try:
        outcome = (act(), None)
    except BoigError as exc:
        outcome = (None, exc)
    except Exception as exc:
        # An error of boig's pickles whole, which the collective needs; a foreign one may not.
        outcome = (
            None,
            full_disk(exc)
            or InfrastructureError(
                f"rank {rank()}", f"failed at a checkpoint ({exc!r})", "see its log"
            ),
        )
    gathered: list[Any] = [outcome]
    if world_size() > 1:
        gathered = [None] * world_size()
        dist.all_gather_object(gathered, outcome)
    errors = [error for _, error in gathered if error is not None]
    if errors:
        raise errors[0]
    return [value for value, _ in gathered]


def from_rank_0(act: Callable[[], T]) -> T:
    """Rank 0's result on every rank (object stores may show ranks different listings)."""
    return on_every_rank(lambda: act() if rank() == 0 else None)[0]  # type: ignore[return-value]
