"""A real triggerer process: it shows a job's log in the task's, and a kill that Airflow does not
confirm leaves the job alone."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from boig_core.storage import store

pytestmark = pytest.mark.usefixtures("airflow_db")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, ray_stub: Any) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("boig")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BOIG_STORE", str(folder / "store"))
        patch.setenv("RAY_API_ADDRESS", ray_stub.address)
        yield folder


@pytest.fixture
def triggerer(tmp_path: Path) -> Iterator[Path]:
    """Its own log."""
    path = tmp_path / "triggerer.log"
    with path.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "airflow", "triggerer", "--skip-serve-logs"],
            stdout=log,
            stderr=log,
        )
        yield path
        process.terminate()
        process.wait(60)


def until(what: Callable[[], bool]) -> None:
    """Look again and again; the limit is for a hang alone. (Airflow, run in this process, takes the
    signal of the test's own limit.)"""
    end = time.monotonic() + 240
    while not what():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.1)


def deferred(name: str, attempt: str, ray_stub: Any, by_0_1: bool = False) -> tuple[str, int]:
    """A task that waits for a job: run id and trigger id."""
    import importlib

    from airflow.models.taskinstance import TaskInstance
    from airflow.models.trigger import Trigger
    from airflow.utils.session import create_session

    from boig_core.orchestration.jobs.ray_api import RayCluster
    from boig_core.orchestration.jobs.trigger import RayJobTrigger

    run = importlib.reload(importlib.import_module("dags.boig_reconcile")).dag.test()
    ray_stub.states[name] = "RUNNING"
    store.write_bytes(f"{attempt}/log/000001.txt", f"epoch 1 of {name}\n".encode())
    with create_session() as session:
        cluster = RayCluster(ray_stub.address).serialize()
        row = Trigger.from_object(RayJobTrigger(cluster, name, 0.2, attempt))
        if by_0_1:  # as a database of then still has it
            assert row.kwargs.keys() == {"cluster", "submission_id", "poll_s", "attempt"}
            row.classpath = "boig_core.orchestration.trigger.RayJobTrigger"
        session.add(row)
        session.flush()
        task = session.query(TaskInstance).filter_by(dag_id=run.dag_id, run_id=run.run_id).one()
        task.state, task.trigger_id = "deferred", row.id
        return run.run_id, row.id


def task_log(text: str) -> bool:
    return any(
        text in path.read_text()
        for path in Path(os.environ["AIRFLOW_HOME"]).glob("logs/**/*.trigger.*.log")
    )


def test_a_failed_task_loses_its_job_and_a_trigger_that_moved_away_does_not(
    home: Path, ray_stub: Any, request: Any
) -> None:
    from airflow._shared.timezones import timezone
    from airflow.jobs.job import Job
    from airflow.models.taskinstance import TaskInstance
    from airflow.models.trigger import Trigger
    from airflow.utils.session import create_session

    failed, _ = deferred("boig-failed", f"{home}/failed/attempt-1", ray_stub, by_0_1=True)
    moved_run, moved = deferred("boig-moved", f"{home}/moved/attempt-1", ray_stub)
    own_log: Path = request.getfixturevalue("triggerer")
    until(lambda: task_log("epoch 1 of boig-failed") and task_log("epoch 1 of boig-moved"))
    with create_session() as session:  # another triggerer that is alive has taken this one over
        other = Job()
        other.job_type, other.state, other.latest_heartbeat = (
            "TriggererJob",
            "running",
            timezone.utcnow() + timedelta(hours=1),
        )
        session.add(other)
        session.flush()
        session.query(Trigger).filter_by(id=moved).one().triggerer_id = other.id
        session.query(TaskInstance).filter_by(run_id=failed).one().state = "failed"
    # a task's last line may stand in the triggerer's own log
    goes_on = f"/{moved_run}/reconcile is deferred: its job goes on"
    until(
        lambda: (
            ray_stub.states["boig-failed"] == "STOPPED"
            and (task_log(goes_on) or goes_on in own_log.read_text())
        )
    )
    assert ray_stub.states["boig-moved"] == "RUNNING"
    assert ray_stub.stopped == ["boig-failed"]
