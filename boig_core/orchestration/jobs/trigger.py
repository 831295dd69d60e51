"""Waiting for a job without holding a worker: the trigger waits for its end, passes its log on, and
stops it when a person ends the task.

Leaves out: what the end means: the operator reads that from the store.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

from airflow.sdk.configuration import conf
from airflow.triggers.base import BaseTrigger, TriggerEvent

from boig_core.errors import BoigError, ClusterError
from boig_core.orchestration.airflow_state import TaskKey, try_is_over, warm_up
from boig_core.orchestration.jobs import clusters
from boig_core.orchestration.jobs.backend import Cluster, JobInfo, stop_and_see
from boig_core.orchestration.jobs.poller import PATIENCE_S, watched
from boig_core.orchestration.jobs.task_log import TaskLog
from boig_core.orchestration.signals import counts

GONE: Final = "GONE"
"""Status of a job that its cluster no longer knows."""

UNREACHABLE: Final = "UNREACHABLE"
"""Status of a job whose cluster stayed away for too long."""

KILL_S: Final = (15.0, 12.0)
"""Seconds that a kill may wait for Airflow's word and for the job's end; Airflow allows 30 for
both."""

_kills: set[asyncio.Task[None]] = set()
"""Kills at work; an event loop keeps no task alive by itself."""


def seen_s() -> float:
    """Seconds after which Airflow's scheduler has surely seen that a deferred task's worker ended.
    A task that is queued again before that counts as failed there, and is tried once more.

    A worker may notice that its task's process has ended only with its next heartbeat.
    """
    return 2.0 * float(conf.getfloat("workers", "min_heartbeat_interval", fallback=5.0))


async def follow(
    cluster: Cluster,
    submission_id: str,
    attempt: str,
    emit: Callable[[str], object],
    *,
    poll_s: float,
    patience_s: float = PATIENCE_S,
) -> dict[str, str]:
    """Follow a job to its end, and show its log.

    Args:
        cluster: where it runs.
        submission_id: the job.
        attempt: URI of the attempt's folder, where the stage keeps its log.
        emit: takes each new line.
        poll_s: seconds between two looks at the job.
        patience_s: longest time without an answer of the cluster.

    Returns:
        ``{"status", "message"}``: the cluster's last word, ``GONE`` when it does not know the job,
        ``UNREACHABLE`` when it stayed away.
    """
    log = TaskLog(attempt, emit)
    async with watched(cluster, submission_id, poll_s=poll_s, patience_s=patience_s) as end:
        showing = asyncio.create_task(log.follow())
        try:
            info = await end
        except ClusterError as exc:
            # An end like the others: the operator looks into the store, where the job may have
            # committed while its cluster could not be asked.
            info = JobInfo(UNREACHABLE, str(exc))
        finally:
            showing.cancel()
            await asyncio.wait({showing})
    # What the stage said last, its result or its error, came after the last look.
    await log.finish()
    if info is None:
        return {
            "status": GONE,
            "message": "the cluster does not know the job: its head has restarted, or the job was deleted",
        }
    return {"status": info.status, "message": info.message}


class RayJobTrigger(BaseTrigger):
    """Fires once, when the job is over, gone, or its cluster is away for too long.

    Its event is what `follow` returns and all that the operator needs to go on: ``attempt``, the
    URI of the attempt's folder, ``submission_id`` and ``job_url``, the job's page. (``dag.test``
    hands nothing else over.) Its end, however it comes, stops nothing: triggerers restart, and
    triggers move between them.
    """

    def __init__(
        self, cluster: dict[str, Any], submission_id: str, poll_s: float, attempt: str
    ) -> None:
        super().__init__()
        self.cluster = clusters.restore(cluster)
        self.submission_id = submission_id
        self.poll_s = poll_s
        self.attempt = attempt

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Class path and arguments, to be re-made in another triggerer."""
        arguments = {
            "submission_id": self.submission_id,
            "poll_s": self.poll_s,
            "attempt": self.attempt,
        }
        return f"{type(self).__module__}.{type(self).__qualname__}", {
            "cluster": self.cluster.serialize(),
            **arguments,
        }

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait for the job's end."""
        if self.task_instance is not None:
            warm_up(TaskKey.of(self.task_instance))
        began = time.monotonic()
        end = await follow(
            self.cluster, self.submission_id, self.attempt, self.log.info, poll_s=self.poll_s
        )
        await asyncio.sleep(max(0.0, seen_s() - (time.monotonic() - began)))
        page = self.cluster.page(self.submission_id)
        yield TriggerEvent(
            {**end, "attempt": self.attempt, "submission_id": self.submission_id, "job_url": page}
        )

    async def on_kill(self) -> None:
        """Stop the job if Airflow confirms that the task's try is over: failed, set to success,
        cleared or deleted.

        Airflow calls this too when the trigger has merely moved to another triggerer; then, and
        whenever the state is unknown, the job goes on.
        """
        # Airflow cancels this call anew each second while it lasts, so the work goes on in a task
        # of its own.
        kill = asyncio.create_task(self._kill(), name="boig-kill")
        _kills.add(kill)
        kill.add_done_callback(_kills.discard)
        await asyncio.shield(kill)

    async def _kill(self) -> None:
        word_s, end_s = KILL_S
        if self.task_instance is None or not await asyncio.to_thread(
            try_is_over, TaskKey.of(self.task_instance), word_s
        ):
            return
        try:
            # A session of its own: the poller's ends with the trigger, which Airflow has cancelled.
            async with self.cluster.connect() as jobs:
                await stop_and_see(jobs, self.submission_id, end_s)
            self.log.info("job %s is over", self.submission_id)
            counts.job(self.task_instance.task_id, "stopped")
        except BoigError as exc:
            self.log.warning(
                "job %s could not be stopped, boig_reconcile tries again: %s",
                self.submission_id,
                exc,
            )
