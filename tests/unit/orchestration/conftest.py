"""A Jobs API on a real socket, or Kubernetes' API in its place."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from mlflow import MlflowClient

from boig_core.orchestration.jobs.ray_api import RayCluster
from boig_core.orchestration.stage.operator import RayJobOperator
from tests.unit.orchestration.kuberay.api import KubeApi


class Api:
    """Answers as told, and notes what was asked.

    Attributes:
        states: the states of each job, one an answer; the last one stays.
        metadata: what was posted with each job.
        stubborn: jobs that go on when they are told to stop.
        fail_stops: jobs that cannot even be told.
        nodes: of the cluster.
        down: answers 503 to everything.
        no_node: refuses posts as Ray does when its head is up and no node has joined yet.
    """

    def __init__(self) -> None:
        self.states: dict[str, list[str]] = {}
        self.nodes: list[dict[str, Any]] = []
        self.metadata: dict[str, dict[str, str]] = {}
        self.posts: list[dict[str, Any]] = []
        self.tokens: set[str | None] = set()
        self.stopped: list[str] = []
        self.asked: list[str] = []
        self.stubborn: set[str] = set()
        self.fail_stops: set[str] = set()
        self.down = self.fail_posts = self.no_node = False
        self.address = ""

    @property
    def cluster(self) -> RayCluster:
        return RayCluster(self.address)

    def was_stopped(self, name: str) -> bool:
        return self.states[name] == ["STOPPED"]

    def routes(self) -> list[web.RouteDef]:
        jobs = [
            web.post("/api/jobs/", self.submit),
            web.get("/api/jobs/", self.jobs),
            web.get("/api/jobs/{id}", self.info),
        ]
        item = [
            web.get("/api/jobs/{id}/logs", self.logs),
            web.post("/api/jobs/{id}/stop", self.stop),
        ]
        return [*jobs, *item, web.get("/api/v0/nodes", self.list_nodes)]

    async def list_nodes(self, request: web.Request) -> web.Response:
        return web.json_response({"data": {"result": {"result": self.nodes}}})

    @web.middleware
    async def note(self, request: web.Request, handler: Any) -> web.StreamResponse:
        self.asked.append(request.path)
        self.tokens.add(request.headers.get("Authorization"))
        if self.down:
            return web.Response(status=503, text="the head restarts")
        answer: web.StreamResponse = await handler(request)
        return answer

    async def submit(self, request: web.Request) -> web.Response:
        body = await request.json()
        name = body["submission_id"]
        self.posts.append(body)
        if self.no_node:
            return web.Response(
                status=500, text="No available agent to submit job, please try again later."
            )
        if self.fail_posts or name in self.states:
            return web.Response(status=500, text="Traceback: already exists")
        self.states[name], self.metadata[name] = ["RUNNING"], body["metadata"]
        return web.json_response({"submission_id": name})

    def answer(self, name: str) -> dict[str, Any]:
        states = self.states[name]
        status = states.pop(0) if len(states) > 1 else states[0]
        return {
            "submission_id": name,
            "status": status,
            "message": "hm",
            "metadata": self.metadata.get(name),
        }

    async def info(self, request: web.Request) -> web.Response:
        name = request.match_info["id"]
        return (
            web.json_response(self.answer(name))
            if name in self.states
            else web.Response(status=404, text="unknown")
        )

    async def jobs(self, request: web.Request) -> web.Response:
        driver = {
            "submission_id": None,
            "job_id": "01000000",
            "status": "RUNNING",
            "message": None,
            "metadata": None,
        }
        return web.json_response([*map(self.answer, self.states), driver])

    async def logs(self, request: web.Request) -> web.Response:
        if request.match_info["id"] not in self.states:
            return web.Response(status=404, text="unknown")
        return web.json_response({"logs": "python: \x1b[31mno module ray_jobs\x1b[0m\n"})

    async def stop(self, request: web.Request) -> web.Response:
        name = request.match_info["id"]
        if name not in self.states:
            return web.Response(status=404, text="unknown")
        if name in self.fail_stops:
            return web.Response(status=500, text="Traceback: no such actor")
        if name not in self.stopped and name not in self.stubborn:
            self.states[name] = ["RUNNING", "STOPPED"]
        self.stopped.append(name)
        return web.json_response({"stopped": True})


@contextmanager
def served(found: Any) -> Iterator[None]:
    """Serve an API from a thread."""
    loop, ready = asyncio.new_event_loop(), threading.Event()

    def serve() -> None:
        app = web.Application(middlewares=[found.note])
        app.add_routes(found.routes())
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
    try:
        yield
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)


@pytest.fixture
def api() -> Iterator[Api]:
    result = Api()
    with served(result):
        yield result


@pytest.fixture
def kube_api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[KubeApi]:
    """Kubernetes instead, and an Airflow that is told to use it."""
    result = KubeApi(tmp_path)
    with served(result):
        for name, value in result.environment().items():
            monkeypatch.setenv(name, value)
        yield result


@pytest.fixture(params=["api", "kube_api"])
def either(request: pytest.FixtureRequest) -> Any:
    """Each way to run jobs in turn."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def operator() -> RayJobOperator:
    """An operator as a DAG file makes it."""
    return RayJobOperator(task_id="ingest", stage="ingest", plan={"store": "/store"}, inputs={})


@pytest.fixture(scope="session")
def empty_registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database without a model: made once, since that takes seconds."""
    path = tmp_path_factory.mktemp("mlflow") / "empty.db"
    MlflowClient(f"sqlite:///{path}", f"sqlite:///{path}").search_registered_models()
    return path


@pytest.fixture
def client(empty_registry: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    """An MLflow of the test's own."""
    (tmp_path / "mlflow.db").write_bytes(empty_registry.read_bytes())
    server = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    return MlflowClient(server, server)
