"""How a stage runs: the frame around its work.

`run_stage` is the whole life of a stage process: read the job, do the work, commit, or leave
``error.json``. Leaves out: Ray, whose errors hold others (see `boig_core.cluster.stage`).
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from boig_core.config import Recipe, load_policy
from boig_core.errors import BoigError, FencedError, PolicyError, UserError
from boig_core.observability.kept import KeptLog
from boig_core.observability.logs import configure_logging, get_logger
from boig_core.storage import commit as commits
from boig_core.storage import manifest, places, store, usage
from boig_core.storage.disk import full_disk
from boig_core.storage.job import Job, read_job

log = get_logger(__name__)
SKIP_REASON = "nothing"
"""Metric of a stage that had nothing to do: why. It commits no outputs."""
STEADY_MEMORY: Final = {
    "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1),
}
"""Environment of a process that trains or samples: glibc gives large tensors back to the kernel at
once, and fetching zeroed pages anew slows small models several times over."""


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
        went_on_from: tuple[manifest.WentOnFrom, ...] | None = None,
    ) -> str:
        """Upload a folder as this attempt's version of an output family (``models/boigllm``);
        returns its URI. A training says what it has gone on from."""
        uri = self.job.output(family)
        manifest.publish_folder(
            local,
            uri,
            kind=kind,
            lineage=self.lineage(),
            commit=store.join(self.job.attempt_uri, commits.COMMIT),
            meta=meta,
            blobs=blobs,
            went_on_from=went_on_from,
        )
        return uri

    def lineage(self) -> manifest.Lineage:
        """Lineage of what this job makes."""
        return lineage_of(self.job)


def lineage_of(job: Job) -> manifest.Lineage:
    """What a job reads: digests of outputs and of raw files; of anything else (a folder, a web
    address) its place in the store or its bare URI."""
    inputs = {name: _digest(uri, job.store) for name, uri in sorted(job.inputs.items())}
    return manifest.Lineage(inputs=inputs, recipe=job.recipe.digest(), code=manifest.code_version())


def _digest(uri: str, root: str) -> str:
    if re.match(r"^https?://", uri):
        return uri
    # An output counts by its content, not by its place: equal inputs give an equal lineage, by
    # which work that was done before is found.
    if store.exists(store.join(uri, manifest.MANIFEST)):
        return manifest.read_manifest(uri).digest()
    if store.exists(uri):
        return hashlib.sha256(store.read_bytes(uri)).hexdigest()
    return places.place_of(uri, root)


def run_stage(
    work: Callable[[Workspace], Outcome],
    argv: list[str] | None = None,
    wrapped: Callable[[BaseException], Iterable[BaseException]] = lambda _: (),
) -> int:
    """Run a stage's process; returns its exit code: 0 committed, 1 infrastructure error, 2 user
    error.

    Args:
        work: does the stage's work and publishes its outputs.
        argv: command line without the program's name: one job URI.
        wrapped: the errors that an error of a library holds; see `root_cause`.
    """
    configure_logging()
    args = sys.argv[1:] if argv is None else argv
    if len(args) != 1:
        log.error("usage: python -m ray_jobs.STAGE JOB_URI")
        return 2
    started = time.monotonic()
    job: Job | None = None
    # Around the except clause, too: the lines that say why a stage failed belong to its kept log.
    with ExitStack() as kept:
        try:
            job = read_job(args[0])
            kept.enter_context(_kept_log(job.attempt_uri))
            _work_and_commit(job, work, started)
            return 0
        except BaseException as exc:
            root = root_cause(exc, wrapped)
            # A stage that is stopped from outside has not failed: its attempt stays open.
            if job is not None and not isinstance(exc, (KeyboardInterrupt, SystemExit)):
                _leave_reason(job.attempt_uri, root)
            user = isinstance(root, UserError)
            # A traceback helps nobody whose input is wrong: the line below says what to mend.
            if not user:
                log.exception("stage failed")
            log.error(
                "failed after %.1f s (%s error): %s: %s",
                time.monotonic() - started,
                "user" if user else "infrastructure",
                type(root).__name__,
                root,
            )
            return 2 if user else 1


def _work_and_commit(job: Job, work: Callable[[Workspace], Outcome], started: float) -> None:
    """Do the work of an attempt that may still commit, and commit it.

    Raises:
        FencedError: a newer attempt has taken this one's place.
    """
    _say_what_runs(job)
    _require_policy(job)
    # Read before the work: a price that cannot be read is told before a GPU is paid for.
    per_hour = usage.price()
    # A job that went back to a queue runs the same attempt again, maybe after its commit or fence.
    fate = commits.fate(job.attempt_uri)
    if fate == "committed":
        log.info("attempt %d has committed already", job.attempt)
        return
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
    # After the commit only: until then a next attempt may go on from what this removes.
    _tidy(outcome)
    log.info(
        "committed after %.1f s: %s",
        metrics["seconds"],
        json.dumps({"outputs": outcome.outputs, "metrics": metrics}),
    )


def _require_policy(job: Job) -> None:
    """Check a job against the policy of this machine, which its planner may not have read.

    Raises:
        PolicyError: it was planned under another policy, or asks for more than this one allows.
    """
    policy = load_policy()
    if job.policy not in (None, policy.digest()):
        raise PolicyError(
            f"policy {str(job.policy)[:12]} of the job",
            f"differs from {policy.digest()[:12]}, that of this machine ({policy.source})",
            "give Airflow and Ray the same BOIG_POLICY, then clear the DAG's run",
        )
    policy.require(job.recipe, job.store)
    # Without a try of Airflow's, somebody has typed the inputs on this machine's command line.
    for name, uri in job.inputs.items() if job.started_by is not None else ():
        policy.require_location(uri, "posts" if name == "posts" else "outputs", job.store)


def _kept_log(attempt: str) -> KeptLog:
    """Chunks of an attempt's log; a process that runs the attempt again goes on after the last
    one."""
    folder = store.join(attempt, "log")
    chunks = (re.fullmatch(r"(\d{6,12})\.txt", path) for path, _ in store.list_files(folder))
    numbers = [int(chunk[1]) for chunk in chunks if chunk]
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


def root_cause(
    exc: BaseException, wrapped: Callable[[BaseException], Iterable[BaseException]]
) -> BaseException:
    """The boig error inside wrappers, else the exception itself; of a full disk, what to do.

    Of several failed workers the one with a boig error counts: the others merely lost their peer.
    Follows explicit causes only: what was being handled when something else broke is not the
    reason.

    Args:
        exc: what was raised.
        wrapped: what a wrapper holds; asked before the wrapper itself, which may pose as its
            content's type.
    """

    def search(error: BaseException, visited: set[int]) -> BoigError | None:
        # Causes and wrappers may form a ring.
        if id(error) in visited:
            return None
        visited.add(id(error))
        for inner in wrapped(error):
            if reason := search(inner, visited):
                return reason
        if isinstance(error, BoigError):
            return error
        if full := full_disk(error):
            return full
        return search(error.__cause__, visited) if error.__cause__ else None

    return search(exc, set()) or exc
