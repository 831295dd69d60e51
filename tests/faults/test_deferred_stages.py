"""`infra/evidence/orchestration/deferred_stages.py` and `deferred_triggers.py` on a few: they
measure what they say. Their limits decide nothing here."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from infra.evidence.orchestration import deferred_stages
from tests.faults.installation import STAGES, Installation
from tests.ports import PORTS

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def stub(services: Installation) -> Iterator[str]:
    """Address of a Jobs API that costs nothing, to which Airflow's way to Ray now leads."""
    port = next(PORTS)
    address, program = f"http://127.0.0.1:{port}", deferred_stages.FOLDER / "deferred_stages_ray.py"
    services.repair()
    services.start("stub", [sys.executable, str(program), str(port)], services.env)
    services.wait_until("stub", lambda: answers(f"{address}/told"), 120)
    with services.gate.led_to(address):
        yield address
    services.kill("stub")


def answers(url: str) -> bool:
    try:
        return httpx.get(url, trust_env=False).is_success
    except httpx.TransportError:
        return False


def test_lag_and_latency_are_measured(services: Installation, stub: str) -> None:
    boig = deferred_stages.measure(services, stub, "boig", STAGES, 0.5)
    assert boig["states"] == {"success": STAGES}
    assert boig["task_s"]["n"] == STAGES
    assert 0 < boig["event_s"]["n"] <= STAGES, (
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
