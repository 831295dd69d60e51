"""One installation of real Airflow, Postgres and Ray for all files that want it: its start costs
more than most of what is asked of it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from boig_core.demo.processes import repository
from infra.evidence.orchestration.airflow_on_postgres import SERVERS, until
from tests.faults.installation import HERE, Installation
from tests.webhook import Receiver

DAGS = ["deferred", "waiting", "training", "late", "boig_ingest", "boig_reconcile"]


@pytest.fixture(scope="package")
def receiver() -> Iterator[Receiver]:
    """Where the installation's alerts arrive."""
    webhook = Receiver()
    yield webhook
    webhook.close()


@pytest.fixture(scope="package")
def services(request: pytest.FixtureRequest, receiver: Receiver) -> Iterator[Installation]:
    home = Path(tempfile.mkdtemp(prefix="boig-faults-"))
    home.chmod(0o755)
    machine = Installation(
        home, [*sorted((HERE / "dags").glob("*.py")), repository() / "dags" / "boig_reconcile.py"]
    )
    machine.send_alerts_to(receiver)
    machine.env |= {"BOIG_INGEST_CRON": "0 0 * * *", "BOIG_INGEST_POSTS": str(home / "posts")}
    try:
        machine.prepare()
        machine.start_ray()
        machine.start_airflow(*SERVERS)
        until("the DAGs are known", lambda: machine.airflow.has_dags(DAGS))
        machine.connect_ray()
        machine.airflow.create_pool("boig_cluster", 4)
        yield machine
    finally:
        machine.kill_all()
        if not request.session.testsfailed:
            shutil.rmtree(home)
