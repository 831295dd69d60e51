"""What the operator and its trigger need of whatever runs a stage's job, and the one rule of
stopping: asked for, then seen.

Six calls and no more, so that a way to run jobs is one class. Leaves out: HTTP (see `ray_api`,
`kuberay`), and what a job's end means: that is read from the store (see `attempts`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, TypeVar

from tenacity import retry, retry_if_exception_type, stop_after_delay, wait_exponential

from boig_core.errors import ClusterError
from boig_core.orchestration.jobs.asks import Ask

T = TypeVar("T")

AWAY_S: Final = 60.0
"""Longest time, in seconds, that a cluster may be away while a worker asks it; while a job is
waited for it is `poller.PATIENCE_S`."""

FEW: Final = 16
"""Up to so many jobs are asked for one by one: a list holds every job that the cluster
remembers."""

# What waits for room or in a queue will work in the end, so no other attempt may start beside it.
LIVE: Final = frozenset({"PENDING", "RUNNING"})


class AwayError(ClusterError):
    """The cluster does not answer now; it may soon."""


@dataclass(frozen=True)
class JobInfo:
    """What a backend says of a job.

    Attributes:
        status: PENDING, RUNNING, STOPPED, SUCCEEDED or FAILED.
        message: the backend's reason.
        metadata: what was given with the job: short strings, nothing secret, since anyone who sees
            the job sees them.
    """

    status: str
    message: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def live(self) -> bool:
        """Whether the job may still do something."""
        return self.status in LIVE


class JobBackend(Protocol):
    """A session with one cluster. Ids are the caller's, so each call may be repeated after a lost
    answer.

    All calls raise `ClusterError` when the cluster does not answer or refuses, `InputError` when
    what it was told cannot do.
    """

    async def submit(
        self,
        submission_id: str,
        entrypoint: str,
        metadata: Mapping[str, str],
        asks: Sequence[Ask] = (),
    ) -> None:
        """Start a job; one of that id that is there already is no error. ``asks``: its processes,
        for a cluster that is made for them."""

    async def states(self, ids: Collection[str]) -> dict[str, JobInfo]:
        """Those of the jobs that the cluster knows."""

    async def jobs(self) -> dict[str, JobInfo]:
        """All jobs that the cluster knows, with their metadata."""

    async def stop(self, submission_id: str) -> None:
        """Ask a job to stop; one that is unknown or over is no error."""

    async def tail(self, submission_id: str) -> str:
        """The last of what a job has printed; empty for one that is unknown."""

    async def room(self, asks: Sequence[Ask]) -> str:
        """Why these processes would not all find room now; empty: they would. What other jobs hold
        is not counted."""


class Cluster(Protocol):
    """Where jobs run: small, hashable and without secrets, since it travels to the triggerer inside
    the database."""

    def connect(self) -> AbstractAsyncContextManager[JobBackend]:
        """A session."""

    def page(self, submission_id: str) -> str:
        """Where a person sees a job; empty: nowhere."""

    def serialize(self) -> dict[str, Any]:
        """Arguments for `boig_core.orchestration.jobs.clusters.restore`, as JSON."""


async def stop_and_see(
    jobs: JobBackend, submission_id: str, within_s: float = 120.0, poll_s: float = 1.0
) -> None:
    """Stop a job and wait until it is over or unknown.

    Args:
        jobs: the cluster.
        submission_id: the job.
        within_s: longest wait in seconds.
        poll_s: seconds between two looks.

    Raises:
        ClusterError: the job still runs after ``within_s``, or the cluster does not answer.
    """
    until = time.monotonic() + within_s
    # Looked at before the first stop: a job that has ended by itself is left as it is, and KubeRay
    # then keeps its last message.
    while (
        info := (await jobs.states([submission_id])).get(submission_id)
    ) is not None and info.live:
        if time.monotonic() > until:
            raise ClusterError(
                submission_id,
                f"still {info.status} {within_s:.0f} s after it was told to stop",
                "stop it by hand",
            )
        # Told again at each look: Ray ignores a stop that comes before the job's supervisor is
        # there.
        await jobs.stop(submission_id)
        await asyncio.sleep(poll_s)


@retry(
    retry=retry_if_exception_type(AwayError),
    stop=stop_after_delay(AWAY_S),
    wait=wait_exponential(max=10),
    reraise=True,
)
def ask(cluster: Cluster, call: Callable[[JobBackend], Awaitable[T]]) -> T:
    """Talk to a cluster from a thread without an event loop, again while it is away.

    Args:
        cluster: which cluster.
        call: what is asked; it may be asked twice.

    Raises:
        ClusterError: the cluster refuses, or stayed away for ``AWAY_S``.
    """

    async def talk() -> T:
        async with cluster.connect() as jobs:
            return await call(jobs)

    return asyncio.run(talk())
