"""`boig_ingest` on real Airflow: a backfill goes day by day, a day again adds nothing twice, and a
wrong recipe ends at once.

The stage ingest is the real one in one process (see `day_by_day`).
"""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import datetime
from typing import Any

import pytest

from boig_core.data import dataset, tables
from boig_core.orchestration.stage.attempts import run_folder
from boig_core.storage import manifest
from infra.evidence.orchestration.airflow_clicks import Run
from infra.evidence.orchestration.airflow_on_postgres import until
from tests.faults.installation import Installation
from tests.unit.data.conftest import picture, row

DAG = "boig_ingest"
DAYS = range(1, 5)
EMPTY = 3
"""The day of January 2026 without posts."""
KEY = "newest-adworld"


def export(services: Installation, *more: dict[str, Any]) -> None:
    """The source as it is after these days: a post a day but one."""
    rows = [
        row(f"p{day}", 100.0 + day, f"{day}.png", day=f"2026-01-{day:02}T10:00:00Z")
        for day in DAYS
        if day != EMPTY
    ]
    (services.home / "posts" / "posts.jsonl").write_text(
        "".join(json.dumps(item) + "\n" for item in [*rows, *more])
    )


@pytest.fixture(scope="module")
def quiet_day(services: Installation) -> Run:
    """The run that Airflow's schedule makes of yesterday, of which the source has no post."""
    (services.home / "posts").mkdir()
    for day in (*DAYS, 9):
        (services.home / "posts" / f"{day}.png").write_bytes(picture(day))
    (services.home / "posts" / "posts.jsonl").write_text(
        json.dumps(row("future", 1.0, "9.png", day="2199-01-01")) + "\n"
    )
    services.airflow.unpause(DAG)
    result = until("a scheduled run", lambda: services.airflow.newest_run(DAG))
    assert result["run_type"] == "scheduled"
    run = Run(DAG, result["dag_run_id"])
    assert ended(services, run) == "success"
    return run


@pytest.fixture(scope="module")
def backfilled(services: Installation, quiet_day: Run) -> list[Run]:
    """The runs of four days at once, in the order of the days."""
    export(services)
    days = ["--from-date", "2026-01-01", "--to-date", "2026-01-04"]
    argv = [sys.executable, "-m", "airflow", "backfill", "create", "--dag-id", DAG, *days]
    subprocess.run(argv, env=services.env, check=True, stdout=subprocess.DEVNULL)
    runs = [
        Run(DAG, result["dag_run_id"])
        for result in services.airflow.runs(DAG)
        if result["run_type"] == "backfill"
    ]
    assert len(runs) == len(DAYS)
    assert {ended(services, run) for run in runs} == {"success"}
    return runs


def ended(services: Installation, run: Run) -> str:
    """How a run ends."""

    def over() -> str | None:
        state = services.airflow.run(run)["state"]
        return state if state in ("success", "failed") else None

    return str(until(f"{run} ends", over, 900.0))


def states(services: Installation, run: Run) -> dict[str, str]:
    return {name: task["state"] for name, task in services.airflow.tasks(run.dag, run.id).items()}


def made(services: Installation, run: Run) -> str:
    """The version that a run has made."""
    return str(services.airflow.xcom(DAG, run.id, "perceive")["outputs"]["dataset"])


def posts(uri: str) -> list[str]:
    table = tables.read_table(uri, manifest.read_manifest(uri, kind=dataset.KIND), tables.LABELS)
    return sorted(table["id"].to_pylist())


def order(services: Installation, *runs: Run) -> list[str]:
    """What the stages of these runs did, in the order in which they did it."""
    folders = {run.folder for run in runs}
    lines = (services.signals / "order.txt").read_text().splitlines()
    return [line for line in lines if line.split()[0] in folders]


def test_a_quiet_day_is_skipped_in_one_line_and_announces_nothing(
    services: Installation, quiet_day: Run
) -> None:
    expected = {
        "plan": "success",
        "turn": "success",
        "ingest": "skipped",
        "perceive": "skipped",
        "announce": "skipped",
    }
    assert states(services, quiet_day) == expected
    log = services.airflow.entries(DAG, quiet_day.id, "ingest", 1)
    [reason] = [entry["reason"] for entry in log if entry.get("event") == "Skipping task."]
    assert reason.startswith("no new post in [..., ")
    assert services.airflow.asset_state("boig/dataset") == {}
    assert services.airflow.events("boig/dataset") == []


def test_a_backfill_goes_day_by_day_each_on_the_version_before(
    services: Installation, backfilled: list[Run]
) -> None:
    busy = [run for day, run in zip(DAYS, backfilled, strict=True) if day != EMPTY]
    each = [f"{stage} {what}" for stage in ("ingest", "perceive") for what in ("starts", "ends")]
    wanted = [
        f"{run.folder} {step}" for run in backfilled for step in (each if run in busy else each[:2])
    ]
    assert order(services, *backfilled) == wanted
    assert [posts(made(services, run)) for run in busy] == [
        ["p1"],
        ["p1", "p2"],
        ["p1", "p2", "p4"],
    ]
    assert states(services, backfilled[EMPTY - 1])["announce"] == "skipped"
    events = services.airflow.events("boig/dataset")
    assert [event["extra"]["outputs"]["dataset"] for event in events] == [
        made(services, run) for run in busy
    ]
    kept = services.airflow.asset_state("boig/dataset")
    assert kept == {
        KEY: {"dataset": made(services, backfilled[-1]), "watermark": "2026-01-04T10:00:00+00:00"}
    }


def test_an_old_day_again_doubles_nothing_and_moves_no_watermark(
    services: Installation, backfilled: list[Run]
) -> None:
    before = services.airflow.asset_state("boig/dataset")
    services.airflow.clear_run(backfilled[1])
    assert ended(services, backfilled[1]) == "success"
    assert states(services, backfilled[1])["ingest"] == "skipped"
    assert services.airflow.asset_state("boig/dataset") == before
    assert len(services.airflow.events("boig/dataset")) == 3


def test_a_lost_watermark_is_found_in_the_store_and_a_late_post_is_caught(
    services: Installation, backfilled: list[Run]
) -> None:
    export(services, row("late", 300.0, "9.png", day="2026-01-03T23:00:00Z"))
    for day in DAYS:
        (services.home / "posts" / f"{day}.png").unlink()  # what is held is not fetched again
    services.airflow.forget("boig/dataset", KEY)
    newest = made(services, backfilled[-1])
    services.airflow.clear_run(backfilled[-1])
    assert ended(services, backfilled[-1]) == "success"
    again = made(services, backfilled[-1])
    assert again != newest
    assert posts(again) == ["late", "p1", "p2", "p4"]
    assert services.airflow.asset_state("boig/dataset")[KEY] == {
        "dataset": again,
        "watermark": "2026-01-04T10:00:00+00:00",
    }


def test_a_wrong_recipe_ends_in_the_first_task_with_what_is_wrong_in_the_last_line(
    services: Installation, quiet_day: Run
) -> None:
    run = Run(DAG, services.airflow.trigger(DAG, {"overrides": ["ddpo.epochs=-5"]}))
    assert ended(services, run) == "failed"
    result = states(services, run)
    assert (result.pop("plan"), set(result.values())) == ("failed", {"upstream_failed"})
    task = services.airflow.tasks(DAG, run.id)["plan"]
    assert task["try_number"] == 1, "what is wrong stays wrong: no second try"
    took_s = (
        datetime.fromisoformat(task["end_date"])
        - datetime.fromisoformat(services.airflow.run(run)["queued_at"])
    ).total_seconds()
    print(f"from the trigger to the failure: {took_s:.1f} s")
    last = [
        line for line in services.airflow.log(DAG, run.id, "plan", 1) if not line.startswith("::")
    ][-1]
    for part in ("ddpo.epochs", "-5", "greater than or equal to 1"):
        assert part in last, last
    assert ";" in last, f"no remedy in {last}"


def test_an_infrastructure_error_is_tried_again_and_counted(
    services: Installation, backfilled: list[Run]
) -> None:
    (services.signals / "ingest-fails").touch()
    run = Run(DAG, services.airflow.trigger(DAG, {"overrides": ["data.name=other"]}))
    assert ended(services, run) == "success"
    assert services.airflow.tasks(DAG, run.id)["ingest"]["try_number"] == 2
    summary = json.loads(
        (services.store / "runs" / DAG / run_folder(run.id) / "summary.json").read_text()
    )
    assert {name: stage["attempts"] for name, stage in summary["stages"].items()} == {
        "ingest": 2,
        "perceive": 1,
    }


def test_a_dry_run_checks_and_submits_nothing(services: Installation, quiet_day: Run) -> None:
    run = Run(DAG, services.airflow.trigger(DAG, {"dry_run": True}))
    assert ended(services, run) == "success"
    assert states(services, run) == {
        "plan": "success",
        **dict.fromkeys(("turn", "ingest", "perceive", "announce"), "skipped"),
    }
    assert services.jobs(run) == []
    log = services.airflow.log(DAG, run.id, "plan", 1)
    assert [line for line in log if line.startswith("stage ingest: ") and "it starts anew" in line]
    assert not [line for line in log if "would wait for room" in line], (
        "the nodes of a real head were read"
    )
    huge = Run(
        DAG, services.airflow.trigger(DAG, {"dry_run": True, "overrides": ["resources.gpus=9"]})
    )
    assert ended(services, huge) == "success"
    assert [
        line
        for line in services.airflow.log(DAG, huge.id, "plan", 1)
        if "do not hold as many as fit of" in line
    ]
