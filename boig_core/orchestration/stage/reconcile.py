"""Jobs that nobody wants any more are stopped: what a kill missed, since the triggerer was down or
a worker was killed at once.

Leaves out: jobs of other Airflows, stores and people on the same cluster, and finding a task's
state (see `airflow_state`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from boig_core.errors import ClusterError, InfrastructureError
from boig_core.observability.logs import get_logger
from boig_core.orchestration.airflow_state import AT_WORK, TaskKey, state_of
from boig_core.orchestration.jobs.backend import Cluster, JobBackend, JobInfo, ask, stop_and_see
from boig_core.orchestration.signals import counts
from boig_core.orchestration.stage.operator import belongs_to

log = get_logger(__name__)


def reconcile(
    cluster: Cluster, root: str, state: Callable[[TaskKey], str] = state_of
) -> dict[str, Any]:
    """Stop each live job of ours whose task is not at work, and see that it is over.

    Jobs are listed before states are asked: a job in the list had a task when it began, so it is
    never too young to be judged.

    Args:
        cluster: where jobs run.
        root: root of the store; jobs of another store are not ours.
        state: tells a task's state.

    Returns:
        ``{"live": number of live jobs of ours, "stopped": {submission id: the task's state},
        "unknown": [submission ids]}``; a job whose task's state is not known goes on until the next
        look.

    Raises:
        InfrastructureError: a job did not stop; the others were stopped nevertheless.
    """
    ours = belongs_to(root)
    cluster_jobs = ask(cluster, lambda jobs: jobs.jobs())
    live = {
        name: info
        for name, info in cluster_jobs.items()
        if info.live and all(info.metadata.get(k) == v for k, v in ours.items())
    }
    states = {name: _state(info, state) for name, info in live.items()}
    unwanted = {
        name: word for name, word in states.items() if word is not None and word not in AT_WORK
    }
    for name, word in unwanted.items():
        log.info("job %s is stopped: its task is %s", name, word)
    failed = ask(cluster, lambda jobs: _stop(jobs, list(unwanted)))
    for name in unwanted.keys() - failed.keys():
        counts.job(live[name].metadata["task"], "stopped")
    if failed:
        raise InfrastructureError(
            ", ".join(failed),
            f"did not stop ({'; '.join(map(str, failed.values()))})",
            "stop it by hand",
        )
    return {
        "live": len(live),
        "stopped": unwanted,
        "unknown": sorted(name for name, word in states.items() if word is None),
    }


def _state(info: JobInfo, state: Callable[[TaskKey], str]) -> str | None:
    metadata = info.metadata
    task = TaskKey(metadata["dag"], metadata["run"], metadata["task"], int(metadata["map"]))
    try:
        return state(task)
    # Airflow's errors are of many kinds. None of them proves that a task is over.
    except Exception as exc:
        log.warning("Airflow does not say how %s stands, so its job goes on: %s", task, exc)
        return None


async def _stop(jobs: JobBackend, names: list[str]) -> dict[str, ClusterError]:
    # All at once, errors gathered: one that does not stop must keep none of the others running.
    ends = await asyncio.gather(
        *(stop_and_see(jobs, name) for name in names), return_exceptions=True
    )
    for end in ends:
        if isinstance(end, BaseException) and not isinstance(end, ClusterError):
            raise end
    return {
        name: end for name, end in zip(names, ends, strict=True) if isinstance(end, ClusterError)
    }
