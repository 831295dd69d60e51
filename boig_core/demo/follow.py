"""Following the four DAG runs of a demo to their end, approving when asked, while a view shows how
far they are.

Leaves out: starting servers (see `services`), the view itself (see `view`) and what is printed at
the end (see `ending`).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from boig_core.demo.airflow_api import AirflowApi
from boig_core.demo.notes import StageNotes
from boig_core.demo.view import CHAIN, View
from boig_core.errors import BoigError, InfrastructureError
from boig_core.orchestration.stage import attempts
from boig_core.storage import commit

POLL_S = 2.0
APPROVE_AFTER_S = 5.0
"""Seconds before the demo approves: Airflow fails a task that is answered before its scheduler has
seen it wait."""
NEXT_DAG_S = 120.0
"""Longest wait for the run that an asset event starts, in seconds."""


class StageFailedError(BoigError):
    """A task has failed for good.

    Args:
        value: ``DAG / TASK``.
        rule: the error.
        remedy: what to do.
        user: whether the input is to blame (exit code 2).
        log: last lines of the task's log.
    """

    def __init__(
        self, value: object, rule: str, remedy: str, user: bool = False, log: tuple[str, ...] = ()
    ) -> None:
        super().__init__(value, rule, remedy)
        self.user = user
        self.log = log

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.value, self.rule, self.remedy, self.user, self.log)


def follow(
    api: AirflowApi,
    approver: AirflowApi,
    view: View,
    root: str,
    first_run: str,
    check: Callable[[], None],
    limit_s: float,
) -> dict[str, str]:
    """Follow the chain from a run of ``boig_ingest`` to the end of ``boig_promote``, approving when
    asked.

    Args:
        api: of Airflow, as whoever started the run.
        approver: as the person who approves.
        view: is kept up to date.
        root: of the store.
        first_run: run id of ``boig_ingest``.
        check: raises when a server has died.
        limit_s: longest time for everything, in seconds.

    Returns:
        Run id by DAG.

    Raises:
        StageFailedError: a task failed for good.
        InfrastructureError: a DAG did not start, or time is up.
    """
    end = time.monotonic() + limit_s
    runs, notes = {"boig_ingest": first_run}, Notes(root)
    for dag in CHAIN:
        waited = time.monotonic()
        while dag not in runs:
            # Airflow starts with an empty database: a DAG's newest run is the one of this chain.
            run = api.newest_run(dag)
            if run is not None:
                runs[dag] = str(run["dag_run_id"])
            elif time.monotonic() - waited > NEXT_DAG_S:
                raise InfrastructureError(
                    dag, "was not started by its asset", "look at the assets in Airflow"
                )
            else:
                _pause(check, end)
        while not _finished(api, approver, view, notes, dag, runs[dag]):
            _pause(check, end)
    return runs


class Notes:
    """What is said of each task, by its place in the store; approvals and the like have none.

    Args:
        root: of the store.
    """

    def __init__(self, root: str) -> None:
        self.root = root
        self._stages: dict[str, StageNotes] = {}

    def of(self, dag: str, run: str, task: str, state: str | None) -> list[str]:
        """Progress of a stage that runs, the numbers of one that is done."""
        if dag == "boig_promote":
            return []
        uri = attempts.task_uri(self.root, dag, run, task)
        stage = self._stages.setdefault(uri, StageNotes(uri, task))
        if state in {"running", "deferred"}:
            return stage.progress()
        return stage.result() if state == "success" else []


def _finished(
    api: AirflowApi, approver: AirflowApi, view: View, notes: Notes, dag: str, run: str
) -> bool:
    tasks = api.tasks(dag, run)
    for row in view.rows:
        if row.dag == dag and row.task in tasks:
            state = tasks[row.task]["state"]
            # The store is asked only where a note may have changed.
            if state != row.state or state in {"running", "deferred"}:
                view.update(row, state, notes.of(dag, run, row.task, state))
    asked = next(
        (
            row
            for row in view.rows
            if row.task == "approval" and row.dag == dag and row.state == "awaiting_input"
        ),
        None,
    )
    if asked is not None and time.monotonic() - (asked.since or 0.0) > APPROVE_AFTER_S:
        approver.approve(dag, run, "approval")
    # Before the run's own state: that changes later, and does not say why.
    failed = [name for name, task in tasks.items() if task["state"] == "failed"]
    if failed:
        raise _failure(
            api, notes.root, dag, run, failed[0], int(tasks[failed[0]]["try_number"] or 1)
        )
    newest = api.newest_run(dag)
    state = (newest or {}).get("state")
    if state == "failed":
        raise StageFailedError(dag, "the run failed", "look at it in Airflow")
    return state == "success"


def _failure(
    api: AirflowApi, root: str, dag: str, run: str, task: str, tries: int
) -> StageFailedError:
    lines = tuple(api.log(dag, run, task, tries)[-25:])
    uri = attempts.task_uri(root, dag, run, task)
    numbers = commit.attempts(uri)
    failure = commit.read_failure(commit.attempt_uri(uri, numbers[-1])) if numbers else None
    # No stage has left a reason: it is another task, or its process died. The log has to tell.
    if failure is None:
        error = next(
            (line for line in reversed(lines) if "Exception" in line or "Error" in line),
            lines[-1] if lines else "no log",
        )
        user = task == "plan" and tries == 1  # anything else is tried again
        return StageFailedError(f"{dag} / {task}", error, "see the log above", user, lines)
    return StageFailedError(
        f"{dag} / {task}", f"{failure.type}: {failure.message}", failure.remedy, failure.user, lines
    )


def _pause(check: Callable[[], None], end: float) -> None:
    check()
    if time.monotonic() > end:
        raise InfrastructureError(
            "demo", "did not end in time", "look at .boig/logs, or give it longer with --minutes"
        )
    time.sleep(POLL_S)
