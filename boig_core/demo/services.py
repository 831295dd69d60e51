"""The demo's servers: Ray, MLflow and Airflow, each with its settings and how it is known to be up.

Leaves out: processes, their logs and their end (see `processes`), and what is done with the
servers (see `follow`).
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import sys
from pathlib import Path
from typing import Final

import httpx
import yaml

from boig_core import environment
from boig_core.config import load_policy
from boig_core.demo.processes import Ports, Services, repository
from boig_core.errors import InfrastructureError
from boig_core.storage.stage import STEADY_MEMORY

READY_S = 300.0
"""Longest wait for a server to answer, in seconds: a busy machine needs minutes for what an idle
one does in ten seconds."""
RAY_ATTEMPTS = 3
TRAINER: Final = "trainer"
"""The user of the demo's Airflow who makes the pool, which takes the role ``op``, and starts the
run."""
APPROVER: Final = "approver"
"""The user who answers the approval, and nobody else does: ``user`` is the least role that may."""
ROLES: Final = {TRAINER: "op", APPROVER: "user"}
LOCKED_S: Final = 20
"""Seconds that Airflow waits for SQLite's lock before it answers 500; by default 5, too few where
four servers share two cores."""
WORKER_S: Final = 60
"""Seconds that a task waits for an answer of Airflow's; by default 5, in which a busy api-server
does not answer the first one."""


def server_environment(home: Path, store: str, ports: Ports) -> dict[str, str]:
    """Environment that all servers share: the store, one thread a process, no usage statistics,
    this Python first on the path."""
    return {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        "PYTHONPATH": os.pathsep.join(
            filter(None, [str(repository()), os.environ.get("PYTHONPATH", "")])
        ),
        environment.STORE.name: store,
        environment.POLICY.name: str(_write_policy(home)),
        environment.RAY_PYTHON.name: sys.executable,
        "RAY_API_ADDRESS": f"http://127.0.0.1:{ports.dashboard}",
        "MLFLOW_TRACKING_URI": f"http://127.0.0.1:{ports.mlflow}",
        "OMP_NUM_THREADS": "1",
        **STEADY_MEMORY,
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "token",  # whoever reaches the Jobs API can run code as this user
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        # this and the next as in boig_core.cluster.session
        "RAY_prestart_worker_first_driver": "0",
        "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "DO_NOT_TRACK": "true",
        "SCARF_ANALYTICS": "false",
        # The servers are on this machine: requests to them must not go through a proxy. Some
        # libraries read the one spelling, some the other.
        "NO_PROXY": ",".join(filter(None, ["127.0.0.1,localhost", os.environ.get("NO_PROXY", "")])),
        "no_proxy": ",".join(filter(None, ["127.0.0.1,localhost", os.environ.get("no_proxy", "")])),
        "DS_ACCELERATOR": os.environ.get("DS_ACCELERATOR", "cpu"),
        **airflow_settings(home, ports),
    }


def _write_policy(home: Path) -> Path:
    """The demo's policy: that of this installation, and beside it the ad world, recipes of one's
    own and the demo's approver."""
    policy = load_policy()
    own = (str(home), os.getcwd())
    tree = policy.model_dump(mode="json")
    tree["posts"] += own
    tree["recipes"] += own
    tree["approvers"].append({"id": APPROVER, "name": APPROVER})
    path = home / "policy.yaml"
    path.write_text(yaml.safe_dump(tree, sort_keys=False), encoding="utf-8")
    return path


def airflow_settings(home: Path, ports: Ports) -> dict[str, str]:
    """Airflow's settings: SQLite, this repository's DAGs, two users with passwords of their own,
    few processes."""
    base = f"http://127.0.0.1:{ports.airflow}"
    settings = {
        "CORE__DAGS_FOLDER": str(repository() / "dags"),
        "CORE__LOAD_EXAMPLES": "False",
        "CORE__EXECUTOR": "LocalExecutor",
        "CORE__PARALLELISM": "3",
        "CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        "CORE__EXECUTION_API_SERVER_URL": f"{base}/execution/",
        "CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "False",  # else nobody has a name
        "CORE__SIMPLE_AUTH_MANAGER_USERS": ",".join(
            f"{user}:{role}" for user, role in ROLES.items()
        ),
        "CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(home / "airflow" / "passwords.json"),
        "DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home / 'airflow' / 'airflow.db'}?timeout={LOCKED_S}",
        "API__HOST": "127.0.0.1",
        "API__PORT": str(ports.airflow),
        "API__BASE_URL": base,
        "API__WORKERS": "1",
        "API__DEFAULT_WRAP": "True",  # an error's remedy stands at the end of a long line
        # Drawn anew each time, so that no login outlives its demo.
        "API__SECRET_KEY": secrets.token_hex(16),
        "API_AUTH__JWT_SECRET": secrets.token_hex(32),
        # DAG files stay the same during a demo: to parse them again would only take its cores.
        "DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "3600",
        "DAG_PROCESSOR__REFRESH_INTERVAL": "3600",
        "DAG_PROCESSOR__PARSING_PROCESSES": "1",
        "WORKERS__EXECUTION_API_TIMEOUT": str(WORKER_S),
        # A worker may notice that its task has ended as late as this.
        "WORKERS__MIN_HEARTBEAT_INTERVAL": "1",
        # By default 8793 and 8794, which another Airflow of this machine may have.
        "LOGGING__WORKER_LOG_SERVER_PORT": str(ports.spare[0]),
        "LOGGING__TRIGGER_LOG_SERVER_PORT": str(ports.spare[1]),
        "SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "1",
    }
    return {
        "AIRFLOW_HOME": str(home / "airflow"),
        **{f"AIRFLOW__{key}": value for key, value in settings.items()},
    }


def start_ray(services: Services, env: dict[str, str], ports: Ports, cpus: int = 4) -> None:
    """Start a Ray head with logical CPUs for the demo's actors (two real cores carry them), and
    wait until it takes jobs."""
    options = {
        "--port": ports.ray,
        "--dashboard-host": "127.0.0.1",
        "--dashboard-port": ports.dashboard,
        "--ray-client-server-port": ports.spare[2],
        "--dashboard-agent-listen-port": ports.spare[3],
        "--dashboard-agent-grpc-port": ports.spare[4],
        "--metrics-export-port": ports.spare[5],
        "--runtime-env-agent-port": ports.spare[6],
        # any: from Ray's usual range two heads on one machine would take the same ones
        "--min-worker-port": 0,
        "--max-worker-port": 0,
        "--num-cpus": cpus,
        "--num-gpus": 0,
        "--object-store-memory": 512 * 2**20,
        "--temp-dir": ray_folder(services.home),
    }
    argv = [
        sys.executable,
        "-m",
        "ray.scripts.scripts",
        "start",
        "--head",
        # In the foreground, so that it is a child that can be watched, and stopped with its own.
        "--block",
        "--node-ip-address=127.0.0.1",
        "--disable-usage-stats",
    ]
    ray = [*argv, *(f"{key}={value}" for key, value in options.items())]

    def ready() -> bool:
        # The dashboard answers before the node has registered.
        started = "Ray runtime started" in services.tail("ray", 200)
        return started and answers(
            f"http://127.0.0.1:{ports.dashboard}/api/version", env["RAY_AUTH_TOKEN"]
        )

    for attempt in range(RAY_ATTEMPTS):
        services.start("ray", ray, env)
        try:
            services.wait_until("ray", ready, READY_S)
            return
        except (
            InfrastructureError
        ):  # Ray gives its node 30 s to register, which a busy machine can miss
            services.stop("ray")
            if attempt + 1 == RAY_ATTEMPTS:
                raise


def ray_folder(home: Path) -> str:
    """Ray's folder for sessions; a short link to it when the path is too long for a unix socket
    (107 characters in all)."""
    folder = home / "ray"
    folder.mkdir(parents=True, exist_ok=True)
    # /session_DATE_TIME_PID/sockets/plasma_store, which Ray appends, has up to 64 characters.
    if len(str(folder)) <= 40:
        return str(folder)
    link = Path(f"/tmp/boig-{hashlib.sha256(str(folder).encode()).hexdigest()[:8]}")
    if link.is_symlink():
        link.unlink()
    link.symlink_to(folder)
    return str(link)


def start_mlflow(services: Services, env: dict[str, str], ports: Ports) -> None:
    """Start MLflow on SQLite."""
    folder = services.home / "mlflow"
    folder.mkdir(exist_ok=True)
    argv = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--host",
        "127.0.0.1",
        "--port",
        str(ports.mlflow),
        "--workers",
        "1",
    ]
    paths = [
        "--backend-store-uri",
        f"sqlite:///{folder / 'mlflow.db'}",
        "--artifacts-destination",
        str(folder / "artifacts"),
    ]
    services.start(
        "mlflow",
        [*argv, *paths],
        {key: value for key, value in env.items() if key != "MLFLOW_TRACKING_URI"},
    )


def start_airflow(services: Services, env: dict[str, str]) -> dict[str, str]:
    """Start Airflow afresh; returns the password of each of its users."""
    folder = services.home / "airflow"
    # Runs that an earlier demo has left in its database would be taken for this one's.
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    passwords = {user: secrets.token_urlsafe(9) for user in ROLES}
    # Made before it is written: at no moment can anybody else read it.
    (folder / "passwords.json").touch(mode=0o600)
    (folder / "passwords.json").write_text(json.dumps(passwords))
    services.start("airflow", [sys.executable, "-m", "airflow", "standalone"], env)
    return passwords


def answers(url: str, token: str = "") -> bool:
    """Whether a server answers a GET with success."""
    try:
        return httpx.get(
            url,
            timeout=5,
            # No proxy of the environment leads to this machine's own servers.
            trust_env=False,
            headers={"Authorization": f"Bearer {token}"} if token else {},
        ).is_success
    except httpx.HTTPError:
        return False
