"""Jobs: what a stage is told.

A job file (``attempt-N/job.json``) carries the resolved recipe, inputs and where outputs go. It
names what lies in its own store by places, and the store itself not at all: that is where the file
lies (see `places`). Leaves out: running it (see `stage`) and submitting it (see
`boig_core.orchestration`).
"""

from __future__ import annotations

import hashlib
import json
import re
from enum import StrEnum
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict

from boig_core.config import Recipe, parse_recipe
from boig_core.errors import CorruptError, InputError, NotFoundInStoreError
from boig_core.storage import commit as commits
from boig_core.storage import control, places, store
from boig_core.storage.credentials import refuse_secrets

JOB = "job.json"
_WHAT: Final = "a job file"
_REMEDY: Final = "it is written by the operator or by `boig run`"


class Stage(StrEnum):
    """The stages, in the order of the data. Entry points are ``python -m ray_jobs.STAGE JOB_URI``.

    All but ``score_rewards``, which is run by hand, are tasks of a DAG.
    """

    INGEST = "ingest"
    PERCEIVE = "perceive"
    FINETUNE_LLM = "finetune_llm"
    EVALUATE_LLM = "evaluate_llm"
    CALIBRATE = "calibrate"
    SCORE_REWARDS = "score_rewards"
    FINETUNE_SD = "finetune_sd"
    DDPO = "ddpo"
    EVALUATE_SD = "evaluate_sd"
    REPORT = "report"
    COMPARE = "compare"


class TaskTry(BaseModel):
    """One try of an Airflow task, by what tells a retry from a clear.

    Attributes:
        run_after: the run's; another one under the same run id means that the run was deleted and
            made anew.
        number: ``try_number``, 1 for the first; every retry and every clear raises it.
        limit: ``max_tries``; a retry leaves it alone, a clear sets it to the tries so far plus the
            task's retries.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    run_after: str
    number: int
    limit: int

    def redoes(self, earlier: TaskTry) -> bool:
        """Whether this try wants the work anew: the task was cleared, or its run made anew.

        An older try that is still there, since its worker was frozen, does not.
        """
        return self.run_after != earlier.run_after or (
            self.number > earlier.number and self.limit != earlier.limit
        )


class Job(BaseModel):
    """Content of ``job.json``, with locations in the place of places.

    Attributes:
        stage: which stage runs.
        recipe: the resolved recipe.
        inputs: URI of each input by name; outputs of earlier stages are folders with a manifest.
        store: root of the store.
        root: root run, such as ``boig_ingest/manual-2026...``: the ingest run that everything
            downstream belongs to.
        task: URI of the task's folder, ``STORE/runs/DAG/RUN/TASK[/MAP]``.
        attempt: 1 for the first.
        policy: digest of the policy under which the work was planned; a stage refuses to work under
            another. None: who wrote the job names none.
        started_by: the try of an Airflow task; None: Airflow had no part in it.
        triggered_by: people who triggered the run, by the names that Airflow knows them by; none
            where an asset or the schedule did. None: not known.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    schema_version: Literal[2] = 2
    stage: Stage
    recipe: Recipe
    inputs: dict[str, str]
    store: str
    root: str
    task: str
    attempt: int
    policy: str | None = None
    started_by: TaskTry | None = None
    triggered_by: tuple[str, ...] | None = None

    @property
    def attempt_uri(self) -> str:
        """Folder that this attempt may write to."""
        return commits.attempt_uri(self.task, self.attempt)

    @property
    def version(self) -> str:
        """Version of this attempt's outputs: unique to it, so that no two attempts ever write to
        one folder."""
        run = self.task.removeprefix(self.store).strip("/").removeprefix("runs/")
        return version_of(run, self.attempt)

    def output(self, family: str) -> str:
        """Folder for an output of this attempt, such as ``STORE/models/boigllm/VERSION``."""
        return store.join(self.store, family, self.version)

    def input(self, name: str) -> str:
        """URI of an input.

        Raises:
            InputError: the job does not name it.
        """
        if name not in self.inputs:
            raise InputError(
                f"input {name!r}",
                f"is not among the job's inputs ({', '.join(self.inputs) or 'none'})",
                "name its URI",
            )
        return self.inputs[name]


def version_of(task: str, attempt: int) -> str:
    """Version of the outputs of a task's attempt; the task is ``DAG/RUN/TASK[/MAP]``."""
    # Tells apart runs that read the same as slugs.
    mark = hashlib.sha256(task.encode()).hexdigest()[:8]
    # Cut, since file systems take names of 255 bytes at most; the mark tells long runs apart.
    return f"{slug(task)[:120]}-{mark}-a{attempt}"


def slug(text: str) -> str:
    """Lower-case letters, digits and single hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def write_job(job: Job) -> str:
    """Put ``job.json`` into the attempt's folder; returns its URI.

    Raises:
        InputError: a location carries credentials, or the task does not lie in the store.
    """
    for location in (job.store, job.task, *job.inputs.values()):
        refuse_secrets(location)
    uri = store.join(job.attempt_uri, JOB)
    tree = job.model_dump(mode="json", exclude={"store"})
    tree["inputs"] = {name: places.place_of(at, job.store) for name, at in job.inputs.items()}
    tree["task"] = places.place_of(job.task, job.store)
    if not places.is_place(tree["task"]):
        raise InputError(job.task, f"does not lie in the store {job.store}", "keep both together")
    store.write_bytes(uri, json.dumps(tree, indent=1).encode())
    return uri


def read_recipe(uri: str) -> Recipe:
    """The resolved recipe that a plan has kept in the store.

    Raises:
        NotFoundInStoreError: there is none.
        CorruptError: the file holds no JSON object.
        RecipeError: it is no recipe of this version of boig.
    """
    return parse_recipe(control.read_object(uri, "a recipe", "clear the task plan"))


def read_job(uri: str) -> Job:
    """Job of a ``job.json``.

    Raises:
        CorruptError: the file is no job, of another schema, or not in its place.
    """
    tree = control.read_object(uri, _WHAT, _REMEDY)
    places.require_schema(uri, tree, _WHAT)
    # A store that a file names could be another one than it lies in.
    if "store" in tree:
        raise CorruptError(uri, "names a store beside its own place", _REMEDY)
    job = control.validated(uri, Job, {**tree, "store": ""}, _WHAT, _REMEDY)
    root = places.root_of(uri, store.join(commits.attempt_uri(job.task, job.attempt), JOB))
    inputs = {name: places.locate(place, root) for name, place in job.inputs.items()}
    return job.model_copy(
        update={"store": root, "task": store.join(root, job.task), "inputs": inputs}
    )


def starter_of(attempt: str) -> TaskTry | None:
    """The try that started an attempt; None: it left no job file, or not Airflow wrote it.

    Raises:
        CorruptError: the job file cannot be read.
    """
    uri, what = store.join(attempt, JOB), (_WHAT, "restore it, or clear the task as a new run")
    try:
        # Not as a job: the recipe may be one of another version of boig.
        started = control.read_object(uri, *what).get("started_by")
    except NotFoundInStoreError:
        return None
    return None if started is None else control.validated(uri, TaskTry, started, *what)
