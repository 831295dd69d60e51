"""Spreading independent work over a cluster as plain Ray tasks: lazily, so that neither end holds
more than it works on.

Ray Data would start in each process what a function over tables needs; a call a chunk needs none of
it, so fetching starts seconds earlier. A task whose process or node dies is run again elsewhere.
Leaves out: what the work is (see `ingest`, `perceive`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, TypeVar

import ray

from boig_core.cluster.processes import DEATHS
from boig_core.cluster.session import cores

T = TypeVar("T")


def spread(work: Callable[..., T], items: Iterable[tuple[Any, ...]]) -> Iterator[tuple[int, T]]:
    """Run ``work(*item)`` for each item, a process per core.

    Args:
        work: a function of a module, which every node can import.
        items: its arguments; drawn as there is room, at most two for each core ahead.

    Yields:
        Number of the item, from 0, and the result, as they come.

    Raises:
        Exception: what the work raised, wrapped by Ray; or Ray's own error when a task has lost its
            process too often.
    """
    # A cluster that grows from nothing has none yet.
    total = max(1.0, ray.cluster_resources().get("CPU", 1.0))
    # A local cluster claims more CPUs than there are (see `connect`): a task asks for so many of
    # them that each real core gets one.
    task = ray.remote(num_cpus=total / cores(), max_retries=DEATHS)(work)
    waiting = enumerate(items)
    # Two for each core: the next one waits at the core when the first is done.
    running = {task.remote(*item): number for number, item in islice(waiting, 2 * cores())}
    while running:
        [done], _ = ray.wait(list(running), num_returns=1)
        number = running.pop(done)
        result = ray.get(done)
        # Before the result is yielded: the caller may take its time, and no core idles meanwhile.
        running |= {task.remote(*item): following for following, item in islice(waiting, 1)}
        yield number, result
