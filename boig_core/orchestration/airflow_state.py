"""What Airflow itself says of a task, asked through the Task SDK from a worker or a triggerer:
neither sees the database.

A kill signal is no proof that a try is over: a triggerer that stalled and was replaced, or a worker
that lost three heartbeats, gets one while the task goes on elsewhere. So a job is stopped only on
Airflow's word. Leaves out: stopping.
"""

from __future__ import annotations

import threading
from dataclasses import asdict, dataclass
from typing import Any, Final

from boig_core.observability.logs import get_logger

log = get_logger(__name__)

_warm = threading.Event()

OVER: Final = frozenset(
    {
        "failed",
        "success",
        "skipped",
        "upstream_failed",
        "removed",
        "restarting",
        "cleared",
        "deleted",
    }
)
"""States in which the try that had the job is over. ``restarting``: cleared while it ran. The last
two are this module's own words."""

AT_WORK: Final = frozenset(
    {
        "running",
        "deferred",
        "queued",
        "scheduled",
        "restarting",
        "up_for_retry",
        "up_for_reschedule",
        "awaiting_input",
    }
)
"""States in which a task may still want a job: a retry adopts it, and the try after a clear stops
it itself."""


@dataclass(frozen=True)
class TaskKey:
    """A task of a run: ``map_index`` is -1 for one that is not mapped."""

    dag_id: str
    run_id: str
    task_id: str
    map_index: int = -1

    @classmethod
    def of(cls, ti: Any) -> TaskKey:
        """Of any of Airflow's task instances."""
        return cls(ti.dag_id, ti.run_id, ti.task_id, -1 if ti.map_index is None else ti.map_index)

    def __str__(self) -> str:
        return "/".join(str(part) for part in asdict(self).values() if part != -1)


def state_of(task: TaskKey) -> str:
    """The task's state now: one of Airflow's, ``cleared`` for none, ``deleted`` where the run or
    the task is gone.

    Blocks; call it in a thread where an event loop runs.

    Raises:
        Exception: Airflow did not answer; what it raises then is Airflow's own.
    """
    from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

    states_of_run = RuntimeTaskInstance.get_task_states(
        dag_id=task.dag_id, run_ids=[task.run_id], task_ids=[task.task_id], map_index=task.map_index
    )
    states = list(states_of_run.get(task.run_id, {}).values())
    return "deleted" if not states else str(getattr(states[0], "value", states[0]) or "cleared")


def warm_up(task: TaskKey) -> None:
    """Ask once a process, and do not wait for the answer.

    A triggerer builds its way to Airflow at the first question, which takes seconds: more than a
    kill has.
    """
    if not _warm.is_set():
        # Set before the answer comes: many triggers start at once, and one question is enough.
        _warm.set()
        threading.Thread(target=_ask, args=(task, []), name="boig-state", daemon=True).start()


def try_is_over(task: TaskKey, within_s: float) -> bool:
    """Whether Airflow confirms that the task's try is over; False when it denies it, or does not
    say so in time.

    The question is asked in a thread of its own: a signal handler may run while the main thread
    holds the only line to Airflow.
    """
    answer: list[str] = []
    # A daemon, so that a question without an answer keeps no process from ending.
    thread = threading.Thread(target=_ask, args=(task, answer), name="boig-state", daemon=True)
    thread.start()
    thread.join(within_s)
    # Silence is not a yes. A wrong stop costs the work of a task that goes on; a job that nobody
    # wants costs the minutes until boig_reconcile looks.
    if not answer:
        log.info(
            "%s: state unknown, so its job goes on; boig_reconcile stops it if nobody wants it",
            task,
        )
        return False
    over = answer[0] in OVER
    log.info("%s is %s: its job %s", task, answer[0], "is stopped" if over else "goes on")
    return over


def _ask(task: TaskKey, answer: list[str]) -> None:
    try:
        answer.append(state_of(task))
    except Exception as exc:
        log.warning("Airflow does not say how %s stands: %s", task, exc)
