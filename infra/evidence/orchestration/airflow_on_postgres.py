"""A whole Airflow on Postgres, each server a process that can be killed, frozen and started again.

Airflow's four servers with the LocalExecutor. Leaves out: what its DAGs work on, such as a Ray
cluster, and what is asserted.
"""

from __future__ import annotations

import json
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from boig_core.demo.processes import Ports, Services
from boig_core.demo.services import READY_S, server_environment
from boig_core.errors import InputError
from infra.evidence.orchestration.airflow_clicks import Airflow, Run

POSTGRES = Path("/usr/lib/postgresql")
"""Where Debian keeps the programs, off the path."""
SERVERS = ("api-server", "scheduler", "dag-processor", "triggerer")
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


def postgres_programs() -> Path:
    """Folder of ``initdb`` and ``postgres``.

    Raises:
        InputError: Postgres is not installed.
    """
    result = shutil.which("initdb")
    places = (
        [Path(result).resolve().parent] if result else sorted(POSTGRES.glob("*/bin"), reverse=True)
    )
    if not places:
        raise InputError(
            "initdb", "was not found", "install Postgres (Debian: apt-get install postgresql)"
        )
    return places[0]


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


class AirflowOnPostgres(Services):
    """Airflow's servers and their database.

    Args:
        home: an empty folder that other users may pass through (Postgres does not run as root).
        dags: DAG files.
        ports: of the servers.
        more: variables beside those that all servers need.
    """

    def __init__(
        self,
        home: Path,
        dags: Sequence[Path],
        ports: Ports,
        more: Mapping[str, str],
    ) -> None:
        super().__init__(home)
        self._dags = dags
        self.store = home / "store"
        self.signals = home / "signals"
        self.ports = ports
        self.env = {**self._environment(), **more}
        self.airflow = Airflow(f"http://127.0.0.1:{self.ports.airflow}", "admin", "of-tests")

    def prepare(self) -> None:
        """Everything that Airflow's servers need to start: folders, files, and a database with its
        tables."""
        programs = postgres_programs()
        for name in ("signals", "store", "airflow", "dags"):
            (self.home / name).mkdir()
        (self.home / "airflow" / "passwords.json").write_text(json.dumps({"admin": "of-tests"}))
        for file in self._dags:
            shutil.copy(file, self.home / "dags")
        self._start_postgres(programs)
        with (self.home / "logs" / "migrate.log").open("wb") as log:
            subprocess.run(
                [sys.executable, "-m", "airflow", "db", "migrate"],
                env=self.env,
                stdout=log,
                stderr=log,
                check=True,
            )

    def start_airflow(self, *names: str) -> None:
        """Start servers of Airflow, and wait until all that run have heartbeats; ``triggerer-2`` is
        a second triggerer."""
        for name in names:
            # Each triggerer serves its logs on a port, so two on one machine need two.
            second = (
                {"AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(self.ports.spare[-1])}
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
                send(process, how)
        for name in names:
            self._running.pop(name).wait()

    def kill_all(self) -> None:
        """Nothing of this machine is wanted any more."""
        self.kill(*self._running)

    def freeze(self, name: str) -> None:
        """SIGSTOP to a server and all its descendants."""
        for process in self._family(name):
            send(process, signal.SIGSTOP)

    def wake(self, name: str) -> None:
        """SIGCONT to them."""
        for process in self._family(name):
            send(process, signal.SIGCONT)

    def log(self, name: str) -> str:
        """What a server has printed so far."""
        return (self.home / "logs" / f"{name}.log").read_text(errors="replace")

    def trigger_log(self, run: Run) -> str:
        """What triggerers wrote to the logs of a run's tasks."""
        folder = self.home / "airflow" / "logs" / f"dag_id={run.dag}" / f"run_id={run.id}"
        return "\n".join(
            file.read_text(errors="replace") for file in folder.rglob("*.trigger.*.log")
        )

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
        # MLflow does not run here, so its port is free for Postgres.
        database = (
            f"postgresql+psycopg2://boig:{self._password}@127.0.0.1:{self.ports.mlflow}/postgres"
        )
        settings = {
            **SETTINGS,
            "CORE__DAGS_FOLDER": str(self.home / "dags"),
            "DATABASE__SQL_ALCHEMY_CONN": database,
        }
        return {
            **server_environment(self.home, str(self.store), self.ports),
            **{f"AIRFLOW__{key}": value for key, value in settings.items()},
            "BOIG_FAULTS": str(self.signals),
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


def send(process: psutil.Process, how: signal.Signals) -> None:
    """A signal to a process that may be gone."""
    with suppress(psutil.NoSuchProcess):
        process.send_signal(how)
