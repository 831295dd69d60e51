"""One poller for each cluster and process: however many jobs are waited for, their states are asked
for together.

It lives while someone waits. Leaves out: logs, and what an end means.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from boig_core.errors import ClusterError
from boig_core.orchestration.jobs.backend import Cluster, JobInfo

PATIENCE_S: Final = 300.0
"""Longest time without an answer of a cluster, in seconds; a head that restarts needs one or two
minutes."""

End = asyncio.Future[JobInfo | None]

_pollers: dict[Any, Poller] = {}


@asynccontextmanager
async def watched(
    cluster: Cluster, submission_id: str, *, poll_s: float, patience_s: float
) -> AsyncIterator[End]:
    """Wait for a job's end together with all who wait for jobs of this cluster.

    Args:
        cluster: where the job runs.
        submission_id: the job.
        poll_s: seconds between two looks.
        patience_s: longest time without an answer.

    Yields:
        A future: the job's last state, None when the cluster does not know the job, or the error
        that ended the polling (`ClusterError`: no answer within the patience).
    """
    # A future belongs to its event loop, and each `asyncio.run` of a worker has one of its own.
    key = (asyncio.get_running_loop(), cluster, poll_s, patience_s)
    poller = _pollers.get(key)
    if poller is None:
        poller = _pollers[key] = Poller(cluster, poll_s, patience_s)
    end = poller.watch(submission_id)
    try:
        yield end
    finally:
        poller.leave(submission_id, end)
        if not poller.waiting:
            _pollers.pop(key, None)  # first, so that whoever comes meanwhile starts a fresh one
            await poller.stop()


class Poller:
    """Asks for the states of all watched jobs at once, and tells each watcher its job's end."""

    def __init__(self, cluster: Cluster, poll_s: float, patience_s: float) -> None:
        _freeze()
        self._cluster, self._poll_s, self._patience_s = cluster, poll_s, patience_s
        self._ends: dict[str, list[End]] = {}
        self._task = asyncio.create_task(self._run(), name="boig-poller")

    @property
    def waiting(self) -> bool:
        """Whether anyone is left."""
        return bool(self._ends)

    def watch(self, submission_id: str) -> End:
        """A future of the job's end."""
        end: End = asyncio.get_running_loop().create_future()
        if self._task.done():  # it died between two watchers: see `_run`
            self._task = asyncio.create_task(self._run(), name="boig-poller")
        self._ends.setdefault(submission_id, []).append(end)
        return end

    def leave(self, submission_id: str, end: End) -> None:
        """Forget a watcher."""
        end.cancel()
        left = [other for other in self._ends.pop(submission_id, []) if other is not end]
        if left:
            self._ends[submission_id] = left

    async def stop(self) -> None:
        """End the polling and close its session."""
        self._task.cancel()
        # Waited for, so that the session is closed while its event loop still runs.
        await asyncio.wait({self._task})

    async def _run(self) -> None:
        try:
            async with self._cluster.connect() as jobs:
                heard = time.monotonic()
                while True:
                    # A job that has ended is not asked for again while its watchers are leaving.
                    asked = [
                        name
                        for name, ends in self._ends.items()
                        if not all(end.done() for end in ends)
                    ]
                    try:
                        known = await jobs.states(asked) if asked else {}
                        heard = time.monotonic()
                    except ClusterError as exc:
                        if time.monotonic() - heard > self._patience_s:
                            self._fail(exc)
                            # Whoever comes to wait after this has the whole patience before them.
                            heard = time.monotonic()
                    else:
                        self._tell(asked, known)
                    await asyncio.sleep(self._poll_s)
        except (
            Exception
        ) as exc:  # nobody awaits this task: without this its watchers would wait for ever
            self._fail(exc)

    def _tell(self, asked: list[str], known: dict[str, JobInfo]) -> None:
        for name in asked:
            info = known.get(name)
            # A job that the cluster does not know ends the wait, too: its head has restarted or
            # someone has deleted it, and it does not come back under this id.
            if info is None or not info.live:
                # The last watcher may have left while the answer was on its way.
                for end in self._ends.get(name, []):
                    if not end.done():
                        end.set_result(info)

    def _fail(self, exc: Exception) -> None:
        for ends in self._ends.values():
            for end in ends:
                if not end.done():
                    end.set_exception(exc)


@functools.cache
def _freeze() -> None:
    """Once a process: spare what it has loaded from Python's collector, which would go through all
    of Airflow while every trigger waits."""
    gc.freeze()
