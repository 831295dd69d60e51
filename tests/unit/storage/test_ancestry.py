"""Which earlier attempts may be gone on from, by the tries of Airflow and by a person's wish."""

from __future__ import annotations

from typing import Any

import pytest

from boig_core.errors import CorruptError
from boig_core.storage import commit, store
from boig_core.storage.ancestry import RESUME, Ancestry, Resume, ancestry_of, write_resume
from boig_core.storage.job import Job, TaskTry, write_job
from tests.unit.storage.test_job import make_job

CLEARED = "the task was cleared without `boig resume`"


def begin(root: str, *tries: TaskTry | None) -> Job:
    """The newest of some attempts, each started by a try."""
    for number, started in enumerate(tries, start=1):
        job = make_job(root, attempt=number).model_copy(update={"started_by": started})
        write_job(job)
    return job


def airflow(number: int, limit: int, run: str = "noon") -> TaskTry:
    return TaskTry(run_after=run, number=number, limit=limit)


@pytest.mark.parametrize(
    ("tries", "expected"),
    [
        ([None], Ancestry("first")),
        ([airflow(1, 3)], Ancestry("first")),
        ([None, None, None], Ancestry("rerun", (2, 1))),
        ([airflow(1, 3), airflow(2, 3)], Ancestry("retry", (1,))),
        ([airflow(1, 3), airflow(3, 3), airflow(4, 3)], Ancestry("retry", (2, 1))),
        ([airflow(1, 3), airflow(2, 4)], Ancestry("clear", (), {1: CLEARED})),
        # The clear was two attempts ago.
        ([airflow(1, 3), airflow(2, 4), airflow(3, 4)], Ancestry("retry", (2,), {1: CLEARED})),
        (
            [airflow(1, 3), airflow(2, 4), airflow(3, 5)],
            Ancestry("clear", (), {1: CLEARED, 2: CLEARED}),
        ),
        (
            [airflow(1, 3), airflow(1, 3, "midnight")],
            Ancestry("clear", (), {1: "its run was made anew"}),
        ),
        # An attempt whose try is not known proves no clear.
        ([None, airflow(2, 3)], Ancestry("retry", (1,))),
    ],
)
def test_a_clear_parts_what_comes_before_from_what_comes_after(
    root: str, tries: list[TaskTry | None], expected: Ancestry
) -> None:
    assert ancestry_of(begin(root, *tries)) == expected


def test_after_a_finished_attempt_nothing_before_counts(root: str) -> None:
    job = begin(root, airflow(1, 3), airflow(2, 3), airflow(3, 3))
    commit.commit(commit.attempt_uri(job.task, 1), {}, {})
    assert ancestry_of(job) == Ancestry("retry", (2,), {1: "attempt 1 has finished"})
    commit.commit(commit.attempt_uri(job.task, 2), {}, {})
    why = "attempt 2 has finished"
    assert ancestry_of(job) == Ancestry("clear", (), {1: why, 2: why})


def test_a_wish_joins_what_a_clear_has_parted_once(root: str) -> None:
    tries = [airflow(1, 3), airflow(2, 4), airflow(3, 5), airflow(4, 5), airflow(5, 8)]
    job = begin(root, *tries[:3])
    write_resume(job.task, 2, Resume(attempt=1, asked_by=("ada",)))
    left_out = {2: "attempt 1 was asked for"}
    assert ancestry_of(job) == Ancestry("resume", (1,), left_out, {1: ("ada",)})
    retried = begin(root, *tries[:4])
    assert ancestry_of(retried) == Ancestry("retry", (3, 1), left_out, {1: ("ada",)})
    cleared = begin(root, *tries)
    assert ancestry_of(cleared).attempts == (), "the next clear begins anew"
    write_resume(job.task, 4, Resume(attempt=4, asked_by=None))
    resumed = ancestry_of(cleared)
    assert (resumed.attempts, resumed.resumed) == ((4, 3, 1), {4: ("somebody",), 1: ("ada",)})


def test_a_finished_attempt_is_not_gone_on_from_whoever_asks(root: str) -> None:
    job = begin(root, airflow(1, 3), airflow(2, 4))
    write_resume(job.task, 1, Resume(attempt=1, asked_by=("ada",)))
    commit.commit(commit.attempt_uri(job.task, 1), {}, {})
    assert ancestry_of(job) == Ancestry("clear", (), {1: "attempt 1 has finished"})


@pytest.mark.parametrize("wish", [{"attempt": 2}, {"attempt": 0}, {"attempt": 1, "more": 1}, {}])
def test_a_wish_that_is_none_is_named(root: str, wish: dict[str, Any]) -> None:
    job = begin(root, airflow(1, 3), airflow(2, 4))
    uri = store.join(commit.attempt_uri(job.task, 1), RESUME)
    body = {"schema_version": 1, "asked_by": None, **wish}
    store.write_bytes(uri, str(body).replace("'", '"').replace("None", "null").encode())
    with pytest.raises(CorruptError, match=r"resume\.json"):
        ancestry_of(job)
