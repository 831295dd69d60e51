"""A run that is late, on real Airflow: one alert that names run and stage, and the run goes on."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from boig_core.orchestration import alerts, deadlines
from tests.faults.airflow_services import HERE, SERVERS, Installation, until
from tests.webhook import Receiver

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    found = Receiver()
    yield found
    found.close()


@pytest.fixture
def services(request: pytest.FixtureRequest, receiver: Receiver) -> Iterator[Installation]:
    home = Path(tempfile.mkdtemp(prefix="boig-late-"))
    home.chmod(0o755)
    machine = Installation(home, [HERE / "dags" / "late.py"])
    machine.env |= {alerts.ADDRESS: receiver.address, deadlines.HOURS: "0.001"}
    try:
        machine.prepare()
        machine.start_airflow(*SERVERS)
        until("the DAG is known", lambda: machine.airflow.has_dags(["late"]))
        yield machine
    finally:
        machine.kill_all()
        if not request.session.testsfailed:
            shutil.rmtree(home)


def test_a_late_run_is_told_once_and_goes_on(services: Installation, receiver: Receiver) -> None:
    services.kill("triggerer")  # so that the run is in its second task when it is told
    run = services.airflow.start("late")
    until("the stage runs", lambda: services.airflow.state(run) == "running")
    services.start_airflow("triggerer")
    until("the alert comes", lambda: receiver.got)
    [message] = receiver.got
    assert message["title"] == f"late: {run.id} is late"
    assert "Stages: stage (running)" in message["message"].splitlines()
    assert services.airflow.state(run) == "running"
    services.go(run)
    until("the task ends", lambda: services.airflow.state(run) == "success")
    assert len(receiver.got) == 1
