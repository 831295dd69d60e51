"""`infra/evidence/deferred_stages.py` on a few stages: it measures what it says. Its limits are for a quiet machine, and decide nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.airflow_services import postgres_programs

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_lag_and_latency_are_measured(tmp_path: Path) -> None:
    postgres_programs()
    script = REPOSITORY / "infra" / "evidence" / "deferred_stages.py"
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    subprocess.run([sys.executable, str(script), "--smoke", "--json", str(tmp_path / "found.json")], env=env, check=True)
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["latency_s"]["n"] == 4
    assert all(seconds > 0 for seconds in found["latencies_s"]), "a task ends after its job"
    assert found["lag_s"]["n"] > 0
    assert 0 <= found["lag_s"]["median"] <= found["lag_s"]["max"]
    assert found["requests_per_s"] > 0
