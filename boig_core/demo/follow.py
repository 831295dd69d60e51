"""Following the four DAG runs of a demo with one live view: what runs, since when, and its newest number.

Leaves out: starting servers (see `services`) and what is printed at the end (see `run`).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from boig_core.demo.airflow_api import AirflowApi
from boig_core.errors import BoigError, InfrastructureError, NotFoundInStoreError
from boig_core.orchestration import attempts
from boig_core.storage import commit, store

CHAIN: dict[str, list[str]] = {
    "boig_ingest": ["ingest", "perceive"],
    "boig_llm": ["finetune_llm", "evaluate_llm", "calibrate"],
    "boig_sd": ["finetune_sd", "ddpo", "evaluate_sd", "report"],
    "boig_promote": ["gates", "approval", "promote"],
}
"""DAGs in their order, with the tasks that the view shows."""

POLL_S = 2.0
APPROVE_AFTER_S = 8.0
"""Seconds before the demo approves: Airflow fails a task that is answered before its scheduler has seen it wait."""
NEXT_DAG_S = 120.0
"""Longest wait for the run that an asset event starts, in seconds."""

_LOOKS = {"success": "green", "failed": "red", "upstream_failed": "red", "skipped": "yellow", "running": "cyan", "deferred": "cyan"}
_WORDS = {
    "deferred": "running",
    "success": "done",
    "queued": "waits",
    "scheduled": "waits",
    "awaiting_input": "asks you",
    None: "waits",
    "none": "waits",
}


class StageFailedError(BoigError):
    """A task has failed for good.

    Args:
        value: ``DAG / TASK``.
        rule: the error.
        remedy: what to do.
        user: whether the input is to blame (exit code 2).
        log: last lines of the task's log.
    """

    def __init__(self, value: object, rule: str, remedy: str, user: bool = False, log: tuple[str, ...] = ()) -> None:
        super().__init__(value, rule, remedy)
        self.user = user
        self.log = log

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.value, self.rule, self.remedy, self.user, self.log)


@dataclass
class Row:
    """One line of the view."""

    dag: str
    task: str
    state: str | None = None
    since: float | None = None
    seconds: float | None = None
    note: str = ""

    def elapsed(self) -> str:
        """Time since the start, or the time it took, as m:ss."""
        spent = self.seconds if self.seconds is not None else (time.monotonic() - self.since if self.since is not None else None)
        return "" if spent is None else f"{int(spent) // 60}:{int(spent) % 60:02d}"


@dataclass
class View:
    """A table that is drawn anew in a terminal, and one line a change elsewhere; use with ``with``."""

    console: Console
    rows: list[Row] = field(default_factory=lambda: [Row(dag, task) for dag, tasks in CHAIN.items() for task in tasks])

    def __post_init__(self) -> None:
        self._live = Live(get_renderable=self._table, console=self.console, refresh_per_second=2) if self.console.is_terminal else None

    def __enter__(self) -> View:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None) -> None:
        if self._live:
            self._live.stop()

    def update(self, row: Row, state: str | None, note: str) -> None:
        """Show a task's state and newest number."""
        if state in {"queued", "scheduled"} and row.since is not None:
            state = "running"  # a deferred task is queued once more, to take up its job's result
        changed = state != row.state
        if changed and (state == "awaiting_input" or (state in {"running", "deferred"} and row.since is None)):
            row.since = time.monotonic()
        if changed and state in {"success", "failed", "skipped"} and row.since is not None:
            row.seconds = time.monotonic() - row.since
        before, row.state, row.note = _WORDS.get(row.state, row.state), state, note
        word = _WORDS.get(state, state)
        if not self._live and changed and word != before:
            self.console.print(f"{row.dag:<13} {row.task:<13} {word:<9} {row.elapsed():>6}  {note}", soft_wrap=True, highlight=False)

    def _table(self) -> Table:
        table = Table(box=None, pad_edge=False)
        for name in ("dag", "stage", "state", "time", ""):
            table.add_column(name, justify="right" if name == "time" else "left", no_wrap=True)
        for number, row in enumerate(self.rows):
            first = number == 0 or self.rows[number - 1].dag != row.dag
            style = _LOOKS.get(row.state or "", "dim")
            word = _WORDS.get(row.state, row.state or "")
            table.add_row(row.dag if first else "", row.task, f"[{style}]{word}[/]", row.elapsed(), row.note)
        return table


def follow(
    api: AirflowApi,
    approver: AirflowApi,
    view: View,
    root: str,
    first_run: str,
    check: Callable[[], None],
    limit_s: float,
) -> dict[str, str]:
    """Follow the chain from a run of ``boig_ingest`` to the end of ``boig_promote``, approving when asked.

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
    runs = {"boig_ingest": first_run}
    for dag in CHAIN:
        waited = time.monotonic()
        while dag not in runs:
            found = api.newest_run(dag)
            if found is not None:
                runs[dag] = str(found["dag_run_id"])
            elif time.monotonic() - waited > NEXT_DAG_S:
                raise InfrastructureError(dag, "was not started by its asset", "look at the assets in Airflow")
            else:
                _pause(check, end)
        while not _finished(api, approver, view, root, dag, runs[dag]):
            _pause(check, end)
    return runs


def _finished(api: AirflowApi, approver: AirflowApi, view: View, root: str, dag: str, run: str) -> bool:
    tasks = api.tasks(dag, run)
    for row in view.rows:
        if row.dag == dag and row.task in tasks:
            state = tasks[row.task]["state"]
            if state != row.state or state in {"running", "deferred"}:
                view.update(row, state, _note(root, dag, run, row.task, state))
    asked = next((row for row in view.rows if row.task == "approval" and row.dag == dag and row.state == "awaiting_input"), None)
    if asked is not None and time.monotonic() - (asked.since or 0.0) > APPROVE_AFTER_S:
        approver.approve(dag, run, "approval")
    failed = [name for name, task in tasks.items() if task["state"] == "failed"]
    if failed:
        raise _failure(api, root, dag, run, failed[0], int(tasks[failed[0]]["try_number"] or 1))
    found = api.newest_run(dag)
    state = (found or {}).get("state")
    if state == "failed":
        raise StageFailedError(dag, "the run failed", "look at it in Airflow")
    return state == "success"


def _failure(api: AirflowApi, root: str, dag: str, run: str, task: str, tries: int) -> StageFailedError:
    lines = tuple(api.log(dag, run, task, tries)[-25:])
    uri = attempts.task_uri(root, dag, run, task)
    numbers = commit.attempts(uri)
    failure = commit.read_failure(commit.attempt_uri(uri, numbers[-1])) if numbers else None
    if failure is None:
        error = next((line for line in reversed(lines) if "Exception" in line or "Error" in line), lines[-1] if lines else "no log")
        user = task == "plan" and tries == 1  # anything else is tried again
        return StageFailedError(f"{dag} / {task}", error, "see the log above", user, lines)
    return StageFailedError(f"{dag} / {task}", f"{failure.type}: {failure.message}", failure.remedy, failure.user, lines)


def _note(root: str, dag: str, run: str, task: str, state: str | None) -> str:
    """The newest number of a stage: of its curve while it runs, of its commit when it is done."""
    if state not in {"running", "deferred", "success"} or task in CHAIN["boig_promote"]:
        return ""
    uri = attempts.task_uri(root, dag, run, task)
    numbers = commit.attempts(uri)
    if not numbers:
        return ""
    attempt = commit.attempt_uri(uri, numbers[-1])
    if state == "success":
        done = commit.read_commit(attempt) or {}
        return headline(done.get("metrics") or {})
    try:
        rows = store.read_bytes(store.join(attempt, "metrics.jsonl")).decode().splitlines()
        return headline(json.loads(rows[-1])) if rows else ""
    except (NotFoundInStoreError, ValueError):
        return ""


def headline(metrics: dict[str, Any], most: int = 4) -> str:
    """The first numbers of a stage's metrics in one short line."""
    numbers = {k: v for k, v in metrics.items() if isinstance(v, (int, float)) and not isinstance(v, bool) and k not in {"time", "seconds"}}
    return " · ".join(f"{name} {value:.4g}" for name, value in list(numbers.items())[:most])


def _pause(check: Callable[[], None], end: float) -> None:
    check()
    if time.monotonic() > end:
        raise InfrastructureError("demo", "did not end in time", "look at .boig/logs, or give it longer with --minutes")
    time.sleep(POLL_S)
