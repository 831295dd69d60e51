"""Deadlines: a run that takes longer than ``BOIG_DEADLINE_H`` hours is told once, with the stages
it is in; it goes on.

Counted from when the run was queued, since runs of a DAG wait for each other. Airflow's triggerer
sends the alert. Leaves out: stopping.
"""

from __future__ import annotations

import asyncio
import math
from datetime import timedelta
from typing import Any
from urllib.parse import quote

from airflow.sdk import AsyncCallback, DeadlineAlert, DeadlineReference  # type: ignore[attr-defined]  # its stub leaves them out
from airflow.sdk.configuration import conf

from boig_core import environment
from boig_core.errors import InputError
from boig_core.observability.logs import get_logger
from boig_core.orchestration.airflow_state import AT_WORK
from boig_core.orchestration.signals import alerts

log = get_logger(__name__)


def deadline() -> DeadlineAlert | None:
    """The deadline of a DAG that works on the cluster.

    Raises:
        InputError: what is set is no number of hours above 0.
    """
    text = environment.DEADLINE_H.read()
    if not text:
        return None
    try:
        hours = float(text)
    except ValueError:
        hours = math.nan
    if not 0 < hours < math.inf:
        raise InputError(
            f"{environment.DEADLINE_H.name}={text}",
            "must be a number of hours above 0",
            "set how long a run may take, or leave it out",
        )
    callback = AsyncCallback(on_late_run, {"hours": hours})
    return DeadlineAlert(DeadlineReference.DAGRUN_QUEUED_AT, timedelta(hours=hours), callback)


async def on_late_run(context: dict[str, Any], hours: float) -> None:
    """Tell that a run is late; called in the triggerer, whose event loop must not wait for it."""
    run = context["dag_run"]
    await asyncio.to_thread(_tell, run["dag_id"], run["dag_run_id"], hours)


def _tell(dag: str, run: str, hours: float) -> None:
    base = str(conf.get("api", "base_url", fallback="") or "").rstrip("/")
    body = [
        f"It was queued more than {hours:g} hours ago, and goes on.",
        f"Stages: {_stages(dag, run)}",
        f"Run: {base}/dags/{dag}/runs/{quote(run)}",
    ]
    alerts.tell(alerts.Alert(f"{dag}: {run} is late", tuple(body), (dag, run, "late")))
    log.warning("%s / %s is late: %s", dag, run, " ".join(body[:2]))


def _stages(dag: str, run: str) -> str:
    """The tasks that the run is in, with their states."""
    from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

    try:
        states_of_run = RuntimeTaskInstance.get_task_states(dag_id=dag, run_ids=[run]).get(run, {})
    except (
        Exception
    ) as exc:  # an alert without them is better than none; Airflow's own errors, of many kinds
        log.warning("Airflow does not say where %s / %s stands: %s", dag, run, exc)
        return "not known"
    states = {task: str(getattr(state, "value", state)) for task, state in states_of_run.items()}
    return (
        ", ".join(f"{task} ({state})" for task, state in states.items() if state in AT_WORK)
        or "none is at work"
    )
