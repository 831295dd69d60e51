"""What is asked of a run after a fault: which attempt is used, and that nothing is left."""

from __future__ import annotations

import psutil

from boig_core.storage import commit, store
from infra.evidence.orchestration.airflow_clicks import Run
from infra.evidence.orchestration.airflow_on_postgres import until
from tests.faults.installation import Installation

STOPPED_S = 240.0
"""Longest time from a person's click to the end of the job's last process."""


def started(services: Installation, *dags: str) -> list[Run]:
    """Runs whose stage is under way, and whose task waits for it."""
    runs = [services.airflow.start(dag) for dag in dags]
    for run in runs:
        until(f"{run}: the stage has started", lambda run=run: services.starts(run))
        until(
            f"{run}: the task waits",
            lambda run=run: (
                services.airflow.state(run) == ("running" if run.dag == "waiting" else "deferred")
            ),
        )
    return runs


def used_once(services: Installation, *runs: Run) -> None:
    """Each run ends well with the result of its first attempt, which was its only one."""
    for run in runs:
        state = until(f"{run}: the task ends", lambda run=run: ended(services, run))
        assert (run.dag, state) == (run.dag, "success")
        assert [job["status"] for job in services.jobs(run)] == ["SUCCEEDED"]
        assert [mark["attempt"] for mark in services.starts(run)] == [1]
        result = services.airflow.result(run)
        assert result["metrics"]["attempt"] == 1
        assert store.read_bytes(store.join(result["outputs"]["dataset"], "attempt.txt")) == b"1"


def ended(services: Installation, run: Run, task: str = "stage") -> str | None:
    state = services.airflow.state(run, task)
    return state if state in ("success", "failed", "upstream_failed", "skipped") else None


def nothing_left(services: Installation, run: Run, attempt: int = 1) -> None:
    """The job of an attempt stops within the stated time, with its processes."""
    [mark] = [mark for mark in services.starts(run) if mark["attempt"] == attempt]
    until(
        f"{run}: job {attempt} stops",
        lambda: services.jobs(run)[attempt - 1]["status"] == "STOPPED",
        STOPPED_S,
    )
    until(
        f"{run}: process {mark['pid']} ends", lambda: not psutil.pid_exists(mark["pid"]), STOPPED_S
    )


def attempt_of(services: Installation, run: Run, number: int) -> str:
    return commit.attempt_uri(
        store.join(str(services.store), "runs", run.dag, run.folder, "stage"), number
    )


def second_used(services: Installation, run: Run) -> None:
    """The first attempt is over and fenced before the second starts; the second's result is
    used."""
    until(f"{run}: a second attempt starts", lambda: len(services.starts(run)) == 2)
    services.go(run)
    assert until(f"{run}: the task ends", lambda: ended(services, run)) == "success"
    assert services.airflow.result(run)["attempt"] == attempt_of(services, run, 2)
    assert commit.fate(attempt_of(services, run, 2)) == "committed"
    assert [mark["attempt"] for mark in services.starts(run)] == [1, 2]


DOWN_S = 60.0
"""How long all of Airflow is away: longer than anything in it waits for a heartbeat."""


def states(services: Installation, run: Run) -> list[str | None]:
    return [task["state"] for task in services.airflow.tasks(run.dag, run.id).values()]
