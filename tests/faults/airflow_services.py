"""Real services for the fault tests, each a process that a test can kill, freeze and start again.

Postgres, a Ray head with its Jobs API, and Airflow's four servers with the LocalExecutor. Airflow
reaches Ray through `Gate`, which can hold back an answer. Jobs run `stand_in` instead of Python.
All of it has secrets in its environment (see `tests.planted`). Leaves out: what is asserted.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import httpx
import psutil
import pytest
from aiohttp import web

from boig_core.config import load_recipe
from boig_core.demo.airflow_api import AirflowApi
from boig_core.demo.processes import Ports, Services
from boig_core.demo.services import READY_S, environment, start_ray
from boig_core.orchestration.signals import alerts
from boig_core.orchestration.stage.attempts import run_folder
from tests.planted import make_secrets
from tests.ports import PORTS
from tests.webhook import Receiver

HERE = Path(__file__).parent
POSTGRES = Path("/usr/lib/postgresql")
"""Where Debian keeps the programs, off the path."""
SERVERS = ("api-server", "scheduler", "dag-processor", "triggerer")
RAYS_OWN = ("JobSupervisor", "_AutoscalingCoordinatorActor", "PlacementGroupCleaner")
"""Actors that hold no room. Of a stopped training Ray's cleaner stays, idle: in Ray 2.60 it ends
its thread and takes that for its end."""
SETTINGS = {
    "CORE__PARALLELISM": "8",
    "CORE__SIMPLE_AUTH_MANAGER_USERS": "admin:admin",
    "CORE__DAGS_ARE_PAUSED_AT_CREATION": "True",
    "DAG_PROCESSOR__DISABLE_BUNDLE_VERSIONING": "True",
    "SCHEDULER__JOB_HEARTBEAT_SEC": "2",
    "SCHEDULER__SCHEDULER_HEARTBEAT_SEC": "1",
    "SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": "30",
    "SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "10",
    "SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "30",
    "SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "3",
    "TRIGGERER__JOB_HEARTBEAT_SEC": "2",
    "TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "20",
    "WORKERS__MIN_HEARTBEAT_INTERVAL": "3",
}
"""A dead process is noticed within half a minute, not five; less, and a busy machine takes the
living for dead."""
RECIPE = [
    "sd.steps=12",
    "sd.checkpoint_every=10",
    "sd.batch=4",
    "sd.workers=1",
    "data.percentiles=[40, 60]",
    "data.floors=[-1, -1, -1]",
]
"""Of the stages: a training that ends two steps after its one checkpoint in between."""


def postgres_programs() -> Path:
    """Folder of ``initdb`` and ``postgres``; where there are none the tests are skipped, but on CI
    they fail."""
    result = shutil.which("initdb")
    places = (
        [Path(result).resolve().parent] if result else sorted(POSTGRES.glob("*/bin"), reverse=True)
    )
    if places:
        return places[0]
    reason = "Postgres is not installed (Debian: apt-get install postgresql)"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def until(what: str, true: Callable[[], Any], limit_s: float = 600.0, every_s: float = 1.0) -> Any:
    """Wait for an event; returns what ``true`` returned. The limit is for a hang alone: it decides
    nothing else.

    Args:
        what: the event, for the message of a hang.
        true: whether it has come; asked often at first, then every ``every_s`` seconds, since what
            it asks must answer with the same CPUs.
        limit_s: longest wait.
        every_s: longest pause.
    """
    end, pause = time.monotonic() + limit_s, 0.1
    while not (value := true()):
        assert time.monotonic() < end, f"not within {limit_s:.0f} s: {what}"
        time.sleep(pause)
        pause = min(every_s, 1.3 * pause)
    return value


@dataclass(frozen=True)
class Run:
    """One run of one of the test DAGs."""

    dag: str
    id: str

    @property
    def folder(self) -> str:
        """Its name in the store."""
        return run_folder(self.id)

    @property
    def path(self) -> str:
        """Its address in Airflow's REST API."""
        return f"/dags/{self.dag}/dagRuns/{quote(self.id)}"


class Airflow(AirflowApi):
    """Airflow's REST API, with the clicks of a person who interferes."""

    def start(self, dag: str) -> Run:
        return Run(dag, self.trigger(dag, {}))

    def task(self, run: Run, task: str = "stage") -> dict[str, Any]:
        return self.tasks(run.dag, run.id)[task]

    def all_tasks(self, run: Run) -> dict[str, dict[str, Any]]:
        """Task instances of a run by task id, however many there are."""
        result: dict[str, dict[str, Any]] = {}
        while page := self._call(
            "GET", f"{run.path}/taskInstances?limit=100&offset={len(result)}&order_by=id"
        )["task_instances"]:
            result |= {task["task_id"]: task for task in page}
        return result

    def state(self, run: Run, task: str = "stage") -> str | None:
        return self.task(run, task)["state"]  # type: ignore[no-any-return]

    def run_state(self, run: Run) -> str:
        return self._call("GET", run.path)["state"]  # type: ignore[no-any-return]

    def result(self, run: Run) -> Any:
        return self.xcom(run.dag, run.id, "stage")

    def unpause(self, dag: str) -> None:
        self._call("PATCH", f"/dags/{dag}", {"is_paused": False})

    def add_connection(self, **what: Any) -> None:
        self._call("POST", "/connections", what)

    def mark(self, run: Run, state: str) -> None:
        self._call("PATCH", f"{run.path}/taskInstances/stage", {"new_state": state})

    def clear(self, run: Run) -> None:
        body = {"dry_run": False, "dag_run_id": run.id, "task_ids": ["stage"], "only_failed": False}
        self._call("POST", f"/dags/{run.dag}/clearTaskInstances", body)

    def run(self, run: Run) -> dict[str, Any]:
        return self._call("GET", run.path)  # type: ignore[no-any-return]

    def runs(self, dag: str) -> list[dict[str, Any]]:
        """The newest runs of a DAG, the earliest interval first."""
        return self._call("GET", f"/dags/{dag}/dagRuns?order_by=logical_date&limit=100")["dag_runs"]  # type: ignore[no-any-return]

    def clear_run(self, run: Run) -> None:
        self._call("POST", f"{run.path}/clear", {"dry_run": False, "only_failed": False})

    def entries(self, dag: str, run: str, task: str, attempt: int) -> list[dict[str, Any]]:
        """What a task logged, each entry with its fields."""
        path = f"/dags/{dag}/dagRuns/{quote(run)}/taskInstances/{task}/logs/{attempt}?full_content=true"
        return [entry for entry in self._call("GET", path)["content"] if isinstance(entry, dict)]

    def events(self, asset: str) -> list[dict[str, Any]]:
        """An asset's events, the oldest first."""
        return self._call(
            "GET", f"/assets/events?asset_id={self._asset(asset)}&order_by=timestamp"
        )["asset_events"]  # type: ignore[no-any-return]

    def asset_state(self, asset: str) -> dict[str, Any]:
        result = self._call("GET", f"/assets/{self._asset(asset)}/state-store")["asset_state_store"]
        return {entry["key"]: entry["value"] for entry in result}

    def forget(self, asset: str, key: str) -> None:
        self._send(
            "DELETE", f"/assets/{self._asset(asset)}/state-store/{key}", None
        ).raise_for_status()

    def _asset(self, name: str) -> int:
        result = self._call("GET", f"/assets?name_pattern={quote(name)}")["assets"]
        return next(int(asset["id"]) for asset in result if asset["name"] == name)

    def delete(self, run: Run) -> None:
        """As in the web page: a run must have ended before it can be deleted."""
        self._call("PATCH", run.path, {"state": "failed"})
        self._send("DELETE", run.path, None).raise_for_status()

    def unhealthy(self) -> list[str]:
        """Servers without a fresh heartbeat."""
        health = self._send("GET", "/monitor/health").json()
        return [
            name
            for name in ("scheduler", "triggerer", "dag_processor")
            if health[name]["status"] != "healthy"
        ]


class Gate:
    """Passes requests on to Ray. After `hold`, the answer to the next submission is kept back until
    `release`: Ray has the job already."""

    def __init__(self, ray: str) -> None:
        self.held = threading.Event()
        self.address = ""
        self._ray = ray
        self._hold = False
        self._loop = asyncio.new_event_loop()
        self._free = asyncio.Event()
        self._free.set()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        assert self._ready.wait(20)

    def hold(self) -> None:
        self.held.clear()
        self._loop.call_soon_threadsafe(self._free.clear)
        self._hold = True

    def release(self) -> None:
        self._hold = False
        self._loop.call_soon_threadsafe(self._free.set)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._pass_on)
        runner = web.AppRunner(app)
        self._loop.run_until_complete(runner.setup())
        self._loop.run_until_complete(web.TCPSite(runner, "127.0.0.1", 0).start())
        self.address = f"http://127.0.0.1:{runner.addresses[0][1]}"
        self._ready.set()
        self._loop.run_forever()
        self._loop.run_until_complete(runner.cleanup())

    async def _pass_on(self, request: web.Request) -> web.Response:
        headers = {
            key: request.headers[key]
            for key in ("Authorization", "Content-Type")
            if key in request.headers
        }
        try:
            async with (
                aiohttp.ClientSession() as session,
                session.request(
                    request.method,
                    self._ray + request.path_qs,
                    data=await request.read(),
                    headers=headers,
                ) as answer,
            ):
                body, status, kind = await answer.read(), answer.status, answer.content_type
        except aiohttp.ClientError as exc:
            return web.Response(status=502, text=str(exc))
        if self._hold and request.method == "POST" and request.path.rstrip("/") == "/api/jobs":
            self.held.set()
            await self._free.wait()
        return web.Response(body=body, status=status, content_type=kind)


class Installation(Services):
    """All services of one machine.

    Args:
        home: an empty folder that other users may pass through (Postgres does not run as root).
        dags: DAG files.
    """

    def __init__(self, home: Path, dags: Sequence[Path]) -> None:
        super().__init__(home)
        self._dags = dags
        self.store = home / "store"
        self.signals = home / "signals"
        self.ports = free_ports()
        self.planted = make_secrets()
        self.gate = Gate(f"http://127.0.0.1:{self.ports.dashboard}")
        self.env = self._environment()
        self.airflow = Airflow(f"http://127.0.0.1:{self.ports.airflow}", "admin", "of-tests")

    def prepare(self) -> None:
        """Everything that Airflow's servers and Ray need to start: folders, files, and a database
        with its tables."""
        programs = postgres_programs()
        (self.signals / "go").mkdir(parents=True)
        for name in ("store", "airflow", "dags"):
            (self.home / name).mkdir()
        (self.store / "recipe.json").write_text(load_recipe("tiny", RECIPE).model_dump_json())
        (self.home / "airflow" / "passwords.json").write_text(json.dumps({"admin": "of-tests"}))
        for file in self._dags:
            shutil.copy(file, self.home / "dags")
        python, stand_in = self.home / "python", HERE / "stand_in.py"
        python.write_text(f'#!/bin/sh\nexec {sys.executable} {stand_in} "$@"\n')
        python.chmod(0o755)
        self._start_postgres(programs)
        with (self.home / "logs" / "migrate.log").open("wb") as log:
            subprocess.run(
                [sys.executable, "-m", "airflow", "db", "migrate"],
                env=self.env,
                stdout=log,
                stderr=log,
                check=True,
            )

    def start_ray(self) -> None:
        start_ray(self, self.env, self.ports)

    def send_alerts_to(self, receiver: Receiver) -> None:
        """Before anything is started: alerts go to this webhook, with the planted secret in its
        address."""
        secret = self.planted[alerts.ADDRESS].rsplit("/", 1)[-1]
        self.planted[alerts.ADDRESS] = self.env[alerts.ADDRESS] = receiver.address_with(secret)

    def connect_ray(self) -> None:
        """The connections that DAGs of users find the cluster and the store by; with secrets."""
        host, port = self.gate.address.removeprefix("http://").split(":")
        token, key = self.env["RAY_AUTH_TOKEN"], self.planted["AWS_SECRET_ACCESS_KEY"]
        self.airflow.add_connection(
            connection_id="ray_default", conn_type="ray", host=host, port=int(port), password=token
        )
        self.airflow.add_connection(connection_id="aws_default", conn_type="aws", password=key)

    def start_airflow(self, *names: str) -> None:
        """Start servers of Airflow, and wait until all that run have heartbeats; ``triggerer-2`` is
        a second triggerer."""
        for name in names:
            second = (
                {"AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(self.ports.spare[7])}
                if name == "triggerer-2"
                else {}
            )
            self.start(
                name,
                [sys.executable, "-m", "airflow", name.removesuffix("-2")],
                {**self.env, **second},
            )
        self.wait_until("api-server", self.airflow.login, READY_S)
        self.wait_until("scheduler", lambda: not self.airflow.unhealthy(), READY_S)

    def kill(self, *names: str, spare: Collection[int] = ()) -> None:
        """SIGKILL to servers and all their descendants, but for process ids to spare: nothing of
        them can say a last word."""
        doomed = [
            process for name in names for process in self._family(name) if process.pid not in spare
        ]
        for how in (
            signal.SIGSTOP,
            signal.SIGKILL,
        ):  # at once: else one would see another's end and act on it
            for process in doomed:
                _signal(process, how)
        for name in names:
            self._running.pop(name).wait()

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
        self.kill(*self._running)
        self.gate.close()

    def freeze(self, name: str) -> None:
        for process in self._family(name):
            _signal(process, signal.SIGSTOP)

    def wake(self, name: str) -> None:
        for process in self._family(name):
            _signal(process, signal.SIGCONT)

    def log(self, name: str) -> str:
        return (self.home / "logs" / f"{name}.log").read_text(errors="replace")

    def trigger_log(self, run: Run) -> str:
        """What triggerers wrote to the logs of a run's tasks."""
        folder = self.home / "airflow" / "logs" / f"dag_id={run.dag}" / f"run_id={run.id}"
        return "\n".join(
            file.read_text(errors="replace") for file in folder.rglob("*.trigger.*.log")
        )

    def kill_worker(self, run: Run) -> None:
        """SIGKILL to the worker of a running task: the process that runs the task, and the one that
        watches over it."""
        task = psutil.Process(until(f"{run} has a process", lambda: self.airflow.task(run)["pid"]))
        worker = task.parent()
        assert worker is not None
        assert "LocalExecutor" in " ".join(worker.cmdline()), worker
        for process in (worker, task, *task.children(recursive=True)):
            _signal(process, signal.SIGKILL)

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
            timeout=30,
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

    def dump(self, *options: str) -> str:
        """Airflow's database as SQL, whole unless ``pg_dump`` is told otherwise."""
        program, where = (
            str(postgres_programs() / "pg_dump"),
            f"postgresql://boig:{self._password}@127.0.0.1:{self.ports.mlflow}/postgres",
        )
        return subprocess.run(
            [program, *options, where], check=True, capture_output=True, text=True
        ).stdout

    def _family(self, name: str) -> list[psutil.Process]:
        leader = psutil.Process(self._running[name].pid)
        return [leader, *leader.children(recursive=True)]

    def _environment(self) -> dict[str, str]:
        self._password = secrets.token_hex(16)
        database = (
            f"postgresql+psycopg2://boig:{self._password}@127.0.0.1:{self.ports.mlflow}/postgres"
        )
        settings = {
            **SETTINGS,
            "CORE__DAGS_FOLDER": str(self.home / "dags"),
            "DATABASE__SQL_ALCHEMY_CONN": database,
        }
        return {
            **environment(self.home, str(self.store), self.ports),
            **{f"AIRFLOW__{key}": value for key, value in settings.items()},
            **self.planted,
            # nothing listens there, and each test would wait for its patience
            "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
            "BOIG_RAY_PYTHON": str(self.home / "python"),
            "BOIG_FAULTS": str(self.signals),
            "RAY_API_ADDRESS": self.gate.address,
        }

    def _start_postgres(self, programs: Path) -> None:
        import psycopg2

        data, secret, port = (
            self.home / "postgres",
            self.home / "postgres.password",
            self.ports.mlflow,
        )
        data.mkdir(mode=0o700)
        secret.write_text(self._password)
        as_user = []
        if os.getuid() == 0:  # Postgres refuses to run as root
            user = next(
                entry
                for name in ("postgres", "nobody")
                for entry in pwd.getpwall()
                if entry.pw_name == name
            )
            as_user = [
                "setpriv",
                f"--reuid={user.pw_uid}",
                f"--regid={user.pw_gid}",
                "--clear-groups",
            ]
            for path in (data, secret):
                os.chown(path, user.pw_uid, user.pw_gid)
        make = [
            str(programs / "initdb"),
            "--username=boig",
            "--auth=scram-sha-256",
            f"--pwfile={secret}",
            "--no-sync",
            str(data),
        ]
        subprocess.run([*as_user, *make], check=True, stdout=subprocess.DEVNULL)
        options = {
            "listen_addresses": "127.0.0.1",
            "port": port,
            "unix_socket_directories": "",
            "fsync": "off",
            "max_connections": 200,
        }
        serve = [
            str(programs / "postgres"),
            "-D",
            str(data),
            *(f"--{key}={value}" for key, value in options.items()),
        ]
        self.start("postgres", [*as_user, *serve], self.env)

        def answers() -> bool:
            try:
                psycopg2.connect(
                    self.env["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"].replace("+psycopg2", "")
                ).close()
            except psycopg2.OperationalError:
                return False
            return True

        self.wait_until("postgres", answers, READY_S)


def free_ports() -> Ports:
    """Ports of this worker's range; never the usual ones, which others on this machine may take at
    any time."""
    return Ports(
        next(PORTS), next(PORTS), next(PORTS), next(PORTS), list(itertools.islice(PORTS, 8))
    )


def _signal(process: psutil.Process, how: signal.Signals) -> None:
    with suppress(psutil.NoSuchProcess):
        process.send_signal(how)
