"""`infra/evidence/orchestration/deferred_stages.py` and `deferred_triggers.py` on a few: they
measure what they say. Their limits decide nothing here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.faults.installation import need_postgres

REPOSITORY = Path(__file__).resolve().parents[2]


def test_lag_and_latency_are_measured(tmp_path: Path) -> None:
    need_postgres()
    script = "infra.evidence.orchestration.deferred_stages"
    subprocess.run(
        [sys.executable, "-m", script, "--smoke", "--json", str(tmp_path / "found.json")],
        cwd=REPOSITORY,
        check=True,
    )
    result = json.loads((tmp_path / "found.json").read_text())["numbers"]
    boig = result["boig"]
    assert boig["states"] == {"success": 4}
    assert boig["task_s"]["n"] == 4
    assert 0 < boig["event_s"]["n"] <= 4, (
        "the triggerer may write its last line of a task elsewhere"
    )
    assert 0 < boig["event_s"]["median"] < boig["task_s"]["median"], (
        "a task ends after its trigger's event"
    )
    assert 0 <= boig["lag_s"]["median"] <= boig["lag_s"]["max"]
    assert boig["idle_loop_lag_s"]["n"] > 0
    assert boig["requests_per_s"] > 0


def test_lag_and_latency_of_triggers_alone_are_measured(tmp_path: Path) -> None:
    script = "infra.evidence.orchestration.deferred_triggers"
    subprocess.run(
        [sys.executable, "-m", script, "--smoke", "--json", str(tmp_path / "found.json")],
        cwd=REPOSITORY,
        check=True,
    )
    boig = json.loads((tmp_path / "found.json").read_text())["numbers"]["arms"]["boig"]
    assert boig["latency_s"]["n"] == 8
    assert boig["failed"] == 0
    assert boig["lag_s"]["n"] > 0
    assert boig["idle_loop_lag_s"]["n"] > 0
