"""Which attempt of a task counts: the store is asked first, then Ray.

Leaves out: Airflow and HTTP. `survey` is told by functions whether Ray still runs a job, and that
it has stopped one.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal

from boig_core.errors import UserError
from boig_core.storage import commit, manifest, store
from boig_core.storage.job import Job, Stage, TaskTry, slug, starter_of
from boig_core.storage.stage import lineage_of

FAMILIES: Final = {
    Stage.FINETUNE_LLM: "models/boigllm",
    Stage.CALIBRATE: "evaluations/calibration",
    Stage.FINETUNE_SD: "models/high-kpi",
}
"""Where the stages whose work may be found in the store publish it."""


@dataclass(frozen=True)
class Attempt:
    """The attempt that counts now.

    Attributes:
        number: 1 for the first.
        uri: its folder.
        state: ``committed``: use its result; ``live``: wait for its job; ``new``: start it.
    """

    number: int
    uri: str
    state: Literal["committed", "live", "new"]


def task_uri(root: str, dag: str, run: str, task: str, map_index: int = -1) -> str:
    """Folder of a task, ``ROOT/runs/DAG/RUN/TASK[/MAP]``; a run id that is no safe file name gets a
    readable one with a hash."""
    parts = [root, "runs", dag, run_folder(run), task]
    return store.join(*parts) if map_index < 0 else store.join(*parts, str(map_index))


def run_folder(run: str) -> str:
    """A run id as one part of a path: letters, digits, dot, hyphen, underscore."""
    safe = re.sub(r"[^A-Za-z0-9._-]+", "-", run).strip(".-")
    return safe if safe == run else f"{safe}-{hashlib.sha256(run.encode()).hexdigest()[:6]}"


def submission_id(task: str, attempt: int) -> str:
    """Ray's id of an attempt: ``boig-`` + readable slug + hash, at most 100 characters of
    ``[a-z0-9-]``, the same on every ask.

    Args:
        task: URI of the task's folder, which holds DAG, run, task and map index.
        attempt: the attempt's number.
    """
    digest = hashlib.sha256(f"{task}#{attempt}".encode()).hexdigest()[:12]
    dag, run, *place = task.rsplit("/runs/", 1)[-1].split("/")
    # 60 characters leave room for the attempt's number and the digest within the 100.
    readable = slug("-".join([dag.removeprefix("boig_"), *place, run]))[:60].strip("-")
    return f"boig-{readable}-a{attempt}-{digest}"


def survey(
    task: str, now: TaskTry, is_live: Callable[[str], bool], stop: Callable[[str], object]
) -> Attempt:
    """Find the attempt that counts; an older one that does not is fenced off for good.

    On a retry a committed attempt is used, a live job is adopted, anything else is followed by the
    next attempt. After a clear the old job is stopped and seen to be over, and the next attempt
    starts whatever the old one has done.

    Args:
        task: URI of the task's folder.
        now: the try that asks.
        is_live: whether the job of a submission id still runs.
        stop: stops the job of a submission id, and returns when it is over.
    """
    numbers = commit.attempts(task)
    if not numbers:
        return Attempt(1, commit.attempt_uri(task, 1), "new")
    newest = numbers[-1]
    uri = commit.attempt_uri(task, newest)
    fate = commit.fate(uri)
    starter = starter_of(uri)
    # An attempt whose starter is not known is taken up as by a retry: only a clear that is proven
    # may stop a job.
    if starter is None or not now.redoes(starter):
        if fate == "committed":
            return Attempt(newest, uri, "committed")
        # Only an open attempt may have a job to wait for; a failed one left its error as it ended.
        if fate == "open" and is_live(submission_id(task, newest)):
            return Attempt(newest, uri, "live")
        # Fenced before the next one starts: a job that Ray has lost sight of may wake later, and
        # must find its commit's place taken.
        if (
            fate != "fenced" and commit.fence(uri) is not None
        ):  # it has committed between the two looks
            return Attempt(newest, uri, "committed")
    else:
        # Stopped first: where that fails nothing has changed, no attempt starts beside the old job,
        # and the next try stops it again.
        stop(submission_id(task, newest))
        commit.fence(uri)
    return Attempt(newest + 1, commit.attempt_uri(task, newest + 1), "new")


def find_reusable_attempt(job: Job) -> str | None:
    """Attempt that has made what a job would make: committed, of the same stage, recipe and code,
    from inputs of the same content.

    Only for the stages of `FAMILIES`; an output that cannot be read counts as none.
    """
    wanted, family = lineage_of(job), store.join(job.store, FAMILIES[job.stage])
    for path, _ in store.list_files(family):
        version, _, name = path.partition("/")
        if name != manifest.MANIFEST:
            continue
        try:
            published = manifest.read_manifest(store.join(family, version))
        except UserError:
            continue
        # After `boig resume` a part of it may be the work of another version.
        codes = {hop.code for hop in published.went_on_from or ()}
        if published.lineage == wanted and codes <= {wanted.code}:
            return published.commit.rsplit("/", 1)[0]
    return None


def result(uri: str) -> dict[str, Any] | None:
    """What a committed attempt hands on: ``{"outputs", "metrics", "attempt"}``; None without a
    commit."""
    body = commit.read_commit(uri)
    return (
        None
        if body is None
        else {"outputs": body["outputs"], "metrics": body["metrics"], "attempt": uri}
    )
