"""A stub of Ray's Jobs API for `deferred_stages` and `deferred_triggers`: jobs that cost nothing,
talk, and end when they are told to.

A job's end is what a stage's is: its attempt is committed, then its process is over. A job of
`ray_jobs` keeps its log as a stage does, in chunks under its attempt, and any job gives the same
lines to whoever tails it over a websocket, as Ray does. ``POST /end?spacing_s=`` ends all running
jobs in turn, at random times with that mean between them, and ``GET /told`` says what was seen.
"""

from __future__ import annotations

import asyncio
import random
import shlex
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

from aiohttp import web

from boig_core.storage import commit, store

TALK_S: Final = 10.0
"""Seconds between two times that a job logs."""
LINES: Final = "".join(
    f"12:00:00 INFO boig_core.training: step {step} of 1000 · loss 1.2345 · 3,989 tokens/s\n"
    for step in range(5)
)


@dataclass
class StubJob:
    """One job.

    Attributes:
        body: what was posted.
        name: the task it belongs to: its metadata's, else the last word of its entry point.
        attempt: folder of its attempt, for a job of `ray_jobs`.
        ended: set when it is over; the end of its log.
        tails: those who follow its log.
    """

    body: dict[str, Any]
    name: str
    attempt: str | None
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    tails: set[web.WebSocketResponse] = field(default_factory=set)

    def answer(self) -> dict[str, Any]:
        """As Ray says it."""
        kept = {
            key: self.body.get(key)
            for key in ("submission_id", "entrypoint", "metadata", "runtime_env")
        }
        return {
            **kept,
            "job_id": None,
            "type": "SUBMISSION",
            "status": "SUCCEEDED" if self.ended.is_set() else "RUNNING",
            "message": "",
        }


class Jobs:
    """What the stub knows.

    Attributes:
        jobs: by submission id.
        ends: when the job of a task ended, in seconds since 1970.
        requests: number of requests to Ray's API so far.
    """

    def __init__(self) -> None:
        self.jobs: dict[str, StubJob] = {}
        self.ends: dict[str, float] = {}
        self.requests = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def submit(self, request: web.Request) -> web.Response:
        """A job begins."""
        body = await request.json()
        body.setdefault("submission_id", f"raysubmit_{len(self.jobs)}")
        # As Ray does it: whoever submits a job a second time learns that it is there.
        if body["submission_id"] in self.jobs:
            return web.Response(
                status=500, text=f"Job with submission_id {body['submission_id']} already exists"
            )
        words = shlex.split(body["entrypoint"])
        attempt = words[-1].rsplit("/", 1)[0] if "ray_jobs" in body["entrypoint"] else None
        job = self.jobs[body["submission_id"]] = StubJob(
            body, (body.get("metadata") or {}).get("task") or words[-1], attempt
        )
        self._start(self._talk(job))
        return web.json_response(
            {"submission_id": body["submission_id"], "job_id": body["submission_id"]}
        )

    async def info(self, request: web.Request) -> web.Response:
        """One job."""
        job = self.jobs.get(request.match_info["id"])
        return (
            web.Response(status=404, text="no such job")
            if job is None
            else web.json_response(job.answer())
        )

    async def everything(self, request: web.Request) -> web.Response:
        """All jobs."""
        return web.json_response([job.answer() for job in self.jobs.values()])

    async def tail(self, request: web.Request) -> web.WebSocketResponse:
        """The log as it comes, until the job is over."""
        job, socket = self.jobs[request.match_info["id"]], web.WebSocketResponse()
        await socket.prepare(request)
        job.tails.add(socket)
        await job.ended.wait()
        await socket.close()
        return socket

    async def version(self, request: web.Request) -> web.Response:
        """As Ray's."""
        return web.json_response(
            {"version": "4", "ray_version": "2.60.0", "ray_commit": "", "session_name": ""}
        )

    async def end(self, request: web.Request) -> web.Response:
        """End every running job, one after another, from now on."""
        self._start(
            self._end_all(
                [job for job in self.jobs.values() if not job.ended.is_set()],
                float(request.query["spacing_s"]),
            )
        )
        return web.json_response({})

    async def told(self, request: web.Request) -> web.Response:
        """What was measured."""
        return web.json_response({"ends": self.ends, "requests": self.requests})

    def _start(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        # asyncio itself holds tasks weakly: one that nobody holds may vanish before its end.
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _talk(self, job: StubJob) -> None:
        number = 0
        while not job.ended.is_set():
            await asyncio.sleep(TALK_S)
            number += 1
            if job.attempt is not None:
                await asyncio.to_thread(
                    store.write_bytes,
                    store.join(job.attempt, "log", f"{number:06}.txt"),
                    LINES.encode(),
                )
            for socket in list(job.tails):
                with suppress(ConnectionError):  # whoever followed the log may have gone
                    await socket.send_str(LINES)

    async def _end_all(self, running: list[StubJob], spacing_s: float) -> None:
        # The same pauses for every provider.
        chance = random.Random(0)
        for job in running:
            if job.attempt is not None:
                await asyncio.to_thread(commit.commit, job.attempt, {}, {})
            # After the commit, as of a stage: what is measured begins when the job is over.
            self.ends[job.name] = time.time()
            job.ended.set()
            # Never in step with who looks each second.
            await asyncio.sleep(spacing_s * chance.uniform(0.5, 1.5))


def main() -> None:
    """Serve on the port that is the one argument."""
    jobs = Jobs()

    @web.middleware
    async def count(request: web.Request, handler: Any) -> Any:
        jobs.requests += request.path.startswith("/api/")
        return await handler(request)

    app = web.Application(middlewares=[count])
    app.add_routes(
        [
            web.post("/api/jobs/", jobs.submit),
            web.get("/api/jobs/", jobs.everything),
            web.get("/api/jobs/{id}", jobs.info),
            web.get("/api/jobs/{id}/logs/tail", jobs.tail),
            web.get("/api/version", jobs.version),
            web.post("/end", jobs.end),
            web.get("/told", jobs.told),
        ]
    )
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), print=None)


if __name__ == "__main__":
    main()
