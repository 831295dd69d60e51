"""A run that is late, on real Airflow: one alert that names run and stage, and the run goes on."""

from __future__ import annotations

from infra.evidence.orchestration.airflow_on_postgres import until
from tests.faults.installation import Installation
from tests.webhook import Receiver


def test_a_late_run_is_told_once_and_goes_on(services: Installation, receiver: Receiver) -> None:
    services.kill("triggerer")  # so that the run is in its second task when it is told
    run = services.airflow.start("late")
    until("the stage runs", lambda: services.airflow.state(run) == "running")
    services.start_airflow("triggerer")
    until("the alert comes", lambda: f"late: {run.id} is late" in receiver.titles)
    [message] = [message for message in receiver.got if run.id in message["title"]]
    assert "Stages: stage (running)" in message["message"].splitlines()
    assert services.airflow.state(run) == "running"
    services.go(run)
    until("the task ends", lambda: services.airflow.state(run) == "success")
    assert receiver.titles.count(f"late: {run.id} is late") == 1
