"""Alerts of real DAG runs, received over HTTP: one a cause, with what a reader needs, and without
the secret of their address."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import DAG, task
from tenacity import stop_after_attempt

from boig_core import environment
from boig_core.errors import ClusterError, InputError, StoreUnavailableError
from boig_core.orchestration.jobs import backend as jobs
from boig_core.orchestration.signals import alerts
from boig_core.orchestration.signals.callbacks import on_failure
from boig_core.orchestration.stage.operator import RayJobOperator
from boig_core.storage import store
from tests.webhook import SECRET, Receiver

pytestmark = pytest.mark.usefixtures("airflow_db")


@pytest.fixture
def receiver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    result = Receiver()
    monkeypatch.setenv(environment.ALERT_URL.name, result.address)
    monkeypatch.setenv("BOIG_STORE", str(tmp_path / "store"))
    yield result
    result.close()


def run(dag: DAG) -> dict[str, str]:
    """A run of a DAG that no file holds; returns the state of each task."""
    from airflow.dag_processing.bundles.manager import DagBundlesManager
    from airflow.dag_processing.dagbag import DagBag, sync_bag_to_db

    DagBundlesManager().sync_bundles_to_db()
    bag = DagBag(collect_dags=False)
    bag.bag_dag(dag)
    sync_bag_to_db(bag, "dags-folder", None)
    return {ti.task_id: str(ti.state) for ti in dag.test().get_task_instances()}


def dag_of(name: str, **defaults: Any) -> DAG:
    return DAG(
        name,
        schedule=None,
        default_args={"on_failure_callback": on_failure, "retries": 0, **defaults},
    )


def failing(name: str, error: Exception, count: int = 1, **defaults: Any) -> DAG:
    """A DAG of so many mapped tasks, each of which fails of the same, and one task that waits for
    them."""
    with dag_of(name, **defaults) as dag:

        @task
        def stage(number: int) -> None:
            raise type(error)(error.value, error.rule.replace("N", str(number)), error.remedy)  # type: ignore[attr-defined]

        @task
        def after(done: list[None]) -> None:
            pass

        after(stage.expand(number=list(range(count))))
    return dag


def test_a_refused_input_is_told_once_with_its_remedy_and_links(
    receiver: Receiver, ray_stub: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib

    monkeypatch.setenv("RAY_API_ADDRESS", ray_stub.address)
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", "https://airflow.example")
    (tmp_path / "posts.jsonl").write_text("{}\n")
    ray_stub.refuse.add("ingest")
    try:
        done = importlib.reload(importlib.import_module("dags.boig_ingest")).dag.test(
            run_conf={"posts": str(tmp_path / "posts.jsonl")}
        )
    finally:
        ray_stub.refuse.clear()
    states = {ti.task_id: str(ti.state) for ti in done.get_task_instances()}
    assert (states["ingest"], states["perceive"], states["announce"]) == (
        "failed",
        "upstream_failed",
        "upstream_failed",
    )
    [message] = receiver.got
    assert message["title"] == "boig_ingest: ingest failed"
    lines = message["message"].splitlines()
    assert lines[0] == "InputError: ingest: InputError: posts: are refused"
    assert lines[1] == "Remedy: give better ones"
    assert done.run_id in lines[2]
    assert any(
        line.startswith("Task log: https://airflow.example/dags/boig_ingest/runs/manual")
        for line in lines
    )
    assert any(
        line.startswith(f"Ray job: {ray_stub.address}/#/jobs/boig-ingest-ingest") for line in lines
    )


def test_mapped_tasks_that_fail_of_one_cause_send_one_message_a_run(receiver: Receiver) -> None:
    dag = failing(
        "mapped", InputError("posts", "variant N is refused", "give better ones"), count=3
    )
    run(dag)
    assert receiver.titles == ["mapped: stage failed"]
    run(dag)
    assert receiver.titles == ["mapped: stage failed"] * 2


def test_an_outage_is_told_once_for_all_runs_and_told_again_when_it_goes_on(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{closed.getsockname()[1]}"
    monkeypatch.setenv("RAY_API_ADDRESS", address)
    monkeypatch.setattr(jobs.ask.retry, "stop", stop_after_attempt(1))  # type: ignore[attr-defined]
    root = alerts.store_root()
    store.write_bytes(f"{root}/recipe.json", recipe())
    with dag_of("outage") as dag:
        for stage in ("ingest", "calibrate", "report"):
            plan = {
                "store": root,
                "recipe": f"{root}/recipe.json",
                "root": "r",
                "outputs": {},
                "seconds": {},
            }
            RayJobOperator(task_id=stage, stage=stage, plan=plan, inputs={}, pool="default_pool")
    for _ in range(2):
        assert run(dag) == {"ingest": "failed", "calibrate": "failed", "report": "failed"}
    assert len(receiver.got) == 1
    assert receiver.got[0]["message"].startswith(f"ClusterError: {address}: Ray does not answer")
    run(failing("waits", ClusterError(f"{address}/#/jobs/boig-x", "Ray says UNREACHABLE", "wait")))
    run(failing("elsewhere", ClusterError("http://other:8265", "Ray says UNREACHABLE", "wait")))
    assert receiver.titles[1:] == ["elsewhere: stage failed"]
    monkeypatch.setattr(alerts, "WINDOW_S", 0.001)
    run(failing("later", ClusterError(address, "Ray does not answer", "wait")))
    assert receiver.titles[2:] == ["later: stage failed"]


def recipe() -> bytes:
    from boig_core.config import load_recipe

    return load_recipe("tiny").model_dump_json().encode()


def test_an_infrastructure_error_is_told_when_no_retry_is_left(receiver: Receiver) -> None:
    tries: list[int] = []
    with dag_of("retried", retries=2, retry_delay=0) as dag:

        @task
        def stage() -> None:
            tries.append(len(receiver.got))
            raise ClusterError("http://ray:1", "does not answer", "wait")

        stage()
    run(dag)
    assert tries == [0, 0, 0]
    assert len(receiver.got) == 1
    assert "try 3" in receiver.got[0]["message"]


def test_a_store_that_is_away_is_remembered_by_airflow(
    receiver: Receiver, s3_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BOIG_STORE", s3_bucket)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    error = StoreUnavailableError(f"{s3_bucket}/runs/a/N", "does not answer", "wait")
    for name in ("one", "two"):
        run(failing(name, error, count=2))
    assert receiver.titles == ["one: stage failed"]


def test_what_cannot_be_sent_is_logged_without_the_address_and_sent_with_the_next_failure(
    receiver: Receiver,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    logging.getLogger("urllib3").setLevel(logging.DEBUG)
    caplog.set_level(logging.DEBUG)
    dag = failing("unsent", ClusterError("http://ray:2", "does not answer", "wait"))
    receiver.status = 500
    assert run(dag) == {"stage": "failed", "after": "upstream_failed"}
    for wrong in (f"https://nowhere.example/{SECRET}", f"nonsense://{SECRET}"):
        monkeypatch.setenv(environment.ALERT_URL.name, wrong)
        run(dag)
    captured = capfd.readouterr()
    logged = captured.out + captured.err + caplog.text
    assert "no alert: BOIG_ALERT_URL: was not taken by all of: JSON" in logged
    assert logged.count("no alert: BOIG_ALERT_URL: holds an address") >= 2
    assert "unsent / manual" in logged
    assert SECRET not in logged
    monkeypatch.setenv(environment.ALERT_URL.name, receiver.address)
    receiver.status = 200
    run(dag)
    assert receiver.titles == ["unsent: stage failed"]
