"""The operator that runs one stage as a Ray job and hands its committed result on.

Each try looks in the store first: a committed attempt is used, a live job is adopted, anything else is fenced and a new attempt starts
(`attempts.survey`). Leaves out: the stages themselves, and Ray: jobs go through its REST API.
"""

from __future__ import annotations

import asyncio
import json
import os
import shlex
from collections.abc import Mapping
from typing import Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from boig_core.config import parse_recipe
from boig_core.errors import BoigError, UserError
from boig_core.orchestration import attempts
from boig_core.orchestration.links import DataCardLink, MlflowRunLink, RayJobLink, ReportLink, result_pages
from boig_core.orchestration.ray_api import JobInfo, RayJobs, job_page, ray_address
from boig_core.orchestration.trigger import RayJobTrigger, watch
from boig_core.storage import commit, store
from boig_core.storage.job import Job, Stage, write_job

POOL = "boig_cluster"
"""Airflow pool whose slots limit how many stages run on the cluster at once (deferred tasks count)."""


class RayJobOperator(BaseOperator):
    """Runs a stage on Ray.

    Returns ``{"outputs": {name: URI}, "metrics": {...}, "attempt": URI}`` through XCom.

    Args:
        stage: which stage.
        plan: result of the DAG's plan task.
        inputs: each input by name: a URI, or the result of the plan or of an earlier stage that has an output of that name.
        deferrable: wait in the triggerer; else in the worker.
        poll_s: seconds between two looks at the job.
    """

    template_fields = ("plan", "inputs")
    template_fields_renderers = {"plan": "json", "inputs": "json"}  # noqa: RUF012  (Airflow's own shape)
    operator_extra_links = (RayJobLink(), MlflowRunLink(), DataCardLink(), ReportLink())
    ui_color = "#e8f1fb"

    def __init__(
        self, *, stage: Stage | str, plan: Any, inputs: Mapping[str, Any], deferrable: bool = True, poll_s: float = 3.0, **kwargs: Any
    ) -> None:
        super().__init__(**{"pool": POOL, **kwargs})
        self.stage = Stage(stage).value
        self.plan = plan
        self.inputs = dict(inputs)
        self.deferrable = deferrable
        self.poll_s = poll_s
        self.job_url = ""
        self.pages: dict[str, str] = {}
        self._running: tuple[str, str] | None = None

    def execute(self, context: Any) -> dict[str, Any]:
        """Use, adopt or start an attempt; then wait for it."""
        ti = context["ti"]
        try:
            task = attempts.task_uri(self.plan["store"], ti.dag_id, ti.run_id, ti.task_id, ti.map_index if ti.map_index is not None else -1)
            address = ray_address()
            found = attempts.survey(task, lambda name: _is_live(address, name))
            if found.state == "committed":
                self.log.info("%s has committed already: its result is used", found.uri)
                return self._finish(found.uri, {"status": "SUCCEEDED", "message": ""})
            name = attempts.submission_id(task, found.number)
            self.job_url = job_page(address, name)
            ti.xcom_push(key=RayJobLink().xcom_key, value=self.job_url)
            if found.state == "live":
                self.log.info("adopting job %s, which is still running", name)
            else:
                self._start(address, name, task, found.number)
        except UserError as exc:
            raise AirflowFailException(str(exc)) from exc
        self.log.info("Ray job: %s", self.job_url)
        if self.deferrable:
            self.defer(trigger=RayJobTrigger(address, name, self.poll_s, found.uri), method_name="execute_complete")
        self._running = (address, name)
        return self._finish(found.uri, asyncio.run(watch(address, name, self.log.info, poll_s=self.poll_s)))

    def execute_complete(self, context: Any, event: dict[str, str]) -> dict[str, Any]:
        """Go on when the trigger has fired."""
        self.job_url = event["job_url"]
        return self._finish(event["attempt"], event)

    def on_kill(self) -> None:
        """Stop the job when the worker is told to stop while it waits."""
        if self._running is not None:
            asyncio.run(_stop(*self._running))

    def _start(self, address: str, name: str, task: str, number: int) -> None:
        job = Job(
            stage=Stage(self.stage),
            recipe=parse_recipe(json.loads(store.read_bytes(self.plan["recipe"]))),
            inputs={key: uri for key, value in self.inputs.items() if (uri := resolve_input(key, value)) is not None},
            store=self.plan["store"],
            root=self.plan["root"],
            task=task,
            attempt=number,
        )
        uri = write_job(job)
        python = os.environ.get("BOIG_RAY_PYTHON", "python")
        entrypoint = f"{shlex.quote(python)} -m ray_jobs.{job.stage.value} {shlex.quote(uri)}"
        self.log.info("attempt %d: %s", number, entrypoint)
        asyncio.run(_submit(address, name, entrypoint, {"stage": self.stage, "attempt": str(number), "root": job.root}))

    def _finish(self, attempt_uri: str, event: dict[str, str]) -> dict[str, Any]:
        done = attempts.result(attempt_uri)
        if done is not None:
            self.pages = self._pages(done)
            return done
        failure = commit.read_failure(attempt_uri)
        if failure is None:
            raise AirflowException(f"{self.stage}: no commit and no error.json; Ray says {event['status']}: {event['message'][-500:]}")
        line = f"{self.stage}: {failure.type}: {failure.message}; {failure.remedy}"
        raise (AirflowFailException if failure.user else AirflowException)(line)

    def _pages(self, result: Mapping[str, Any]) -> dict[str, str]:
        try:
            return result_pages(result, self.plan["store"])
        except BoigError as exc:  # what is committed is good without a link
            self.log.warning("no links to its pages: %s", exc)
            return {}


def resolve_input(name: str, value: Any) -> str | None:
    """URI of an input: the value itself, or the output of that name in the result of an earlier task; none when that has no such output.

    A stage that cannot do without an input says so itself.
    """
    if isinstance(value, Mapping):
        found = value["outputs"].get(name)
        return None if found is None else str(found)
    return str(value)


def _is_live(address: str, submission_id: str) -> bool:
    info = asyncio.run(_info(address, submission_id))
    return info is not None and info.live


async def _info(address: str, submission_id: str) -> JobInfo | None:
    async with RayJobs(address) as jobs:
        return await jobs.info(submission_id)


async def _submit(address: str, submission_id: str, entrypoint: str, metadata: dict[str, str]) -> None:
    async with RayJobs(address) as jobs:
        await jobs.submit(submission_id, entrypoint, metadata)


async def _stop(address: str, submission_id: str) -> None:
    async with RayJobs(address) as jobs:
        await jobs.stop(submission_id)
