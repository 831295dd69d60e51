"""Real services for the fault tests, each a process that a test can kill, freeze and start again.

Beside Airflow on Postgres a Ray head with its Jobs API, which Airflow reaches through `Gate`. Jobs
run `stand_in` instead of Python. All of it has secrets in its environment (see `tests.planted`).
Leaves out: what is asserted.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from boig_core import environment
from boig_core.config import load_recipe
from boig_core.demo.airflow_api import AirflowApi
from boig_core.demo.processes import Ports
from boig_core.demo.services import ROLES, start_ray
from boig_core.errors import InputError
from infra.evidence.orchestration.airflow_clicks import Run
from infra.evidence.orchestration.airflow_on_postgres import (
    SERVERS,
    AirflowOnPostgres,
    postgres_programs,
    send,
    until,
)
from tests.faults.gate import Gate
from tests.planted import make_secrets
from tests.ports import PORTS
from tests.webhook import Receiver

HERE = Path(__file__).parent
STAGES = 4
"""Of the DAG whose latency is measured."""
RAYS_OWN = ("JobSupervisor", "_AutoscalingCoordinatorActor", "PlacementGroupCleaner")
"""Actors that hold no room. Of a stopped training Ray's cleaner stays, idle: in Ray 2.60 it ends
its thread and takes that for its end."""
RECIPE = [
    "sd.steps=12",
    "sd.checkpoint_every=10",
    "sd.batch=4",
    "sd.workers=1",
    "data.percentiles=[40, 60]",
    "data.floors=[-1, -1, -1]",
]
"""Of the stages: a training that ends two steps after its one checkpoint in between."""


class Installation(AirflowOnPostgres):
    """All services of one machine.

    Args:
        home: an empty folder that other users may pass through (Postgres does not run as root).
        dags: DAG files.
    """

    def __init__(self, home: Path, dags: Sequence[Path]) -> None:
        ports = free_ports()
        self.planted = make_secrets()
        self.gate = Gate(f"http://127.0.0.1:{ports.dashboard}")
        more = {
            **self.planted,
            # nothing listens there, and each test would wait for its patience
            "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
            "BOIG_RAY_PYTHON": str(home / "python"),
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": ",".join(
                f"{user}:{role}" for user, role in {"admin": "admin", **ROLES}.items()
            ),
            "RAY_API_ADDRESS": self.gate.address,
        }
        super().__init__(home, dags, ports, more)

    def prepare(self) -> None:
        """Also what Ray's jobs need."""
        need_postgres()
        super().prepare()
        passwords = {user: "of-tests" for user in ("admin", *ROLES)}
        (self.home / "airflow" / "passwords.json").write_text(json.dumps(passwords))
        (self.signals / "go").mkdir()
        (self.store / "recipe.json").write_text(load_recipe("tiny", RECIPE).model_dump_json())
        python, stand_in = self.home / "python", HERE / "stand_in.py"
        python.write_text(f'#!/bin/sh\nexec {sys.executable} {stand_in} "$@"\n')
        python.chmod(0o755)

    def person(self, name: str) -> AirflowApi:
        """Airflow as one of the demo's users."""
        api = AirflowApi(self.airflow.base, name, "of-tests")
        assert api.login()
        return api

    def start_ray(self) -> None:
        start_ray(self, self.env, self.ports)

    def send_alerts_to(self, receiver: Receiver) -> None:
        """Before anything is started: alerts go to this webhook, with the planted secret in its
        address."""
        secret = self.planted[environment.ALERT_URL.name].rsplit("/", 1)[-1]
        self.planted[environment.ALERT_URL.name] = self.env[environment.ALERT_URL.name] = (
            receiver.address_with(secret)
        )

    def connect_ray(self) -> None:
        """The connections that DAGs of users find the cluster and the store by; with secrets."""
        host, port = self.gate.address.removeprefix("http://").split(":")
        token, key = self.env["RAY_AUTH_TOKEN"], self.planted["AWS_SECRET_ACCESS_KEY"]
        self.airflow.add_connection(
            connection_id="ray_default", conn_type="ray", host=host, port=int(port), password=token
        )
        self.airflow.add_connection(connection_id="aws_default", conn_type="aws", password=key)

    def repair(self) -> None:
        """Bring back what an earlier test has killed or frozen: one that failed must not fail the
        next."""
        for name in self._running:
            self.wake(name)
        if "triggerer-2" in self._running:
            self.kill("triggerer-2")
        if "ray" not in self._running:
            self.start_ray()
        if missing := [name for name in SERVERS if name not in self._running]:
            self.start_airflow(*missing)
        self.gate.release()

    def kill_all(self) -> None:
        """Nothing of this machine is wanted any more."""
        super().kill_all()
        self.gate.close()

    def kill_worker(self, run: Run) -> None:
        """SIGKILL to the worker of a running task: the process that runs the task, and the one that
        watches over it."""
        task = psutil.Process(until(f"{run} has a process", lambda: self.airflow.task(run)["pid"]))
        worker = task.parent()
        assert worker is not None
        assert "LocalExecutor" in " ".join(worker.cmdline()), worker
        for process in (worker, task, *task.children(recursive=True)):
            send(process, signal.SIGKILL)

    def jobs(self, run: Run) -> list[dict[str, Any]]:
        """What Ray knows of a run's jobs, the oldest first."""
        result = [
            job for job in self.ray_says("/api/jobs/") if f"/{run.folder}/" in job["entrypoint"]
        ]
        return sorted(result, key=lambda job: job["start_time"])

    def ray_says(self, path: str) -> Any:
        """Answer of Ray's dashboard."""
        url = f"http://127.0.0.1:{self.ports.dashboard}{path}"
        answer = httpx.get(
            url,
            headers={"Authorization": f"Bearer {self.env['RAY_AUTH_TOKEN']}"},
            trust_env=False,
            timeout=300,
        )
        return answer.raise_for_status().json()

    def held(self) -> list[str]:
        """What lives on the cluster beside Ray's own actors: classes of actors, and groups of
        resources."""
        answers = (
            self.ray_says(f"/api/v0/{kind}?limit=1000") for kind in ("actors", "placement_groups")
        )
        rows = [
            row
            for answer in answers
            for row in answer["data"]["result"]["result"]
            if row["state"] not in ("DEAD", "REMOVED")
        ]
        names = [row.get("class_name", "placement group") for row in rows]
        return [name for name in names if name not in RAYS_OWN]

    def starts(self, run: Run) -> list[dict[str, Any]]:
        """The marks that the stage's processes left when they started."""
        marks = self.signals / "started.jsonl"
        lines = marks.read_text().splitlines() if marks.exists() else []
        return [mark for line in lines if f"/{run.folder}/" in (mark := json.loads(line))["task"]]

    def go(self, *runs: Run) -> None:
        """Let the stages of these runs, and of later attempts of them, end."""
        for run in runs:
            (self.signals / "go" / run.folder).touch()


def need_postgres() -> None:
    """Without Postgres the tests are skipped, but on CI they fail."""
    try:
        postgres_programs()
    except InputError as exc:
        if os.environ.get("CI"):
            pytest.fail(str(exc))
        pytest.skip(str(exc))


def free_ports() -> Ports:
    """Ports of this worker's range; never the usual ones, which others on this machine may take at
    any time."""
    return Ports(
        next(PORTS), next(PORTS), next(PORTS), next(PORTS), list(itertools.islice(PORTS, 8))
    )
