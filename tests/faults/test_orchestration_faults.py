"""Whatever fails between Airflow and Ray, whatever a person does meanwhile: a stage runs once, its
result is used, nothing is orphaned.

Real Airflow on Postgres, real Ray; each test waits for events and asks Ray, the store and Airflow
what has become of the run.
"""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from boig_core.errors import InfrastructureError
from boig_core.orchestration.jobs.ray_api import RayCluster
from boig_core.storage import commit, manifest, runs, store
from infra.evidence.orchestration.airflow_clicks import Run
from infra.evidence.orchestration.airflow_on_postgres import SERVERS, until
from tests.faults.installation import RECIPE, Installation
from tests.faults.outcomes import (
    DOWN_S,
    STOPPED_S,
    attempt_of,
    ended,
    nothing_left,
    second_used,
    started,
    states,
    used_once,
)
from tests.planted import found_in, values_in

MODES = ("deferred", "waiting")


@pytest.fixture(autouse=True)
def logs(services: Installation) -> Iterator[None]:
    """Each test begins with all services; what they said during it is shown when it fails."""
    services.repair()
    files = services.home / "logs"
    before = {file: file.stat().st_size for file in files.iterdir()}
    yield
    for file in sorted(files.iterdir()):
        with file.open(errors="replace") as log:
            log.seek(before.get(file, 0))
            print(f"--- {file}", *log.read().splitlines()[-30:], sep="\n")


# What a person does.


@pytest.fixture(scope="module")
def under_way(services: Installation, dataset: None) -> dict[tuple[str, str], Run]:
    """A run for each click and mode, and one of a training; they start together, since that is what
    takes time."""
    clicks = ("failed", "success", "delete", "clear", "clear finished")
    names = [*((click, dag) for click in clicks for dag in MODES), ("failed", "training")]
    return dict(zip(names, started(services, *(dag for _, dag in names)), strict=True))


@pytest.mark.parametrize("dag", MODES)
@pytest.mark.parametrize("state", ["failed", "success"])
def test_marking_a_running_task_stops_its_job(
    services: Installation, under_way: dict[tuple[str, str], Run], dag: str, state: str
) -> None:
    run = under_way[state, dag]
    services.airflow.mark(run, state)
    nothing_left(services, run)
    assert services.airflow.state(run) == state
    assert len(services.jobs(run)) == 1


def test_marking_a_training_as_failed_leaves_no_actor_and_no_room_taken(
    services: Installation, under_way: dict[tuple[str, str], Run]
) -> None:
    run = under_way["failed", "training"]
    assert {"RayTrainWorker", "placement group"} <= set(services.held())
    services.airflow.mark(run, "failed")
    nothing_left(services, run)
    until("all that it held is free", lambda: not services.held(), STOPPED_S)


@pytest.mark.parametrize("dag", MODES)
def test_deleting_a_run_stops_its_job(
    services: Installation, under_way: dict[tuple[str, str], Run], dag: str
) -> None:
    run = under_way["delete", dag]
    services.airflow.delete(run)
    nothing_left(services, run)
    assert len(services.jobs(run)) == 1


@pytest.mark.parametrize("dag", MODES)
def test_clearing_a_running_task_stops_its_job_and_starts_the_next_attempt(
    services: Installation, under_way: dict[tuple[str, str], Run], dag: str
) -> None:
    run = under_way["clear", dag]
    services.airflow.clear(run)
    nothing_left(services, run)
    second_used(services, run)
    first, second = services.jobs(run)
    assert first["end_time"] <= second["start_time"]
    assert commit.fate(attempt_of(services, run, 1)) == "fenced"


@pytest.mark.parametrize("dag", MODES)
def test_clearing_a_finished_task_runs_its_stage_again(
    services: Installation, under_way: dict[tuple[str, str], Run], dag: str
) -> None:
    run = under_way["clear finished", dag]
    services.go(run)
    used_once(services, run)
    # Airflow ends a run after its task; a clear in between is lost: the run is over, and its task
    # waits for ever.
    until(f"{run} ends", lambda: services.airflow.run_state(run) == "success")
    services.airflow.clear(run)
    second_used(services, run)
    assert commit.fate(attempt_of(services, run, 1)) == "committed"


def test_failed_while_no_triggerer_runs_the_reconciler_stops_the_job(
    services: Installation,
) -> None:
    marked, other, waiting = started(services, "deferred", "deferred", "waiting")
    services.kill("triggerer")
    services.airflow.mark(marked, "failed")
    services.airflow.unpause("boig_reconcile")
    swept = services.airflow.start("boig_reconcile")
    nothing_left(services, marked)
    until("the reconciler ends", lambda: set(states(services, swept)) == {"success"})
    services.start_airflow("triggerer")
    services.go(other, waiting)
    used_once(services, other, waiting)


# What fails.


def test_a_worker_killed_after_the_submission(services: Installation) -> None:
    [waiting] = started(services, "waiting")
    services.gate.hold()
    deferred = services.airflow.start("deferred")
    assert services.gate.held.wait(120), "Ray has the job, its worker does not know it yet"
    services.kill_worker(deferred)
    services.gate.release()
    services.kill_worker(waiting)
    until(
        "both are tried again",
        lambda: all(services.airflow.task(run)["try_number"] == 2 for run in (deferred, waiting)),
    )
    services.go(deferred, waiting)
    used_once(services, deferred, waiting)


def test_a_triggerer_killed_while_the_job_ends(services: Installation) -> None:
    [run] = started(services, "deferred")
    services.kill("triggerer")
    services.go(run)
    until("the job ends", lambda: services.jobs(run)[0]["status"] == "SUCCEEDED")
    services.start_airflow("triggerer")
    used_once(services, run)


def test_a_frozen_triggerer_is_replaced_and_wakes_up(services: Installation) -> None:
    [run] = started(services, "deferred")
    first = services.airflow.task(run)["trigger"]["triggerer_id"]
    services.start_airflow("triggerer-2")
    services.freeze("triggerer")
    until(
        "the second takes over",
        lambda: services.airflow.task(run)["trigger"]["triggerer_id"] != first,
    )
    assert "invoking on_kill" not in services.trigger_log(run)
    services.wake("triggerer")
    until("the first takes it for a kill", lambda: "invoking on_kill" in services.trigger_log(run))
    until("and has dropped it", lambda: "trigger completed" in services.trigger_log(run))
    assert [job["status"] for job in services.jobs(run)] == ["RUNNING"]
    services.go(run)
    used_once(services, run)


def test_a_scheduler_killed_with_its_workers(services: Installation) -> None:
    runs = started(services, *MODES)
    services.kill("scheduler")
    services.start_airflow("scheduler")
    services.go(*runs)
    used_once(services, *runs)


def test_all_of_airflow_killed_while_some_jobs_end_and_others_go_on(services: Installation) -> None:
    ending, going_on = started(services, *MODES), started(services, *MODES)
    services.kill(*SERVERS)
    killed = time.monotonic()
    services.go(*ending)
    for run in ending:
        until("the job ends", lambda run=run: services.jobs(run)[0]["status"] == "SUCCEEDED")
    until("Airflow has been away for long enough", lambda: time.monotonic() > killed + DOWN_S)
    services.start_airflow(*SERVERS)
    used_once(services, *ending)
    services.go(*going_on)
    used_once(services, *going_on)


def test_two_submitters_of_one_id_start_one_job(services: Installation) -> None:
    async def race(name: str, entrypoint: str) -> None:
        cluster = RayCluster(services.gate.address)
        async with cluster.connect() as item, cluster.connect() as two:
            await asyncio.gather(*(jobs.submit(name, entrypoint, {}) for jobs in (item, two)))

    marks = services.signals / "raced"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_TOKEN", services.env["RAY_AUTH_TOKEN"])
        for number in range(3):
            run = Run("raced", f"race-{number}")
            asyncio.run(race(f"boig-race-{number}", f"echo /{run.folder}/ >> {marks}"))
            until("the job ends", lambda run=run: services.jobs(run)[0]["status"] == "SUCCEEDED")
            assert len(services.jobs(run)) == 1
    assert marks.read_text().split() == [f"/race-{number}/" for number in range(3)]


@pytest.fixture(scope="module")
def headless(services: Installation, dataset: None) -> Iterator[dict[tuple[str, str], Run]]:
    """Runs whose Ray head is killed and started anew: their jobs die with it, or are frozen and
    outlive it."""
    names = [
        *((fate, dag) for fate in ("killed", "frozen") for dag in MODES),
        ("killed", "training"),
    ]
    runs = dict(zip(names, started(services, *(dag for _, dag in names)), strict=True))
    frozen = [psutil.Process(services.starts(runs["frozen", dag])[0]["pid"]) for dag in MODES]
    for process in frozen:
        process.send_signal(signal.SIGSTOP)
    services.kill("ray", spare={process.pid for process in frozen})
    for (fate, _), run in runs.items():
        [mark] = services.starts(run)
        until(
            "the job's process is gone",
            lambda fate=fate, mark=mark: fate == "frozen" or not psutil.pid_exists(mark["pid"]),
        )
    services.start_ray()
    yield runs
    for process in frozen:  # no server's descendants any more
        if process.is_running():
            process.kill()


@pytest.mark.parametrize("dag", MODES)
def test_a_job_that_died_with_its_ray_head_is_started_again(
    services: Installation, headless: dict[tuple[str, str], Run], dag: str
) -> None:
    run = headless["killed", dag]
    second_used(services, run)
    assert commit.fate(attempt_of(services, run, 1)) == "fenced"
    assert [job["status"] for job in services.jobs(run)] == ["SUCCEEDED"], (
        "the new head knows the second job alone"
    )


@pytest.mark.parametrize("dag", MODES)
def test_a_frozen_job_that_outlives_its_ray_head_publishes_nothing(
    services: Installation, headless: dict[tuple[str, str], Run], dag: str
) -> None:
    run = headless["frozen", dag]
    until(f"{run}: a second attempt starts", lambda: len(services.starts(run)) == 2)
    services.go(run)
    pid = services.starts(run)[0]["pid"]
    psutil.Process(pid).send_signal(signal.SIGCONT)
    until("the first attempt ends", lambda: not psutil.pid_exists(pid))
    second_used(services, run)
    failure = commit.read_failure(attempt_of(services, run, 1))
    assert failure is not None
    assert (commit.fate(attempt_of(services, run, 1)), failure.type) == ("fenced", "FencedError")


def test_a_training_that_died_with_its_ray_head_goes_on_from_its_checkpoint(
    services: Installation, headless: dict[tuple[str, str], Run]
) -> None:
    run = headless["killed", "training"]
    first, second = (attempt_of(services, run, number) for number in (1, 2))
    kept = store.list_files(store.join(first, "checkpoints"))
    assert {path.split("/")[0] for path, _ in kept} == {"step-000010"}
    second_used(services, run)
    rows = [
        json.loads(line)["step"]
        for line in store.read_bytes(store.join(second, "metrics.jsonl")).splitlines()
    ]
    assert rows == [10, 11], (
        "steps are counted from 0: the ten before the checkpoint are not done again"
    )
    assert commit.fate(first) == "fenced"
    published = manifest.verify(services.airflow.result(run)["outputs"]["high_kpi"], kind="sd")
    assert published.meta["steps"] == 12
    head = "".join(text for _, text in runs.read_log(second))
    assert "finetune_sd: attempt 2 (a retry) · dataset " in head
    assert f"finetune_sd: goes on from {first}/checkpoints/step-000010, step 10" in head
    assert published.went_on_from is not None
    assert [(hop.step, hop.asked_by) for hop in published.went_on_from] == [(10, None)]
    assert store.list_files(store.join(first, "checkpoints")) == kept, (
        "an attempt writes to its own folder alone"
    )


# What may be read.


@pytest.fixture
def shown(services: Installation, world: Path) -> dict[str, str]:
    """Secrets by name, and what was run with them: `boig_ingest` once to its end and once to a user
    error, refused twice before."""
    token = services.env["RAY_AUTH_TOKEN"]
    values = {
        **values_in(services.planted),
        "RAY_AUTH_TOKEN": token,
        "typed": "brand-password-0815",
    }
    for posts in (
        "https://brand:{}@127.0.0.1:9/posts.jsonl",
        "https://127.0.0.1:9/posts.jsonl?X-Amz-Signature={}",
    ):
        with pytest.raises(InfrastructureError, match="answered 400"):
            services.airflow.trigger("boig_ingest", {"posts": posts.format(values["typed"])})
    services.airflow.unpause("boig_ingest")
    few_shot = "evaluation.few_shot={base_url: 'http://127.0.0.1:9/v1', model: m}"
    runs = {
        "success": {"posts": str(world), "overrides": [*RECIPE, few_shot]},
        "upstream_failed": {"posts": str(world / "none")},
    }
    for end, params in runs.items():
        run = Run("boig_ingest", services.airflow.trigger("boig_ingest", params))
        assert until(f"{run} ends", lambda run=run: ended(services, run, "announce"), 600) == end
    return values


def test_no_secret_stands_in_what_airflow_ray_and_the_store_keep(
    services: Installation, shown: dict[str, str]
) -> None:
    """The last test: it reads what all others have left behind, too."""
    (services.home / "logs" / "database.sql").write_text(services.dump("--exclude-table-data=log"))
    (services.home / "logs" / "jobs.json").write_text(json.dumps(services.ray_says("/api/jobs/")))
    kept = {
        "airflow/logs": "task_id=plan",
        "store": "card.html",
        "ray": "job-driver-boig-ingest",
        "logs": "database.sql",
    }
    for place, file in kept.items():
        assert any(file in str(path) for path in (services.home / place).rglob("*")), (
            f"{place} is where such files are"
        )
        assert found_in(services.home / place, shown) == {}
    audit = services.dump("--table=log")
    assert [name for name, value in shown.items() if value in audit] == ["typed"], (
        "Airflow keeps what a person types, refused or not"
    )
    assert [
        job["runtime_env"] for job in services.ray_says("/api/jobs/") if job["runtime_env"]
    ] == []
