"""A secret that the masker knows stands in nothing that leaves a process, in any of its forms."""

from __future__ import annotations

import base64
import json
import logging
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from boig_core.errors import InputError
from boig_core.observability import metrics
from boig_core.observability.kept import KeptLog
from boig_core.orchestration.promotion import registry
from boig_core.storage import commit

SECRET = "hush/hush+hush"
FORMS = {
    "plain": SECRET,
    "quoted": quote(SECRET, safe=""),
    "base64": base64.b64encode(SECRET.encode()).decode(),
}


class Tracked:
    """What MLflow's client is told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def __getattr__(self, name: str) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.told.append(f"{name} {args} {kwargs}")
            return self

        return call

    experiment_id = run_id = "1"

    @property
    def info(self) -> Tracked:
        return self


@pytest.fixture(params=FORMS)
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("AIRFLOW_CONN_X", json.dumps({"password": SECRET}))
    return FORMS[request.param]


def test_no_failure_tells_it(form: str, tmp_path: Path) -> None:
    for number, error in enumerate(
        (InputError(f"a {form}", f"b {form}", f"c {form}"), RuntimeError(f"d {form}"))
    ):
        attempt = f"{tmp_path}/{number}"
        commit.write_failure(attempt, error)
        assert form not in Path(attempt, commit.ERROR).read_text()


def test_no_kept_log_tells_it(form: str) -> None:
    chunks: list[bytes] = []
    log = KeptLog(lambda number, chunk: chunks.append(chunk), every_s=3600)
    try:
        raise ValueError(f"the server got {form}")
    except ValueError as exc:
        error = (type(exc), exc, exc.__traceback__)
    log.emit(logging.LogRecord("x", logging.INFO, "x.py", 1, "sent %s", (form,), error))
    log.write()
    assert chunks
    assert form.encode() not in b"".join(chunks)


def test_no_parameter_in_mlflow_tells_it(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    client = Tracked()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow")
    monkeypatch.setattr("mlflow.MlflowClient", lambda: client)
    metrics.MetricLog(
        lambda data: None, experiment="boig/x", run="r", params={"endpoint": f"http://x/{form}"}
    )
    assert [call for call in client.told if call.startswith("log_param")]
    assert form not in str(client.told)


def test_no_reason_in_the_registry_tells_it(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    client = Tracked()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow")
    monkeypatch.setattr("mlflow.MlflowClient", lambda: client)
    monkeypatch.setattr(registry, "last_move", lambda client: (None, False))
    # The tags of a version are its client's business here.
    monkeypatch.setattr(registry, "locations", lambda tags: {})
    monkeypatch.setattr(registry, "aliases", lambda client: {"champion": "2", "previous": "1"})
    monkeypatch.setattr(registry, "move", lambda client, wanted: {"champion": "1"})
    registry.rollback(f"ada {form}", f"it leaks {form}")
    assert len([call for call in client.told if call.startswith("set_model_version_tag")]) == 4
    assert form not in str(client.told)
