"""Airflow's database, and a Jobs API as Ray serves it whose jobs run stand-in stages.

A stand-in publishes small folders of the kinds that the real stage would publish, and commits them.
"""

from __future__ import annotations

import asyncio
import json
import shlex
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiohttp import web

from boig_core.errors import InputError
from boig_core.storage.job import read_job
from boig_core.storage.stage import Outcome, Workspace, run_stage

OUTPUTS: dict[str, dict[str, tuple[str, str]]] = {
    "ingest": {"dataset": ("datasets/adworld", "dataset")},
    "perceive": {"dataset": ("datasets/adworld", "dataset")},
    "finetune_llm": {
        "boigllm": ("models/boigllm", "boigllm"),
        "no_kpi": ("models/boigllm-no-kpi", "boigllm"),
        "predictor": ("models/predictor", "predictor"),
        "judge": ("models/judge", "judge"),
    },
    "evaluate_llm": {"description": ("evaluations/description", "description")},
    "calibrate": {"calibration": ("evaluations/calibration", "calibration")},
    "finetune_sd": {"high_kpi": ("models/high-kpi", "sd")},
    "ddpo": {"boigsd": ("models/boigsd", "sd")},
    "evaluate_sd": {"generation": ("evaluations/generation", "generation")},
    "report": {"report": ("reports", "report")},
    "compare": {"report": ("evaluations/comparison", "comparison")},
}
PAGES = {"dataset": "card.html", "report": "report.html"}
REPORT = {
    "generation": {
        "base": {"clip_margin": 1.0, "diversity": 1.0},
        "boigsd": {"clip_margin": 0.95, "diversity": 0.8},
    },
    "paired": {
        "boigsd-base": {"reward": {"low": 0.2}, "judge": {"low": 0.1}},
        "boigsd-champion": {"judge": {"low": 0.05}},
    },
    "reward": {"name": "contrast"},
    "reward_validity": {"contrast": {"auc_interval": [0.6, 0.8]}},
}

WORTH = {"reward": "contrast", "auc_test_interval": [0.6, 0.8], "recommended": "contrast"}


def stand_in(space: Workspace) -> Outcome:
    """Publish one small folder for each output of the stage."""
    created = {}
    for name, (family, kind) in OUTPUTS[space.job.stage.value].items():
        folder = space.scratch / name
        folder.mkdir(parents=True)
        (folder / f"{name}.json").write_text(json.dumps(REPORT if name == "report" else {}))
        if name in PAGES:
            (folder / PAGES[name]).write_text("<!doctype html>")
        created[name] = space.publish(
            family, folder, kind=kind, meta={"samples": 3} if kind == "dataset" else {}
        )
    return Outcome(
        created, {"rows": 3.0, "monitors": {}, **(WORTH if space.job.stage == "calibrate" else {})}
    )


class StubRay:
    """Serves on a port of its own; use with ``with``.

    Attributes:
        entrypoints: what was posted, by submission id.
        refuse: stages that refuse their input, a mapped one by STAGE/MAP.
        asked: jobs whose state was asked for.
    """

    def __init__(self) -> None:
        self.entrypoints: dict[str, str] = {}
        self.states: dict[str, str] = {}
        self.metadata: dict[str, dict[str, str]] = {}
        self.stopped: list[str] = []
        self.refuse: set[str] = set()
        self.asked: set[str] = set()
        self.address = ""
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> StubRay:
        self._thread.start()
        assert self._ready.wait(20)
        return self

    def __exit__(self, *exc: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        app = web.Application()
        app.add_routes(
            [
                web.post("/api/jobs/", self._submit),
                web.get("/api/jobs/", self._jobs),
                web.get("/api/jobs/{id}", self._info),
                web.get("/api/jobs/{id}/logs", self._logs),
                web.post("/api/jobs/{id}/stop", self._stop),
                web.get("/api/v0/nodes", self._nodes),
            ]
        )
        runner = web.AppRunner(app)
        self._loop.run_until_complete(runner.setup())
        site = web.TCPSite(runner, "127.0.0.1", 0)
        self._loop.run_until_complete(site.start())
        self.address = f"http://127.0.0.1:{runner.addresses[0][1]}"
        self._ready.set()
        self._loop.run_forever()
        self._loop.run_until_complete(runner.cleanup())

    async def _submit(self, request: web.Request) -> web.Response:
        body = await request.json()
        name = body["submission_id"]
        if name in self.entrypoints:
            return web.Response(status=500, text=f"Job with submission_id {name} already exists")
        self.entrypoints[name], self.metadata[name] = body["entrypoint"], body["metadata"]
        _, _, module, uri = shlex.split(body["entrypoint"])
        assert module.startswith("ray_jobs.")
        self.states[name] = "RUNNING"
        self._loop.run_in_executor(None, self._run, name, uri)
        return web.json_response({"submission_id": name, "job_id": name})

    def _run(self, name: str, uri: str) -> None:
        assert read_job(uri).attempt_uri.startswith(str(Path(uri).parent))
        code = run_stage(self._stage, [uri])
        self.states[name] = "SUCCEEDED" if code == 0 else "FAILED"

    def _stage(self, space: Workspace) -> Outcome:
        if {space.job.stage.value, "/".join(space.job.task.rsplit("/", 2)[-2:])} & self.refuse:
            raise InputError("posts", "are refused", "give better ones")
        return stand_in(space)

    async def _info(self, request: web.Request) -> web.Response:
        name = request.match_info["id"]
        self.asked.add(name)
        if name not in self.states:
            return web.Response(status=404, text="no such job")
        return web.json_response(self._details(name))

    async def _jobs(self, request: web.Request) -> web.Response:
        return web.json_response([self._details(name) for name in self.states])

    def _details(self, name: str) -> dict[str, object]:
        return {
            "submission_id": name,
            "status": self.states[name],
            "message": "said the stub",
            "metadata": self.metadata.get(name),
        }

    async def _logs(self, request: web.Request) -> web.Response:
        return web.json_response({"logs": f"a line of {request.match_info['id']}\n"})

    async def _nodes(self, request: web.Request) -> web.Response:
        node = {"state": "ALIVE", "resources_total": {"CPU": 2.0}}
        return web.json_response({"data": {"result": {"result": [node]}}})

    async def _stop(self, request: web.Request) -> web.Response:
        self.stopped.append(request.match_info["id"])
        self.states[request.match_info["id"]] = "STOPPED"
        return web.json_response({"stopped": True})


@pytest.fixture(scope="session")
def airflow_db() -> None:
    from airflow.utils.db import initdb

    initdb()


@pytest.fixture(scope="module")
def ray_stub() -> Iterator[StubRay]:
    with StubRay() as stub:
        yield stub
