"""The Jobs API client, the watch and the operator's take on a job's end, against a Jobs API on a real socket."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from airflow.sdk.exceptions import AirflowException, AirflowFailException
from airflow.triggers.base import TriggerEvent
from mlflow import MlflowClient

from boig_core.config import load_recipe
from boig_core.errors import ClusterError, InputError, StoreUnavailableError
from boig_core.observability.metrics import MetricLog, experiment
from boig_core.orchestration.links import mlflow_page, page_url
from boig_core.orchestration.operator import RayJobOperator, resolve_input
from boig_core.orchestration.ray_api import RayJobs, job_page
from boig_core.orchestration.trigger import GONE, RayJobTrigger, watch
from boig_core.storage import commit, manifest
from boig_core.storage.job import Job, Stage, write_job


class Api:
    """Answers as told, and notes what was asked."""

    def __init__(self) -> None:
        self.states: dict[str, list[str]] = {}
        self.log = ["first line\n", "first line\nsecond", "first line\nsecond line\n\x1b[36mthird\x1b[0m"]
        self.posts: list[dict[str, Any]] = []
        self.tokens: set[str | None] = set()
        self.stopped: list[str] = []
        self.fail_posts = False
        self.address = ""

    async def submit(self, request: web.Request) -> web.Response:
        self.tokens.add(request.headers.get("Authorization"))
        body = await request.json()
        self.posts.append(body)
        if self.fail_posts or body["submission_id"] in self.states:
            return web.Response(status=500, text="Traceback: already exists")
        self.states[body["submission_id"]] = ["RUNNING"]
        return web.json_response({"submission_id": body["submission_id"]})

    async def info(self, request: web.Request) -> web.Response:
        states = self.states.get(request.match_info["id"])
        if states is None:
            return web.Response(status=404, text="unknown")
        return web.json_response({"status": states.pop(0) if len(states) > 1 else states[0], "message": "hm"})

    async def logs(self, request: web.Request) -> web.Response:
        if request.match_info["id"] not in self.states:
            return web.Response(status=404, text="unknown")
        return web.json_response({"logs": self.log.pop(0) if len(self.log) > 1 else self.log[0]})

    async def stop(self, request: web.Request) -> web.Response:
        self.stopped.append(request.match_info["id"])
        return web.json_response({"stopped": True})


@pytest.fixture
def api() -> Iterator[Api]:
    found, loop, ready = Api(), asyncio.new_event_loop(), threading.Event()

    def serve() -> None:
        app = web.Application()
        app.add_routes([web.post("/api/jobs/", found.submit), web.get("/api/jobs/{id}", found.info)])
        app.add_routes([web.get("/api/jobs/{id}/logs", found.logs), web.post("/api/jobs/{id}/stop", found.stop)])
        runner = web.AppRunner(app)
        loop.run_until_complete(runner.setup())
        loop.run_until_complete(web.TCPSite(runner, "127.0.0.1", 0).start())
        found.address = f"http://127.0.0.1:{runner.addresses[0][1]}"
        ready.set()
        loop.run_forever()
        loop.run_until_complete(runner.cleanup())

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    assert ready.wait(10)
    yield found
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)


@pytest.fixture
def operator() -> RayJobOperator:
    return RayJobOperator(task_id="ingest", stage="ingest", plan={"store": "/store"}, inputs={})


async def submit(address: str, name: str) -> None:
    async with RayJobs(address) as jobs:
        await jobs.submit(name, "python -m ray_jobs.ingest x", {"stage": "ingest"})


def test_a_duplicate_post_is_no_error_because_the_job_is_there(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
    asyncio.run(submit(api.address, "boig-x"))
    asyncio.run(submit(api.address, "boig-x"))
    assert len(api.posts) == 2
    assert api.tokens == {"Bearer secret"}
    assert "secret" not in str(api.posts)
    assert api.posts[0]["entrypoint_num_cpus"] == 0


def test_a_post_that_failed_and_left_no_job_is_an_error(api: Api) -> None:
    api.fail_posts = True
    with pytest.raises(ClusterError, match="500"):
        asyncio.run(submit(api.address, "boig-x"))


def test_watch_passes_each_log_line_on_once_and_ends_with_the_job(api: Api) -> None:
    api.states["boig-x"] = ["PENDING", "RUNNING", "SUCCEEDED"]
    lines: list[str] = []
    assert asyncio.run(watch(api.address, "boig-x", lines.append, poll_s=0.01))["status"] == "SUCCEEDED"
    assert lines == ["first line", "second line", "third"]


def test_watch_says_when_ray_no_longer_knows_the_job(api: Api) -> None:
    assert asyncio.run(watch(api.address, "boig-x", print, poll_s=0.01))["status"] == GONE


def test_watch_gives_up_on_a_silent_cluster() -> None:
    with pytest.raises(ClusterError, match="does not answer"):
        asyncio.run(watch("http://127.0.0.1:9", "boig-x", print, poll_s=0.01, patience_s=0.05))


def test_the_trigger_survives_serialization_and_stops_its_job(api: Api) -> None:
    path, arguments = RayJobTrigger(api.address, "boig-x", 0.5, "/store/attempt-1").serialize()
    assert path == "boig_core.orchestration.trigger.RayJobTrigger"
    asyncio.run(RayJobTrigger(**arguments).on_kill())
    assert api.stopped == ["boig-x"]


def test_the_triggers_event_is_all_the_operator_needs_to_go_on(api: Api, operator: RayJobOperator, tmp_path: Path) -> None:
    api.states["boig-x"] = ["SUCCEEDED"]
    attempt = str(tmp_path / "attempt-1")
    commit.commit(attempt, {"dataset": "d"}, {"rows": 1})

    async def fire() -> TriggerEvent:
        return await anext(RayJobTrigger(api.address, "boig-x", 0.01, attempt).run())

    event = asyncio.run(fire()).payload
    assert operator.execute_complete({}, event) == {"outputs": {"dataset": "d"}, "metrics": {"rows": 1}, "attempt": attempt}
    assert operator.job_url == f"{api.address}/#/jobs/boig-x"


def test_a_user_error_fails_at_once_and_an_infrastructure_error_is_retried(operator: RayJobOperator, tmp_path: Path) -> None:
    event = {"status": "FAILED", "message": "exit code 2", "job_url": ""}
    commit.write_failure(str(tmp_path / "a"), InputError("posts.jsonl", "is empty", "give posts"))
    with pytest.raises(AirflowFailException, match=r"ingest: InputError: posts.jsonl: is empty; give posts"):
        operator.execute_complete({}, {**event, "attempt": str(tmp_path / "a")})
    commit.write_failure(str(tmp_path / "b"), StoreUnavailableError("s3://x", "is away", "wait"))
    with pytest.raises(AirflowException, match="is away") as caught:
        operator.execute_complete({}, {**event, "attempt": str(tmp_path / "b")})
    assert not isinstance(caught.value, AirflowFailException)
    with pytest.raises(AirflowException, match="no commit"):
        operator.execute_complete({}, {**event, "attempt": str(tmp_path / "c")})


def test_a_commit_counts_whatever_ray_says(operator: RayJobOperator, tmp_path: Path) -> None:
    commit.commit(str(tmp_path / "a"), {"dataset": "d"}, {"rows": 1})
    event = {"status": "FAILED", "message": "the node died while the job was ending", "attempt": str(tmp_path / "a"), "job_url": ""}
    assert operator.execute_complete({}, event)["outputs"] == {"dataset": "d"}


def test_an_unknown_stage_is_refused_when_the_dag_is_parsed() -> None:
    with pytest.raises(ValueError, match="nonsense"):
        RayJobOperator(task_id="x", stage="nonsense", plan={}, inputs={})


def test_inputs_are_uris_or_earlier_results() -> None:
    assert resolve_input("dataset", {"outputs": {"dataset": "s3://b/d"}}) == "s3://b/d"
    assert resolve_input("dataset", "s3://b/e") == "s3://b/e"
    assert resolve_input("previous", {"outputs": {"posts": "s3://b/p"}}) is None
    assert job_page("http://h:1/", "boig-x") == "http://h:1/#/jobs/boig-x"


def a_dataset(root: str, *files: str) -> dict[str, str]:
    """An attempt that committed a dataset of these files, as the trigger's event."""
    attempt, uri = f"{root}/runs/a", f"{root}/datasets/d/v"
    folder = Path(root) / "made"
    folder.mkdir(parents=True)
    for name in files:
        (folder / name).write_text("x")
    lineage = manifest.Lineage(inputs={}, recipe="r", code="c")
    manifest.publish_folder(folder, uri, kind="dataset", lineage=lineage, commit=f"{attempt}/{commit.COMMIT}")
    commit.commit(attempt, {"dataset": uri}, {})
    return {"attempt": attempt, "status": "SUCCEEDED", "message": "", "job_url": "http://h/#/jobs/j"}


def links(operator: RayJobOperator) -> dict[str, str]:
    return {link.name: link.get_link(operator, ti_key=None) for link in operator.operator_extra_links}


def test_a_task_that_made_a_dataset_links_to_its_card_in_airflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", "https://airflow.example/team/")
    root = str(tmp_path / "the store")
    operator = RayJobOperator(task_id="ingest", stage="ingest", plan={"store": root}, inputs={})
    assert set(links(operator).values()) == {""}
    operator.execute_complete({}, a_dataset(root, "labels.parquet", "card.html"))
    card = "https://airflow.example/team/boig/datasets/d/v/card.html"
    assert {name: link for name, link in links(operator).items() if link} == {"Ray job": "http://h/#/jobs/j", "Data card": card}


def test_a_training_links_to_its_run_in_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.setenv("BOIG_MLFLOW_WEB", "https://mlflow.example/")
    root = str(tmp_path / "store")
    jobs = [
        Job(stage=stage, recipe=load_recipe("tiny"), inputs={}, store=root, root="r", task=f"{root}/runs/d/r/{stage}", attempt=1)
        for stage in (Stage.DDPO, Stage.REPORT, Stage.FINETUNE_SD)
    ]
    for job in jobs:
        write_job(job)
    log = MetricLog(lambda data: None, experiment=experiment("ddpo"), run=jobs[0].version)
    log.close()
    [run] = MlflowClient().search_runs([MlflowClient().get_experiment_by_name("boig/ddpo").experiment_id])
    page = f"https://mlflow.example/#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}"
    assert [mlflow_page(job.attempt_uri) for job in jobs] == [page, "", ""]
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert mlflow_page(jobs[0].attempt_uri) == ""


def test_an_output_of_another_store_has_no_page() -> None:
    assert page_url("s3://theirs/reports/v", "report.html", "s3://ours") == ""
    assert page_url("s3://ours/a/reports/v 1", "report.html", "s3://ours/a/").endswith("/boig/reports/v%201/report.html")


def test_a_dataset_without_a_card_or_one_that_cannot_be_read_has_no_link_and_is_no_failure(tmp_path: Path) -> None:
    root = str(tmp_path)
    operator = RayJobOperator(task_id="ingest", stage="ingest", plan={"store": root}, inputs={})
    event = a_dataset(root, "labels.parquet")
    assert operator.execute_complete({}, event)["outputs"] == {"dataset": f"{root}/datasets/d/v"}
    assert links(operator)["Data card"] == ""
    (tmp_path / "datasets/d/v/manifest.json").unlink()
    assert operator.execute_complete({}, event)["outputs"] == {"dataset": f"{root}/datasets/d/v"}
    assert links(operator)["Data card"] == ""


def test_a_task_that_made_no_dataset_has_no_card(tmp_path: Path) -> None:
    operator = RayJobOperator(task_id="ddpo", stage="ddpo", plan={"store": str(tmp_path)}, inputs={})
    commit.commit(str(tmp_path / "a"), {"boigsd": "s"}, {})
    operator.execute_complete({}, {"attempt": str(tmp_path / "a"), "status": "SUCCEEDED", "message": "", "job_url": ""})
    assert links(operator)["Data card"] == ""
