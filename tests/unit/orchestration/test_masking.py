"""Airflow's masker knows the secrets of the environment: what a library's error shows of them is
hidden in task logs."""

from __future__ import annotations

import secrets

import pytest
from airflow.sdk._shared.secrets_masker import redact

from boig_core.orchestration.masking import hide_environment
from boig_core.orchestration.planning.assets import DEFAULTS
from boig_core.orchestration.stage.operator import RayJobOperator


def test_a_task_hides_the_secrets_of_its_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    password, hook = secrets.token_hex(8), f"https://chat.example/{secrets.token_hex(8)}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://tracker:{password}@mlflow:5000")
    monkeypatch.setenv("BOIG_ALERT_URL", hook)
    answers = f"API request to http://tracker:{password}@mlflow:5000/api failed; {hook} refuses"
    assert redact(answers) == answers
    hide_environment({})
    assert (
        redact(answers) == "API request to http://tracker:***@mlflow:5000/api failed; *** refuses"
    )
    assert DEFAULTS["on_execute_callback"] is hide_environment
    assert RayJobOperator(task_id="t", stage="ingest", plan={}, inputs={}).on_execute_callback == [
        hide_environment
    ]
