"""A stub of Ray's Jobs API for `deferred_stages`: jobs that cost nothing, and end one after another when they are told to.

A job's end is what a stage's is: its attempt is committed, then its process is over. ``POST /end?spacing_s=`` ends all jobs in turn, and
``GET /ends`` says when each ended (seconds since 1970) and how many requests there were.
"""

from __future__ import annotations

import asyncio
import json
import shlex
import sys
import time
from typing import Any

from aiohttp import web

from boig_core.storage import commit
from boig_core.storage.store import read_bytes


class Jobs:
    """What the stub knows.

    Attributes:
        jobs: what was posted, with a status, by submission id.
        ends: when the job of a task ended.
        requests: number of requests so far.
    """

    def __init__(self) -> None:
        self.jobs: dict[str, dict[str, Any]] = {}
        self.ends: dict[str, float] = {}
        self.requests = 0

    async def submit(self, request: web.Request) -> web.Response:
        """A job begins."""
        body = await request.json()
        name = body["submission_id"]
        if name in self.jobs:
            return web.Response(status=500, text=f"Job with submission_id {name} already exists")
        self.jobs[name] = {**body, "status": "RUNNING", "message": "", "type": "SUBMISSION", "start_time": int(time.time() * 1000)}
        return web.json_response({"submission_id": name, "job_id": name})

    async def info(self, request: web.Request) -> web.Response:
        """One job."""
        job = self.jobs.get(request.match_info["id"])
        return web.Response(status=404, text="no such job") if job is None else web.json_response(job)

    async def everything(self, request: web.Request) -> web.Response:
        """All jobs."""
        return web.json_response(list(self.jobs.values()))

    async def logs(self, request: web.Request) -> web.Response:
        """As much as a stage has printed after a while."""
        return web.json_response({"logs": "a line of a stage's log\n" * 200})

    async def version(self, request: web.Request) -> web.Response:
        """As Ray's."""
        return web.json_response({"version": "4", "ray_version": "2.60.0", "ray_commit": "", "session_name": ""})

    async def end(self, request: web.Request) -> web.Response:
        """End every job, one after another, from now on."""
        asyncio.get_running_loop().create_task(self._end_all(float(request.query["spacing_s"])), name="end")
        return web.json_response({})

    async def told(self, request: web.Request) -> web.Response:
        """What was measured."""
        return web.json_response({"ends": self.ends, "requests": self.requests})

    async def _end_all(self, spacing_s: float) -> None:
        for job in list(self.jobs.values()):
            uri = shlex.split(job["entrypoint"])[-1]
            task = json.loads(read_bytes(uri))["task"]
            await asyncio.to_thread(commit.commit, uri.rsplit("/", 1)[0], {}, {})
            job["status"] = "SUCCEEDED"
            self.ends[task] = time.time()
            await asyncio.sleep(spacing_s)


def main() -> None:
    """Serve on the port that is the one argument."""
    jobs = Jobs()

    @web.middleware
    async def count(request: web.Request, handler: Any) -> Any:
        jobs.requests += 1
        return await handler(request)

    app = web.Application(middlewares=[count])
    app.add_routes(
        [
            web.post("/api/jobs/", jobs.submit),
            web.get("/api/jobs/", jobs.everything),
            web.get("/api/jobs/{id}", jobs.info),
            web.get("/api/jobs/{id}/logs", jobs.logs),
            web.get("/api/version", jobs.version),
            web.post("/end", jobs.end),
            web.get("/ends", jobs.told),
        ]
    )
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), print=None)


if __name__ == "__main__":
    main()
