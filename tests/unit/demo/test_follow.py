"""The demo asks one person to start and to look, and another to approve."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from boig_core.demo import follow as following
from boig_core.demo.airflow_api import AirflowApi
from boig_core.demo.follow import follow
from boig_core.demo.view import CHAIN, View


class FinishedRuns(AirflowApi):
    """An Airflow in which each run has ended, but for the approval that waits for an answer."""

    def __init__(self, user: str, answered_by: list[str]) -> None:
        self.user = user
        self.answered_by = answered_by

    def newest_run(self, dag: str) -> dict[str, Any]:
        waits = dag == "boig_promote" and not self.answered_by
        return {"dag_run_id": f"of {dag}", "state": "running" if waits else "success"}

    def tasks(self, dag: str, run: str) -> dict[str, dict[str, Any]]:
        states = dict.fromkeys(CHAIN[dag], "success")
        if "approval" in states and not self.answered_by:
            states["approval"] = "awaiting_input"
        return {task: {"state": state, "try_number": 1} for task, state in states.items()}

    def approve(self, dag: str, run: str, task: str) -> None:
        assert (dag, run, task) == ("boig_promote", "of boig_promote", "approval")
        self.answered_by.append(self.user)


def test_the_second_person_approves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "POLL_S", 0.01)
    monkeypatch.setattr(following, "APPROVE_AFTER_S", 0.0)
    answered_by: list[str] = []
    trainer, approver = (FinishedRuns(user, answered_by) for user in ("trainer", "approver"))
    with View(Console(force_terminal=False, width=80, quiet=True)) as view:
        runs = follow(trainer, approver, view, str(tmp_path), "first", lambda: None, 60.0)
    assert answered_by == ["approver"]
    assert runs == {"boig_ingest": "first", **{dag: f"of {dag}" for dag in list(CHAIN)[1:]}}
