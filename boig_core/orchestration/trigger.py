"""Waiting for a Ray job without holding a worker: the trigger polls Ray, passes the job's log on, and stops the job when a person does.

Leaves out: what the end means: the operator reads that from the store.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from boig_core.errors import ClusterError
from boig_core.orchestration.ray_api import RayJobs, job_page

GONE = "GONE"
"""Status of a job that Ray no longer knows."""

_ANSI = re.compile(r"\x1b\[[0-9;]*m")


async def watch(
    address: str, submission_id: str, emit: Callable[[str], object], *, poll_s: float, patience_s: float = 300.0
) -> dict[str, str]:
    """Follow a job to its end.

    Args:
        address: of the Jobs API.
        submission_id: the job.
        emit: takes each new line of its log.
        poll_s: seconds between two looks.
        patience_s: longest time without an answer of Ray.

    Returns:
        ``{"status", "message"}``: Ray's last word, or ``GONE`` when it does not know the job.

    Raises:
        ClusterError: Ray stayed away longer than ``patience_s``.
    """
    shown = 0
    heard = time.monotonic()
    async with RayJobs(address) as jobs:
        while True:
            try:
                info = await jobs.info(submission_id)
                text = await jobs.logs(submission_id)
                heard = time.monotonic()
            except ClusterError:
                if time.monotonic() - heard > patience_s:
                    raise
                await asyncio.sleep(poll_s)
                continue
            over = info is None or not info.live
            end = len(text) if over else text.rfind("\n") + 1
            for line in _ANSI.sub("", text[shown:end]).splitlines():
                emit(line)
            shown = max(shown, end)
            if over:
                return {"status": GONE, "message": "Ray does not know the job"} if info is None else info.__dict__
            await asyncio.sleep(poll_s)


class RayJobTrigger(BaseTrigger):
    """Fires once, when the job is over, gone, or Ray is away for too long.

    Its event is what `watch` returns and all that the operator needs to go on: ``attempt``, the URI of the attempt's folder, and
    ``job_url``, the job's page. (``dag.test`` hands nothing else over.)
    """

    def __init__(self, address: str, submission_id: str, poll_s: float, attempt: str) -> None:
        super().__init__()
        self.address = address
        self.submission_id = submission_id
        self.poll_s = poll_s
        self.attempt = attempt

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Class path and arguments, to be re-made in another triggerer."""
        return (
            f"{type(self).__module__}.{type(self).__qualname__}",
            {"address": self.address, "submission_id": self.submission_id, "poll_s": self.poll_s, "attempt": self.attempt},
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait for the job's end."""
        try:
            end = await watch(self.address, self.submission_id, self.log.info, poll_s=self.poll_s)
        except ClusterError as exc:
            end = {"status": "UNREACHABLE", "message": str(exc)}
        yield TriggerEvent({**end, "attempt": self.attempt, "job_url": job_page(self.address, self.submission_id)})

    async def on_kill(self) -> None:
        """Stop the job when a person fails or clears the task."""
        async with RayJobs(self.address) as jobs:
            await jobs.stop(self.submission_id)
