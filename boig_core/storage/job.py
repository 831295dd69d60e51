"""Jobs: what a stage is told, and the frame in which each stage runs.

A job file (``attempt-N/job.json``) carries the resolved recipe, input URIs and where outputs go.
`run_stage` is the whole life of a stage process: read the job, do the work, commit, or leave
``error.json``. Leaves out: submitting (see `boig_core.orchestration`) and Ray (see
`boig_core.cluster`).
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, ValidationError

from boig_core.config import Recipe
from boig_core.errors import BoigError, FencedError, InputError, UserError
from boig_core.observability.kept import KeptLog
from boig_core.observability.logs import configure_logging, get_logger
from boig_core.storage import commit as commits
from boig_core.storage import manifest, store, usage

log = get_logger(__name__)

JOB = "job.json"
SKIP_REASON = "nothing"
"""Metric of a stage that had nothing to do: why. It commits no outputs."""

STEADY_MEMORY: Final = {
    "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1),
}
"""Environment of a process that trains or samples: glibc gives large tensors back to the kernel at
once, and fetching zeroed pages anew slows small models several times over."""


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
    """Content of ``job.json``.

    Attributes:
        stage: which stage runs.
        recipe: the resolved recipe.
        inputs: URI of each input by name; outputs of earlier stages are folders with a manifest.
        store: root of the store.
        root: root run, such as ``boig_ingest/manual-2026...``: the ingest run that everything
            downstream belongs to.
        task: URI of the task's folder, ``STORE/runs/DAG/RUN/TASK[/MAP]``.
        attempt: 1 for the first.
        started_by: the try of an Airflow task; None: Airflow had no part in it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    schema_version: int = 1
    stage: Stage
    recipe: Recipe
    inputs: dict[str, str]
    store: str
    root: str
    task: str
    attempt: int
    started_by: TaskTry | None = None

    @property
    def attempt_uri(self) -> str:
        """Folder that this attempt may write to."""
        return commits.attempt_uri(self.task, self.attempt)

    @property
    def version(self) -> str:
        """Version of this attempt's outputs: unique to it, so that no two attempts ever write to
        one folder."""
        run = self.task.removeprefix(self.store).strip("/").removeprefix("runs/")
        # Tells apart runs that read the same as slugs.
        mark = hashlib.sha256(run.encode()).hexdigest()[:8]
        return f"{slug(run)[:120]}-{mark}-a{self.attempt}"

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


@dataclass
class Outcome:
    """What a stage hands back to be committed.

    Attributes:
        outputs: URI of each published output by name.
        metrics: small JSON values.
        after: removes what is of no use once the outputs are committed.
    """

    outputs: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    after: Callable[[], None] | None = None


@dataclass
class Workspace:
    """A running job with a scratch folder, and the one way to publish its outputs."""

    job: Job
    scratch: Path

    @property
    def recipe(self) -> Recipe:
        """The job's recipe."""
        return self.job.recipe

    def fetch(self, name: str, kind: str | None = None) -> tuple[Path, manifest.Manifest]:
        """Download and verify an input's folder; returns the local folder and its manifest."""
        local = self.scratch / "inputs" / name
        return local, manifest.fetch_folder(self.job.input(name), local, kind=kind)

    def publish(
        self,
        family: str,
        local: Path,
        *,
        kind: str,
        meta: dict[str, Any] | None = None,
        blobs: tuple[manifest.FileEntry, ...] = (),
    ) -> str:
        """Upload a folder as this attempt's version of an output family (``models/boigllm``);
        returns its URI."""
        uri = self.job.output(family)
        manifest.publish_folder(
            local,
            uri,
            kind=kind,
            lineage=self.lineage(),
            commit=store.join(self.job.attempt_uri, commits.COMMIT),
            meta=meta,
            blobs=blobs,
        )
        return uri

    def lineage(self) -> manifest.Lineage:
        """Lineage of what this job makes."""
        return lineage_of(self.job)


def lineage_of(job: Job) -> manifest.Lineage:
    """What a job reads: digests of outputs and of raw files, the bare URI of anything else (a
    folder, a web address)."""
    inputs = {name: _digest(uri) for name, uri in sorted(job.inputs.items())}
    return manifest.Lineage(inputs=inputs, recipe=job.recipe.digest(), code=manifest.code_version())


def _digest(uri: str) -> str:
    if re.match(r"^https?://", uri):
        return uri
    if store.exists(store.join(uri, manifest.MANIFEST)):
        return manifest.read_manifest(uri).digest()
    return hashlib.sha256(store.read_bytes(uri)).hexdigest() if store.exists(uri) else uri


def slug(text: str) -> str:
    """Lower-case letters, digits and single hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def write_job(job: Job) -> str:
    """Put ``job.json`` into the attempt's folder; returns its URI.

    Raises:
        InputError: a location carries credentials.
    """
    for location in (job.store, job.task, *job.inputs.values()):
        store.refuse_secrets(location)
    uri = store.join(job.attempt_uri, JOB)
    store.write_bytes(uri, job.model_dump_json(indent=1).encode())
    return uri


def read_job(uri: str) -> Job:
    """Job of a ``job.json``.

    Raises:
        InputError: the file is no job.
    """
    try:
        return Job.model_validate_json(store.read_bytes(uri))
    except ValidationError as exc:
        raise InputError(
            uri, "is not a job file", "it is written by the operator or by `boig run`"
        ) from exc


def run_stage(work: Callable[[Workspace], Outcome], argv: list[str] | None = None) -> int:
    """Run a stage's process; returns its exit code: 0 committed, 1 infrastructure error, 2 user
    error.

    Args:
        work: does the stage's work and publishes its outputs.
        argv: command line without the program's name: one job URI.
    """
    configure_logging()
    args = sys.argv[1:] if argv is None else argv
    if len(args) != 1:
        log.error("usage: python -m ray_jobs.STAGE JOB_URI")
        return 2
    started = time.monotonic()
    job: Job | None = None
    with ExitStack() as kept:
        try:
            job = read_job(args[0])
            kept.enter_context(_kept_log(job.attempt_uri))
            _say_what_runs(job)
            per_hour = usage.price()  # a wrong one is said before the work, not after it
            fate = commits.fate(job.attempt_uri)
            if fate == "committed":
                log.info("attempt %d has committed already", job.attempt)
                return 0
            if fate == "fenced":
                raise FencedError(
                    job.attempt_uri,
                    "a newer attempt has fenced this one",
                    "nothing was done; use the newer attempt",
                )
            with tempfile.TemporaryDirectory(prefix=f"boig-{job.stage}-") as scratch:
                outcome = work(Workspace(job, Path(scratch)))
            metrics = {
                **outcome.metrics,
                **usage.spent(job.stage, job.recipe, time.monotonic() - started, per_hour),
            }
            commits.commit(job.attempt_uri, outcome.outputs, metrics)
            _tidy(outcome)
            log.info(
                "committed after %.1f s: %s",
                metrics["seconds"],
                json.dumps({"outputs": outcome.outputs, "metrics": metrics}),
            )
            return 0
        except BaseException as exc:
            root = root_cause(exc)
            if job is not None and not isinstance(exc, (KeyboardInterrupt, SystemExit)):
                _leave_reason(job.attempt_uri, root)
            user = isinstance(root, UserError)
            if not user:
                log.exception("stage failed")
            kind = "user" if user else "infrastructure"
            log.error(
                "failed after %.1f s (%s error): %s: %s",
                time.monotonic() - started,
                kind,
                type(root).__name__,
                root,
            )
            return 2 if user else 1


def _kept_log(attempt: str) -> KeptLog:
    """Chunks of an attempt's log; a process that runs the attempt again goes on after the last
    one."""
    folder = store.join(attempt, "log")
    numbers = [int(path.removesuffix(".txt")) for path, _ in store.list_files(folder)]
    return KeptLog(
        lambda number, chunk: store.write_bytes(store.join(folder, log_chunk(number)), chunk),
        first=max(numbers, default=0) + 1,
    )


def log_chunk(number: int) -> str:
    """Name of a chunk below an attempt's ``log``; they are numbered from 1, without gaps."""
    return f"{number:06}.txt"


def _say_what_runs(job: Job) -> None:
    """The head of a stage's log."""
    log.info("stage %s · attempt %d of %s", job.stage, job.attempt, job.task)
    log.info(
        "recipe %s (%s) · code %s",
        job.recipe.name,
        job.recipe.digest()[:12],
        manifest.code_version(),
    )
    for name, uri in job.inputs.items():
        log.info("input %s = %s", name, uri)
    gpus = usage.held_gpus(job.stage, job.recipe)
    total = "as many GPUs as the cluster has room for" if gpus is None else f"{gpus:g} GPUs in all"
    log.info("resources %s a worker · %s", json.dumps(job.recipe.resources.model_dump()), total)


def _tidy(outcome: Outcome) -> None:
    """What is left over costs room and nothing else, so a failure here is no failure of the
    stage."""
    try:
        if outcome.after is not None:
            outcome.after()
    except Exception as exc:
        log.warning("not everything could be tidied up: %s", exc)


def _leave_reason(attempt: str, exc: BaseException) -> None:
    """Write ``error.json``; a store that is away must not hide the reason itself, which is logged
    in any case."""
    try:
        commits.write_failure(attempt, exc)
    except Exception as failed:
        log.error("error.json could not be written: %s", failed)


def root_cause(exc: BaseException) -> BaseException:
    """The boig error inside wrappers (Ray wraps what its workers raise), else the exception itself.

    Of several failed workers the one with a boig error counts: the others merely lost their peer.
    Follows explicit causes only: what was being handled when something else broke is not the
    reason.
    """
    return _boig_error(exc, set()) or exc


def _boig_error(exc: BaseException, visited: set[int]) -> BoigError | None:
    if id(exc) in visited:
        return None
    visited.add(id(exc))
    for inner in _wrapped(exc):
        if inner_error := _boig_error(inner, visited):
            return inner_error
    if isinstance(exc, BoigError):
        return exc
    return _boig_error(exc.__cause__, visited) if exc.__cause__ else None


def _wrapped(exc: BaseException) -> Iterator[BaseException]:
    """What a wrapper of Ray holds; comes before the wrapper itself, which may pose as its content's
    type."""
    failures = getattr(exc, "worker_failures", None)  # Ray Train: by rank
    candidates = [
        *(failures.values() if isinstance(failures, dict) else ()),
        *(getattr(exc, name, None) for name in ("cause", "controller_failure", "_base_exc")),
        *exc.args[:1],
    ]
    yield from (inner for inner in candidates if isinstance(inner, BaseException))
