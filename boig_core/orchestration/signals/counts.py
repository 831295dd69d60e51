"""Counts of stages and their jobs through Airflow's own metrics, as ``airflow.boig.*``; nothing is
sent where Airflow sends none.

    boig.jobs{stage, how}                    started, adopted, used (its result was there), fenced,
                                             stopped
    boig.stage_seconds{stage}                what a committed stage took; a reused result takes none
    boig.failures{task, kind, type, last}    tries that failed, of a user, infrastructure or other
                                             error; last: for good

Leaves out: what Airflow counts itself (tasks, runs, the scheduler), and Ray's side (see
`cluster.gauges`).
"""

from __future__ import annotations

from datetime import timedelta
from functools import cache
from typing import Any


def job(stage: str, how: str) -> None:
    """Count what has become of a job."""
    _stats().incr("boig.jobs", tags={"stage": stage, "how": how})


def took(stage: str, seconds: float) -> None:
    """Count the seconds of a committed stage."""
    _stats().timing("boig.stage_seconds", timedelta(seconds=seconds), tags={"stage": stage})


def failure(task: str, kind: str, error: str, last: bool) -> None:
    """Count a try that has failed."""
    _stats().incr(
        "boig.failures", tags={"task": task, "kind": kind, "type": error, "last": str(last).lower()}
    )


@cache
def _stats() -> Any:
    """The Task SDK's metrics; set up here, since in a triggerer nobody has."""
    from airflow.sdk.configuration import conf
    from airflow.sdk.observability import stats
    from airflow.sdk.observability.metrics.stats_utils import get_stats_factory

    stats.initialize(
        factory=get_stats_factory(),
        export_legacy_names=conf.getboolean("metrics", "legacy_names_on"),
    )
    return stats
