"""Servers end with all their descendants, also those of a demo that was killed; nobody else's
process is touched."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from boig_core.demo.patience import ANSWER_S
from boig_core.demo.processes import Services, choose_ports, clean_up, free_ports, is_free
from boig_core.demo.services import (
    APPROVER,
    LOCKED_S,
    TRAINER,
    ray_folder,
    server_environment,
    start_airflow,
)
from boig_core.errors import InfrastructureError
from tests.ports import PORTS

SLEEP = "import time; time.sleep(300)"
PARENT = f"""
import subprocess, sys, time
own = subprocess.Popen([sys.executable, "-c", {SLEEP!r}])
apart = subprocess.Popen([sys.executable, "-c", {SLEEP!r}], start_new_session=True)
print(own.pid, apart.pid, flush=True)
time.sleep(300)
"""


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


@pytest.fixture
def family(tmp_path: Path) -> Iterator[tuple[Services, list[int]]]:
    services = Services(tmp_path)
    services.start("parent", [sys.executable, "-c", PARENT], dict(os.environ))
    log = tmp_path / "logs" / "parent.log"
    wait_for(lambda: len(log.read_text().split()) == 2)
    leader = json.loads((tmp_path / "pids.json").read_text())["parent"][0]
    pids = [leader, *map(int, log.read_text().split())]
    yield services, pids
    for pid in pids:
        if alive(pid):
            os.kill(pid, signal.SIGKILL)


def test_stop_ends_children_and_those_in_sessions_of_their_own(
    family: tuple[Services, list[int]], tmp_path: Path
) -> None:
    services, pids = family
    assert all(alive(pid) for pid in pids)
    services.stop_all()
    assert not any(alive(pid) for pid in pids)
    assert not (tmp_path / "pids.json").exists()


def test_what_a_killed_demo_left_is_cleaned_up(
    family: tuple[Services, list[int]], tmp_path: Path
) -> None:
    _, (leader, own, _) = family
    assert clean_up(tmp_path / "other") == 0
    os.kill(leader, signal.SIGKILL)
    wait_for(lambda: not alive(leader))
    assert alive(own)
    assert clean_up(tmp_path) == 1
    assert not alive(own)
    assert clean_up(tmp_path) == 0


def test_a_process_that_only_has_the_old_number_is_left_alone(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", SLEEP]) as stranger:
        (tmp_path / "pids.json").write_text(json.dumps({"ray": [stranger.pid, 1.0]}))
        assert clean_up(tmp_path) == 0
        assert stranger.poll() is None
        stranger.kill()


def test_a_server_that_ends_is_reported_with_its_last_words(tmp_path: Path) -> None:
    services = Services(tmp_path)
    services.start(
        "airflow",
        [sys.executable, "-c", "print('no database'); raise SystemExit(3)"],
        dict(os.environ),
    )
    with pytest.raises(InfrastructureError, match=r"exit code 3[\s\S]*no database"):
        services.wait_until("airflow", lambda: False, 60)
    services.stop_all()


def test_ports_that_are_taken_are_not_chosen() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert not is_free(taken.getsockname()[1])
    ports = choose_ports()
    numbers = [ports.airflow, ports.ray, ports.dashboard, ports.mlflow, *ports.spare]
    assert len(set(numbers)) == len(numbers)
    assert all(is_free(number) for number in numbers)


def test_spare_ports_come_once_each_and_end_by_name() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        busy = taken.getsockname()[1]
        among = [busy, *(next(PORTS) for _ in range(3))]
        ports = free_ports(among)
        assert {next(ports) for _ in range(3)} == set(among[1:])
        with pytest.raises(InfrastructureError, match=f"ports {busy} to"):
            next(ports)


def test_ray_gets_a_short_folder_however_deep_the_demo_lies(tmp_path: Path) -> None:
    deep = tmp_path / ("deep" * 20)
    folder = ray_folder(deep)
    assert len(folder) <= 40
    assert Path(folder).resolve() == (deep / "ray").resolve()
    Path(folder).unlink()


def test_the_environment_names_the_store_and_guards_the_jobs_api(tmp_path: Path) -> None:
    env = server_environment(tmp_path, "s3://bucket/prefix", choose_ports())
    assert env["BOIG_STORE"] == "s3://bucket/prefix"
    assert env["RAY_AUTH_MODE"] == "token"
    assert len(env["RAY_AUTH_TOKEN"]) == 64
    assert env["AIRFLOW__CORE__LOAD_EXAMPLES"] == "False"


def test_airflow_has_a_user_who_starts_and_another_who_approves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS", "True")
    env = server_environment(tmp_path, "s3://bucket/prefix", choose_ports())
    assert env["AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS"] == f"{TRAINER}:op,{APPROVER}:user"
    assert env["AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS"] == "False"

    started: list[list[str]] = []
    services = Services(tmp_path)
    monkeypatch.setattr(
        services, "start", lambda name, argv, env: started.append([name, *argv[1:]])
    )
    passwords = start_airflow(services, env)
    assert started == [["airflow", "-m", "airflow", "standalone"]]
    assert set(passwords) == {TRAINER, APPROVER}
    assert passwords[TRAINER] != passwords[APPROVER]
    file = Path(env["AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE"])
    assert json.loads(file.read_text()) == passwords
    assert file.stat().st_mode & 0o777 == 0o600
    assert start_airflow(services, env) != passwords, "a demo's passwords end with it"


def test_airflow_waits_longer_for_its_database_than_sqlite_does(tmp_path: Path) -> None:
    from sqlalchemy import create_engine, make_url

    (tmp_path / "airflow").mkdir()
    env = server_environment(tmp_path, str(tmp_path / "store"), choose_ports())
    address = env["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"]
    assert make_url(address).database == str(tmp_path / "airflow" / "airflow.db")
    with create_engine(address).connect() as connection:
        assert connection.exec_driver_sql("PRAGMA busy_timeout").scalar() == 1000 * LOCKED_S
    assert LOCKED_S < ANSWER_S, "who asks hears of a lock before giving up"
    assert float(env["AIRFLOW__WORKERS__EXECUTION_API_TIMEOUT"]) > LOCKED_S


def test_a_server_that_is_started_again_is_not_ready_by_what_it_said_before(tmp_path: Path) -> None:
    services = Services(tmp_path)
    for says in ("ready", "not yet"):
        services.start("server", [sys.executable, "-c", f"print({says!r})"], dict(os.environ))
        services._running["server"].wait()
        assert services.tail("server").split("\n") == ["", says]
        services.stop("server")
