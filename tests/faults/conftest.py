"""One installation of real Airflow, Postgres and Ray for all files that want it: its start costs
more than most of what is asked of it."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from boig_core.adworld.export import write_world
from boig_core.adworld.law import Law
from boig_core.config import load_recipe
from boig_core.data.ingestion import OneProcess, ingest
from boig_core.demo.processes import repository
from boig_core.storage import commit, manifest, store
from infra.evidence.orchestration import deferred_stages
from infra.evidence.orchestration.airflow_on_postgres import SERVERS, until
from tests.faults.installation import HERE, RECIPE, STAGES, Installation
from tests.webhook import Receiver

DAGS = [
    "deferred",
    "waiting",
    "training",
    "late",
    "probe",
    "boig",
    "boig_ingest",
    "boig_promote",
    "boig_reconcile",
]


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
    measured = deferred_stages.FOLDER / deferred_stages.FILES[0]
    machine = Installation(
        home,
        [
            *sorted((HERE / "dags").glob("*.py")),
            repository() / "dags" / "boig_reconcile.py",
            measured,
        ],
    )
    machine.send_alerts_to(receiver)
    machine.env |= {"BOIG_INGEST_CRON": "0 0 * * *", "BOIG_INGEST_POSTS": str(home / "posts")}
    # The triggerer imports the trigger of the measured DAG by the name of its file.
    path = os.pathsep.join((str(measured.parent), machine.env["PYTHONPATH"]))
    machine.env |= {"BOIG_STAGES": str(STAGES), "PYTHONPATH": path}
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


@pytest.fixture(scope="module")
def world(services: Installation) -> Path:
    """Posts with images."""
    folder = services.home / "world"
    write_world(60, 3, Law.load("sunlit"), folder)
    return folder


@pytest.fixture(scope="module")
def dataset(services: Installation, world: Path) -> None:
    """What the DAG `training` learns from."""
    root, scratch = (
        store.join(str(services.store), "datasets", "adworld"),
        services.home / "scratch",
    )
    scratch.mkdir()
    created = ingest(
        str(world),
        None,
        load_recipe("tiny", RECIPE).data,
        0,
        root=root,
        scratch=scratch,
        crew=OneProcess(),
    )
    attempt, lineage = (
        store.join(root, "attempt-1"),
        manifest.Lineage(inputs={}, recipe="", code=""),
    )
    by = store.join(attempt, commit.COMMIT)
    manifest.publish_folder(
        created.folder,
        f"{root}/v1",
        kind="dataset",
        lineage=lineage,
        commit=by,
        meta=created.meta,
        blobs=created.blobs,
    )
    commit.commit(attempt, {"dataset": f"{root}/v1"}, {})
