"""Processes of a test, forked from one that has imported what is heavy: torch, diffusers and
DeepSpeed take seconds each time.

The forks are processes of their own in every other respect: a SIGKILL, a barrier of gloo or a lock
is real among them.
"""

from __future__ import annotations

import multiprocessing
import os
import time
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any

from tests.ports import PORTS

HEAVY = [
    "boig_core.diffusion.learner",
    "boig_core.llm.finetune",
    "boig_core.llm.predictor",
    "deepspeed",
    "transformers.models.llama.modeling_llama",
]
LONGEST_S = 240.0
"""For a hang alone."""


def forks() -> Any:
    """The context of `multiprocessing` whose processes begin with `HEAVY` imported."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(HEAVY)
    return context


def run_ranks(fn: Callable[..., Any], ranks: int, *args: Any) -> list[Any]:
    """What ``fn(*args)`` returns in each of so many processes, which find each other by the
    variables that torchrun sets.

    Raises:
        AssertionError: one of them raised, was killed, or did not end within `LONGEST_S`.
    """
    context, port = forks(), next(PORTS)
    here, there = zip(*(context.Pipe(duplex=False) for _ in range(ranks)), strict=True)
    processes = [
        context.Process(target=_rank, args=(sender, rank, ranks, port, fn, args))
        for rank, sender in enumerate(there)
    ]
    for process in processes:
        process.start()
    for sender in there:
        sender.close()
    try:
        return _received(here, time.monotonic() + LONGEST_S)
    finally:
        for process in processes:
            process.kill()
            process.join()


def _received(here: Sequence[Connection], end: float) -> list[Any]:
    results = []
    for rank, receiver in enumerate(here):
        assert receiver.poll(max(0.0, end - time.monotonic())), f"rank {rank} does not end"
        try:
            result, error = receiver.recv()
        except EOFError:
            raise AssertionError(f"rank {rank} was killed") from None
        assert error is None, f"rank {rank}: {error}"
        results.append(result)
    return results


def _rank(
    sender: Connection,
    rank: int,
    ranks: int,
    port: int,
    fn: Callable[..., Any],
    args: Sequence[Any],
) -> None:
    group = {
        "RANK": rank,
        "LOCAL_RANK": rank,
        "WORLD_SIZE": ranks,
        "LOCAL_WORLD_SIZE": ranks,
        "MASTER_PORT": port,
    }
    os.environ |= {name: str(value) for name, value in group.items()} | {"MASTER_ADDR": "127.0.0.1"}
    try:
        answer = fn(*args), None
    except BaseException:
        answer = None, traceback.format_exc()
    sender.send(answer)
    sender.close()
    # Gloo's threads may still run at an ordinary exit, which aborts the process now and then.
    os._exit(0)
