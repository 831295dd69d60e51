"""The operator that runs one stage as a Ray job and hands its committed result on.

Each try looks in the store first, then at Ray (`attempts.survey`): a retry uses what has committed,
adopts a job that lives, and starts the next attempt after anything else; the try after a clear
stops the old job and starts the next attempt always. Leaves out: the stages themselves, and how
jobs run (see `clusters`).
"""

from __future__ import annotations

import asyncio
import json
import re
import shlex
import threading
from collections.abc import Mapping
from typing import Any, Final

from airflow.sdk import BaseOperator
from airflow.sdk.configuration import conf
from airflow.sdk.definitions.mappedoperator import OperatorPartial
from airflow.sdk.exceptions import AirflowSkipException

from boig_core import environment
from boig_core.config import load_policy
from boig_core.errors import BoigError, ClusterError, InfrastructureError, InputError, named
from boig_core.escapes import visible
from boig_core.orchestration.airflow_state import TaskKey, try_is_over
from boig_core.orchestration.jobs import clusters
from boig_core.orchestration.jobs.asks import asks_of
from boig_core.orchestration.jobs.backend import Cluster, ask, stop_and_see
from boig_core.orchestration.jobs.trigger import GONE, UNREACHABLE, RayJobTrigger, follow
from boig_core.orchestration.masking import hide_environment
from boig_core.orchestration.signals import counts
from boig_core.orchestration.stage import attempts
from boig_core.orchestration.stage.ceilings import require_hours
from boig_core.orchestration.stage.retries import POLICY
from boig_core.orchestration.ui.links import (
    DataCardLink,
    MlflowRunLink,
    RayJobLink,
    ReportLink,
    mlflow_page,
    result_pages,
)
from boig_core.storage import commit, runs
from boig_core.storage.job import Job, Stage, TaskTry, read_recipe, write_job
from boig_core.storage.stage import SKIP_REASON

POOL = "boig_cluster"
"""Airflow pool whose slots limit how many stages run on the cluster at once (deferred tasks
count)."""

STATE: Final = "boig_job"
"""Key in the task's state store: which attempt and job the task has."""

KILL_S: Final = 2.0
"""Seconds that a killed worker waits for Airflow's word, and again for the cluster's: SIGKILL comes
5 s after SIGTERM."""

_ANSI = re.compile(r"\x1b\[[0-9;]*m")


class RayJobOperator(BaseOperator):
    """Runs a stage on Ray.

    Returns ``{"outputs": {name: URI}, "metrics": {...}, "attempt": URI}`` through XCom. A stage
    that had nothing to do is skipped.

    Args:
        stage: which stage.
        plan: result of the DAG's plan task; with ``skip``, a reason, nothing runs.
        inputs: each input by name: a URI, or the result of the plan or of an earlier stage that has
            an output of that name. Or the XCom of such a mapping.
        reuse: use what any run has made by the same stage, recipe and code from the same inputs, if
            the store holds it; after a clear the work is done anew.
        deferrable: wait in the triggerer; else in the worker, which is for installations without a
            triggerer. None: as ``BOIG_DEFERRABLE`` says.
        poll_s: seconds between two looks at the job.
    """

    template_fields = ("plan", "inputs")
    template_fields_renderers = {"plan": "json", "inputs": "json"}  # noqa: RUF012  (Airflow's own shape)
    operator_extra_links = (RayJobLink(), MlflowRunLink(), DataCardLink(), ReportLink())
    ui_color = "#e8f1fb"

    def __init__(
        self,
        *,
        stage: Stage | str,
        plan: Any,
        inputs: Any,
        reuse: bool = False,
        deferrable: bool | None = None,
        poll_s: float = 1.0,
        **kwargs: Any,
    ) -> None:
        # Set here and not in a DAG's default arguments, so that a stage has them in anyone's DAG.
        super().__init__(
            **{
                "pool": POOL,
                "retry_policy": POLICY,
                "on_execute_callback": hide_environment,
                **kwargs,
            }
        )
        self.stage = Stage(stage).value
        self.plan = plan
        self.inputs = inputs
        self.reuse = reuse
        self.deferrable = _has_triggerer() if deferrable is None else deferrable
        self.poll_s = poll_s
        self.job_url = ""
        self.pages: dict[str, str] = {}
        self._attempt, self._outputs = "", dict[str, str]()
        self._triggered_by: tuple[str, ...] = ()
        self._running: tuple[Cluster, str, TaskKey] | None = None

    @classmethod
    def partial(cls, **kwargs: Any) -> OperatorPartial:
        """What `expand` maps: Airflow reads the pool of a mapped task here, not from
        ``__init__``."""
        return super().partial(**{"pool": POOL, "retry_policy": POLICY, **kwargs})

    def execute(self, context: Any) -> dict[str, Any]:
        """Use, adopt or start an attempt; then wait for it."""
        if not self.plan:
            raise InputError(
                "the task plan", "was marked as success, so nothing is planned", "clear it"
            )
        if "skip" in self.plan:
            raise AirflowSkipException(self.plan["skip"])
        key = TaskKey.of(context["ti"])
        task = attempts.task_uri(
            self.plan["store"], key.dag_id, key.run_id, key.task_id, key.map_index
        )
        now, cluster = _this_try(context), clusters.find()
        # Airflow's own word and no XCom's: by it people are kept from approving what they started.
        self._triggered_by = tuple(filter(None, [context["dag_run"].triggering_user_name]))
        standing = attempts.survey(
            task,
            now,
            lambda name: _is_live(cluster, name),
            lambda name: self._stop_old(cluster, name),
        )
        if standing.state == "committed":
            return self._use(standing.uri, "has committed already", own=True)
        # Airflow sets the limit of tries anew when a task is cleared. Then its work is wanted anew,
        # not what others have made.
        never_cleared = standing.number == 1 and now.limit == self.retries
        if (
            self.reuse
            and never_cleared
            and standing.state == "new"
            and (reusable := attempts.find_reusable_attempt(self._job(task, 1, now))) is not None
        ):
            return self._use(reusable, "has made the same already", own=False)
        name = attempts.submission_id(task, standing.number)
        self.job_url = cluster.page(name)
        # Airflow keeps links when a process ends: of a worker that waits, only after the job.
        context["ti"].xcom_push(key=RayJobLink().xcom_key, value=self.job_url)
        # Written before the job starts: a pointer to nothing is found out, a job without a pointer
        # would have to be searched for.
        context["task_state_store"].set(
            STATE, {"attempt": standing.uri, "submission_id": name, "job_url": self.job_url}
        )
        # Before the submission: a kill that comes amid it must stop the job, too.
        self._running = (cluster, name, key)
        if standing.state == "live":
            self.log.info("adopting job %s, which is still running", name)
            counts.job(self.stage, "adopted")
        else:
            if standing.number > 1:
                counts.job(self.stage, "fenced")
            self._start(cluster, name, self._job(task, standing.number, now), key)
            counts.job(self.stage, "started")
        self.log.info("Ray job %s %s", name, self.job_url)
        if self.deferrable:
            self.defer(
                trigger=RayJobTrigger(cluster.serialize(), name, self.poll_s, standing.uri),
                method_name="execute_complete",
            )
        end = asyncio.run(follow(cluster, name, standing.uri, self.log.info, poll_s=self.poll_s))
        return self._finish(standing.uri, {**end, "submission_id": name})

    def execute_complete(self, context: Any, event: dict[str, str]) -> dict[str, Any]:
        """Go on when the trigger has fired."""
        self.job_url = event["job_url"]
        return self._finish(event["attempt"], event)

    def on_kill(self) -> None:
        """Stop the job when the worker is told to stop and Airflow confirms that the try is over;
        else the next try adopts it."""
        if self._running is None:
            return
        cluster, name, key = self._running
        if not try_is_over(key, KILL_S):
            return

        def stop() -> None:
            try:
                # Asked for and not seen through: SIGKILL is seconds away. What then still runs is
                # boig_reconcile's.
                ask(cluster, lambda jobs: jobs.stop(name))
                counts.job(self.stage, "stopped")
            except BoigError as exc:
                self.log.warning(
                    "job %s could not be stopped, boig_reconcile will do it: %s", name, exc
                )

        # A signal handler runs amid whatever the main thread does, an event loop included, so the
        # loop of this call is elsewhere.
        thread = threading.Thread(target=stop, name="boig-kill", daemon=True)
        thread.start()
        thread.join(KILL_S)

    def _stop_old(self, cluster: Cluster, name: str) -> None:
        self.log.info(
            "the task was cleared: job %s is stopped if it still runs, and the next attempt starts",
            name,
        )
        ask(cluster, lambda jobs: stop_and_see(jobs, name))
        counts.job(self.stage, "stopped")

    def _job(self, task: str, number: int, now: TaskTry) -> Job:
        return Job(
            stage=Stage(self.stage),
            recipe=read_recipe(self.plan["recipe"]),
            inputs={
                to: uri
                for to, value in self.inputs.items()
                if (uri := resolve_input(to, value)) is not None
            },
            store=self.plan["store"],
            root=self.plan["root"],
            task=task,
            attempt=number,
            policy=self.plan.get("policy"),
            started_by=now,
            triggered_by=self._triggered_by,
        )

    def _start(self, cluster: Cluster, name: str, job: Job, key: TaskKey) -> None:
        # Once more, and not only in `plan`: the recipe's place comes from an XCom, which people may
        # write, and hours have been used since.
        policy = load_policy()
        policy.require(job.recipe, job.store)
        require_hours(policy, job.store, "/".join((key.dag_id, attempts.run_folder(key.run_id))))
        # The job file comes first: after a lost answer the next try finds the attempt by it, and
        # then the job by its name.
        uri = write_job(job)
        python = environment.RAY_PYTHON.read() or "python"
        entrypoint = f"{shlex.quote(python)} -m ray_jobs.{job.stage.value} {shlex.quote(uri)}"
        self.log.info("attempt %d: %s", job.attempt, entrypoint)
        ask(
            cluster,
            lambda jobs: jobs.submit(
                name, entrypoint, metadata_of(job, key), asks_of(job.stage, job.recipe)
            ),
        )

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> Any:
        """What the stage has read and made, for Airflow's OpenLineage provider, which asks when the
        task has ended, well or not."""
        from boig_core.orchestration.signals import lineage

        return lineage.of_attempt(self._attempt, self._outputs) if self._attempt else None

    def _use(self, attempt_uri: str, why: str, *, own: bool) -> dict[str, Any]:
        counts.job(self.stage, "used")
        result = self._finish(attempt_uri, {"status": "SUCCEEDED", "message": ""}, own=own)
        self.log.info("%s %s: its result is used: %s", attempt_uri, why, json.dumps(result))
        return result

    def _finish(
        self, attempt_uri: str, event: Mapping[str, str], *, own: bool = True
    ) -> dict[str, Any]:
        self._attempt = attempt_uri
        # The commit decides, whatever the cluster says: a node may die just after it.
        done = attempts.result(attempt_uri)
        if done is not None:
            if (why := done["metrics"].get(SKIP_REASON)) is not None:
                raise AirflowSkipException(why)
            self._outputs = done["outputs"]
            if own:  # another run's seconds were counted there
                counts.took(self.stage, done["metrics"].get("seconds") or 0.0)
            self.pages = self._pages(done)
            return done
        self.pages = self._curves(attempt_uri)
        failure = commit.read_failure(attempt_uri)
        if failure is not None:
            # The stage's own class of error, since the retry policy tells by it what is worth
            # another try.
            raise named(failure.type, failure.user)(
                f"{self.stage}: {failure.type}", failure.message, failure.remedy
            )
        # A job that is gone has no output, and a cluster that is away would be asked for a minute.
        if event["status"] not in (GONE, UNREACHABLE) and not any(runs.read_log(attempt_uri)):
            self._show_tail(event["submission_id"])
        status = (
            f"no commit and no error.json; Ray says {event['status']}: {event['message'][-500:]}"
        )
        remedy = "the next try adopts the job or starts the next attempt; see the Ray job's page"
        if event["status"] in (GONE, UNREACHABLE):
            # The address stands in the error, since alerts tell one outage from another by it.
            raise ClusterError(self.job_url or self.stage, status, remedy)
        raise InfrastructureError(self.stage, status, remedy)

    def _show_tail(self, name: str) -> None:
        """The stage never began, so Ray alone has its last words."""
        try:
            text = ask(clusters.find(), lambda jobs: jobs.tail(name))
        except BoigError as exc:
            self.log.warning("Ray does not give the job's output: %s", exc)
            return
        for line in _ANSI.sub("", text).splitlines()[-100:]:
            self.log.info("%s", visible(line))

    def _curves(self, attempt_uri: str) -> dict[str, str]:
        """The run in MLflow of a training that has failed."""
        try:
            return {MlflowRunLink().name: mlflow_page(attempt_uri)}
        except BoigError as exc:
            self.log.warning("no link to its run in MLflow: %s", exc)
            return {}

    def _pages(self, result: Mapping[str, Any]) -> dict[str, str]:
        try:
            return result_pages(result, self.plan["store"])
        except BoigError as exc:  # what is committed is good without a link
            self.log.warning("no links to its pages: %s", exc)
            return {}


def resolve_input(name: str, value: Any) -> str | None:
    """URI of an input: the value itself, or the output of that name in the result of an earlier
    task; none when that has no such output, or no result since a person marked it as success.

    A stage that cannot do without an input says so itself.
    """
    if isinstance(value, Mapping):
        uri = value["outputs"].get(name)
        return None if uri is None else str(uri)
    return None if value is None else str(value)


def metadata_of(job: Job, key: TaskKey) -> dict[str, str]:
    """What a Ray job carries, for people and for `reconcile`: which task of which run it belongs
    to. Ray shows it to anyone."""
    assert job.started_by is not None
    place = {
        "dag": key.dag_id,
        "run": key.run_id,
        "task": key.task_id,
        "map": str(key.map_index),
        "try": str(job.started_by.number),
    }
    work = {"stage": job.stage.value, "attempt": str(job.attempt), "root": job.root}
    return {**place, **work, **belongs_to(job.store)}


def belongs_to(root: str) -> dict[str, str]:
    """What tells the jobs of this Airflow and store from those of others on the same cluster."""
    return {"store": root, "airflow": conf.get("api", "base_url", fallback="")}


def _this_try(context: Any) -> TaskTry:
    ti = context["ti"]
    return TaskTry(
        run_after=context["dag_run"].run_after.isoformat(), number=ti.try_number, limit=ti.max_tries
    )


def _is_live(cluster: Cluster, name: str) -> bool:
    info = ask(cluster, lambda jobs: jobs.states([name])).get(name)
    return info is not None and info.live


def _has_triggerer() -> bool:
    """Whether stages may wait in a triggerer, as the installation says."""
    setting = (environment.DEFERRABLE.read() or "true").lower()
    if setting not in ("true", "false"):
        name = environment.DEFERRABLE.name
        raise InputError(f"{name}={setting}", "is neither true nor false", "write one of the two")
    return setting == "true"
