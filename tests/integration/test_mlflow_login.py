"""MLflow as the compose stack starts it: nobody enters without a login, a stage's login does not
move the champion, and both sides' own code works with theirs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from mlflow import MlflowClient

from boig_core.errors import InfrastructureError
from boig_core.observability.metrics import MetricLog
from boig_core.orchestration.promotion import approval, registry
from tests.ports import PORTS

ROOT = Path(__file__).resolve().parents[2]
PASSWORDS = {name: f"the password of {name}" for name in ("admin", "airflow", "ray")}


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where the stack's own command serves MLflow, with its files in a temporary folder."""
    home, port = tmp_path_factory.mktemp("mlflow"), next(PORTS)
    service = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["mlflow"]
    settings = home / "auth.ini"
    text = (ROOT / "infra" / "docker" / "mlflow-auth.ini").read_text()
    settings.write_text(text.replace("/mlflow/", f"{home}/"))
    command = [
        part.replace("/mlflow/", f"{home}/")
        .replace("5000", str(port))
        .replace("0.0.0.0", "127.0.0.1")
        for part in service["command"]
    ]
    env = {**os.environ, **service["environment"], "PYTHONDONTWRITEBYTECODE": "1"}
    env |= {
        "MLFLOW_AUTH_CONFIG_PATH": str(settings),
        "MLFLOW_AUTH_ADMIN_PASSWORD": PASSWORDS["admin"],
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "of no other server",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    with (home / "log").open("wb") as log:
        server = subprocess.Popen(
            command, env=env, cwd=home, stdout=log, stderr=log, start_new_session=True
        )
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(1200):
            if status(f"{url}/health") == 200:
                break
            assert server.poll() is None, (home / "log").read_text()[-3000:]
            time.sleep(0.1)
        set_users(url)
        yield url
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def status(url: str) -> int:
    """How a request without a login is answered; 0: not at all."""
    try:
        with urllib.request.urlopen(url, timeout=30) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as refused:
        return refused.code
    except OSError:
        return 0


def set_users(url: str, **changed: str) -> subprocess.CompletedProcess[str]:
    """Runs the stack's one-off set-up."""
    passwords = {f"MLFLOW_{name.upper()}_PASSWORD": text for name, text in PASSWORDS.items()}
    return subprocess.run(
        [sys.executable, ROOT / "infra" / "docker" / "init-mlflow.py"],
        env={"MLFLOW_TRACKING_URI": url, **passwords, **changed},
        capture_output=True,
        text=True,
    )


@pytest.fixture
def login(address: str, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Makes this process a user, as compose does by the environment."""

    def become(name: str) -> None:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", name)
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORDS[name])

    return become


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/version",
        "/graphql",
        "/api/2.0/mlflow/experiments/search?max_results=1",
        "/ajax-api/2.0/mlflow/experiments/search?max_results=1",
        "/api/2.0/mlflow/users/get?username=admin",
        "/api/2.0/mlflow-artifacts/artifacts",
        "/get-artifact?path=x&run_uuid=x",
        "/signup",
    ],
)
def test_nobody_enters_without_a_login(address: str, path: str) -> None:
    assert status(address + path) == 401


def test_a_stage_logs_and_airflow_finds_its_run(login: Callable[[str], None]) -> None:
    login("ray")
    log = MetricLog(lambda content: None, experiment="boig/ddpo", run="a1", params={"lr": 1})
    log.log(0, reward=1.0)
    log.close()
    login("airflow")
    client = MlflowClient()
    known = client.get_experiment_by_name("boig/ddpo")
    assert known is not None
    (run,) = client.search_runs([known.experiment_id])
    assert run.data.metrics == {"reward": 1.0}
    assert run.info.status == "FINISHED"


def test_airflow_moves_the_champion_and_a_stage_does_not(login: Callable[[str], None]) -> None:
    login("airflow")
    for folder in ("s3://boig/models/boigsd/1", "s3://boig/models/boigsd/2"):
        evidence = dict.fromkeys(("manifest", "root", "decision"), "") | {
            "store": "s3://boig",
            "question": folder[-1],
            "report": "s3://boig/reports/1",
            "recipe": "s3://boig/runs/boig_promote/1/recipe.json",
        }
        approval.register({"candidate": folder, "gates": [], **evidence}, "a person", "better")
    assert registry.champion() == folder
    login("ray")
    assert registry.champion() == folder, "a stage may read it"
    with pytest.raises(InfrastructureError, match=r"403|[Pp]ermission"):
        registry.rollback("a stage", "because it can")
    client = MlflowClient()
    for change in (
        lambda: client.set_registered_model_alias(registry.MODEL, "champion", "1"),
        lambda: client.set_model_version_tag(registry.MODEL, "2", "uri", "s3://boig/mine"),
        lambda: client.create_model_version(registry.MODEL, "s3://boig/mine"),
        lambda: client.delete_registered_model(registry.MODEL),
    ):
        with pytest.raises(Exception, match=r"403|[Pp]ermission"):
            change()  # type: ignore[no-untyped-call]
    assert registry.champion() == folder


def test_users_follow_the_environment_and_a_wrong_admin_is_told(address: str) -> None:
    assert set_users(address).returncode == 0, "once more, since make up runs it each time"
    refused = set_users(address, MLFLOW_ADMIN_PASSWORD="of another volume")
    assert refused.returncode == 1
    assert "MLflow's user airflow: was refused with HTTP 401" in refused.stderr
    assert "of another volume" not in refused.stderr
