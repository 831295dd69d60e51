"""The reconciler with Airflow's own answers: every state that a task can be put into by a person,
asked as a task asks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.usefixtures("airflow_db")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, ray_stub: Any) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("boig")
    (folder / "posts.jsonl").write_text("{}\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BOIG_STORE", str(folder / "store"))
        patch.setenv("RAY_API_ADDRESS", ray_stub.address)
        yield folder


def load(name: str) -> Any:
    import importlib

    return importlib.reload(importlib.import_module(f"dags.{name}")).dag


def change(run: Any, state: str) -> None:
    """What a person does in the UI to the task ``ingest``."""
    from airflow.models.dagrun import DagRun
    from airflow.models.taskinstance import TaskInstance, clear_task_instances
    from airflow.utils.session import create_session

    with create_session() as session:
        task = (
            session.query(TaskInstance)
            .filter_by(dag_id=run.dag_id, run_id=run.run_id, task_id="ingest")
            .one()
        )
        if state == "cleared":
            before = (task.try_number, task.max_tries)
            clear_task_instances([task], session)
            assert task.max_tries == before[0] + task.task.retries > before[1]
        elif state == "deleted":
            session.delete(
                session.query(DagRun).filter_by(dag_id=run.dag_id, run_id=run.run_id).one()
            )
        else:
            task.state = state


def test_jobs_are_judged_by_what_airflow_says(home: Path, ray_stub: Any) -> None:
    states = ["failed", "cleared", "deleted", "deferred"]
    jobs = {}
    for state in states:
        known = set(ray_stub.states)
        run = load("boig_ingest").test(run_conf={"posts": str(home / "posts.jsonl")})
        name = next(
            name
            for name in ray_stub.states
            if name not in known and ray_stub.metadata[name]["task"] == "ingest"
        )
        assert ray_stub.metadata[name]["run"] == run.run_id
        change(run, state)
        jobs[name] = state
    for name in jobs:
        ray_stub.states[name] = "RUNNING"
    done = load("boig_reconcile").test()
    assert [str(task.state) for task in done.get_task_instances()] == ["success"]
    over = {name: state for name, state in jobs.items() if state != "deferred"}
    assert set(ray_stub.stopped) == set(over)
    assert report(done) == {"live": len(jobs), "stopped": over, "unknown": []}


def report(run: Any) -> Any:
    from airflow.models.xcom import XComModel
    from airflow.utils.session import create_session

    with create_session() as session:
        row = (
            session.query(XComModel)
            .filter_by(dag_id=run.dag_id, run_id=run.run_id, key="return_value")
            .one()
        )
        return XComModel.deserialize_value(row)
