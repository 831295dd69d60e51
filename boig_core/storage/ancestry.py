"""Ancestry: which earlier attempts of its task an attempt may go on from.

A retry goes on with what the tries before it have left. A clear wants the work anew, and so does
whatever follows an attempt that has committed: then no earlier attempt counts, unless a person has
said so beforehand by ``boig resume``, which leaves ``resume.json`` in the newest attempt's folder.
Leaves out: which checkpoint of these attempts is of the same work (see
`boig_core.training.checkpoint`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from boig_core.errors import CorruptError, NotFoundInStoreError
from boig_core.storage import commit as commits
from boig_core.storage import control, store
from boig_core.storage.job import Job, TaskTry, starter_of

RESUME: Final = "resume.json"
Began = Literal["first", "retry", "clear", "resume", "rerun"]
"""How an attempt came about; ``rerun``: somebody started the stage again without Airflow."""

_REMEDY: Final = "remove the file, or ask again by `boig resume`"


class Resume(BaseModel):
    """Content of ``resume.json``: what follows the attempt in whose folder it lies may go on from
    an earlier attempt, or from this one.

    Attributes:
        attempt: number of the attempt whose checkpoints may be read.
        asked_by: who asked for it; None: the system had no name for them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    schema_version: Literal[1] = 1
    attempt: int = Field(ge=1)
    asked_by: tuple[str, ...] | None


@dataclass(frozen=True)
class Ancestry:
    """What an attempt may go on from.

    Attributes:
        began: how it came about.
        attempts: numbers of the earlier attempts that count, the newest first.
        left_out: why each other earlier attempt does not count.
        resumed: those of `attempts` that people have asked for, with these people.
    """

    began: Began
    attempts: tuple[int, ...] = ()
    left_out: dict[int, str] = field(default_factory=dict)
    resumed: dict[int, tuple[str, ...]] = field(default_factory=dict)


def ancestry_of(job: Job) -> Ancestry:
    """The earlier attempts that a job's attempt may go on from.

    Raises:
        CorruptError: the job file or ``resume.json`` of one of them cannot be read.
    """
    began: Began = "first"
    counted: list[int] = []
    left_out: dict[int, str] = {}
    resumed: dict[int, tuple[str, ...]] = {}
    number, now = job.attempt, job.started_by
    while number > 1:
        resume = read_resume(job.task, number - 1)
        source = number - 1 if resume is None else resume.attempt
        uri = commits.attempt_uri(job.task, source)
        starter = starter_of(uri)
        committed = commits.fate(uri) == "committed"
        cleared = now is not None and starter is not None and now.redoes(starter)
        if number == job.attempt:
            anew = cleared or committed
            began = "rerun" if job.started_by is None else "clear" if anew else "retry"
            began = began if resume is None or committed else "resume"
        if committed or (cleared and resume is None):
            why = f"attempt {source} has finished" if committed else _why_anew(now, starter)
            left_out |= dict.fromkeys(range(1, number), why)
            break
        left_out |= dict.fromkeys(range(source + 1, number), f"attempt {source} was asked for")
        counted.append(source)
        if resume is not None:
            resumed[source] = resume.asked_by or ("somebody",)
        number, now = source, starter or now
    return Ancestry(began, tuple(counted), left_out, resumed)


def _why_anew(now: TaskTry | None, earlier: TaskTry | None) -> str:
    """Why a try that redoes an earlier one does."""
    same_run = now is not None and earlier is not None and now.run_after == earlier.run_after
    return "the task was cleared without `boig resume`" if same_run else "its run was made anew"


def read_resume(task: str, number: int) -> Resume | None:
    """What a person has asked of whatever follows an attempt, if anything.

    Raises:
        CorruptError: the file holds no such thing, or names a later attempt.
    """
    uri = store.join(commits.attempt_uri(task, number), RESUME)
    try:
        resume = control.read(uri, Resume, "a wish to resume", _REMEDY)
    except NotFoundInStoreError:
        return None
    if resume.attempt > number:
        raise CorruptError(uri, f"names attempt {resume.attempt}, a later one", _REMEDY)
    return resume


def write_resume(task: str, number: int, resume: Resume) -> None:
    """Let whatever follows attempt ``number`` of a task go on as a person asks."""
    uri = store.join(commits.attempt_uri(task, number), RESUME)
    store.write_bytes(uri, resume.model_dump_json(indent=1).encode())
