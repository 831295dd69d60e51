"""What pools of actors share: how they start, and calls with a deadline.

An actor holds models, so it works on one call at a time. One that dies is started anew by Ray, which repeats its call; one that hangs is
killed here, and then the same happens. A chunk is a pure function of its arguments, so it may run again. What a call raises is not tried
again: the same input would fail the same way. Leaves out: what actors do (see `rollouts`, `scoring`).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import ray

from boig_core.config import Recipe, Resources
from boig_core.errors import ClusterError
from boig_core.observability.logs import get_logger

log = get_logger(__name__)

RESTARTS: Final = 3
"""Deaths of an actor, and repetitions of a call, that are forgiven."""
START_S: Final = 600.0
"""Longest wait for an actor to be placed and to open its models."""


def options(resources: Resources) -> dict[str, Any]:
    """Ray's options for an actor that asks for these resources."""
    return {"num_cpus": resources.cpus, "num_gpus": resources.gpus, "max_restarts": RESTARTS, "max_task_retries": RESTARTS}


def scorer_resources(recipe: Recipe) -> Resources:
    """What a scorer asks for."""
    return recipe.reward.resources or recipe.resources


def scorer_options(recipe: Recipe) -> dict[str, Any]:
    """Ray's options for a scorer; an empty runtime environment is left to the job's own."""
    own = {"runtime_env": recipe.reward.runtime_env} if recipe.reward.runtime_env else {}
    return {**options(scorer_resources(recipe)), **own}


def settle(resources: Resources) -> str:
    """Fix the thread count of this process, on which the last bits depend, and name the device."""
    import torch

    torch.set_num_threads(max(1, int(resources.cpus)))
    return "cuda" if resources.gpus > 0 and torch.cuda.is_available() else "cpu"


def wait_ready(actors: Sequence[Any], kind: str, remedy: str, timeout_s: float = START_S) -> None:
    """Wait until each actor's ``ready`` has answered.

    Raises:
        ClusterError: they were not placed, or did not start, in time.
        BoigError: what opening its models raised.
    """
    try:
        ray.get([actor.ready.remote() for actor in actors], timeout=timeout_s)
    except ray.exceptions.GetTimeoutError as exc:
        free = ray.available_resources()
        rule = f"did not start within {timeout_s:.0f} s (free: {free.get('CPU', 0)} CPU, {free.get('GPU', 0)} GPU)"
        raise ClusterError(f"{len(actors)} {kind}", rule, remedy) from exc


@dataclass
class _Call:
    actor: Any
    what: str
    limit_s: float
    deadline: float
    misses: int = 0


class Watch:
    """Calls under way, at most one an actor."""

    def __init__(self) -> None:
        self._calls: dict[Any, _Call] = {}

    def add(self, ref: Any, actor: Any, what: str, limit_s: float) -> None:
        """Watch the call of an idle actor; ``what`` names its work in messages."""
        self._calls[ref] = _Call(actor, what, limit_s, time.monotonic() + limit_s)

    def next(self) -> tuple[Any, Any]:
        """Reference and actor of the next call that ends, by a result or by an error.

        Raises:
            ClusterError: a call missed its deadline more often than is forgiven.
        """
        while True:
            wait_s = min(call.deadline for call in self._calls.values()) - time.monotonic()
            done, _ = ray.wait(list(self._calls), num_returns=1, timeout=max(0.0, wait_s), fetch_local=False)
            if done:
                return done[0], self._calls.pop(done[0]).actor
            for call in self._calls.values():
                if call.deadline <= time.monotonic():
                    self._replace(call)

    def _replace(self, call: _Call) -> None:
        call.misses += 1
        if call.misses > RESTARTS:
            rule = f"took longer than {call.limit_s:g} s, {call.misses} times"
            raise ClusterError(call.what, rule, "see the actor's log on the Ray dashboard")
        log.warning("%s takes longer than %g s: its actor is replaced, and it is done again", call.what, call.limit_s)
        ray.kill(call.actor, no_restart=False)
        call.deadline = time.monotonic() + START_S + call.limit_s  # it has to open its models again
