"""Attempts: the store decides first, a dead attempt is fenced before the next one starts, ids stay
the same on every ask."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from boig_core.config import load_recipe
from boig_core.errors import ClusterError, FencedError, InputError
from boig_core.orchestration.stage.attempts import (
    find_reusable_attempt,
    result,
    run_folder,
    submission_id,
    survey,
    task_uri,
)
from boig_core.storage import commit, manifest, store
from boig_core.storage.job import Job, Stage, TaskTry
from boig_core.storage.manifest import WentOnFrom
from boig_core.storage.stage import Workspace

FIRST = TaskTry(run_after="2026-01-01T00:00:00+00:00", number=1, limit=2)
RETRY = FIRST.model_copy(update={"number": 2})


@pytest.fixture
def task(tmp_path: Path) -> str:
    return task_uri(
        str(tmp_path), "boig_llm", "asset_triggered__2026-01-01T00:00:00+00:00_x", "finetune_llm"
    )


def begin(task: str, attempt: int, by: TaskTry | None = FIRST) -> str:
    uri = commit.attempt_uri(task, attempt)
    store.write_bytes(
        store.join(uri, "job.json"), json.dumps({"started_by": by and by.model_dump()}).encode()
    )
    return uri


def never(name: str) -> bool:
    pytest.fail(f"Ray was asked about {name}")


def test_the_first_attempt_is_new(task: str) -> None:
    result = survey(task, FIRST, never, never)
    assert (result.number, result.state, result.uri) == (1, "new", f"{task}/attempt-1")


def test_a_committed_attempt_is_used_without_asking_ray(task: str) -> None:
    uri = begin(task, 1)
    commit.commit(uri, {"dataset": f"{task}-x"}, {"seconds": 1.0})
    outcome = survey(task, RETRY, never, never)
    assert (outcome.number, outcome.state) == (1, "committed")
    assert result(outcome.uri) == {
        "outputs": {"dataset": f"{task}-x"},
        "metrics": {"seconds": 1.0},
        "attempt": uri,
    }


def test_a_live_job_is_adopted(task: str) -> None:
    begin(task, 1)
    asked: list[str] = []
    result = survey(task, RETRY, lambda name: asked.append(name) is None, never)
    assert (result.number, result.state) == (1, "live")
    assert asked == [submission_id(task, 1)]


def test_a_vanished_job_is_fenced_so_that_it_can_never_commit(task: str) -> None:
    uri = begin(task, 1)
    result = survey(task, RETRY, lambda _: False, never)
    assert (result.number, result.state) == (2, "new")
    with pytest.raises(FencedError):
        commit.commit(uri, {"dataset": f"{task}-late"}, {})
    assert survey(task, RETRY, lambda _: False, never).number == 2


def test_a_failed_attempt_is_followed_by_the_next(task: str) -> None:
    commit.write_failure(begin(task, 1), InputError("x", "y", "z"))
    assert survey(task, RETRY, never, never).number == 2


def test_a_commit_between_the_two_looks_wins(task: str) -> None:
    uri = begin(task, 1)

    def commits_now(_: str) -> bool:
        commit.commit(uri, {"dataset": f"{task}-x"}, {})
        return False

    result = survey(task, RETRY, commits_now, never)
    assert (result.number, result.state) == (1, "committed")


@pytest.mark.parametrize("fate", ["open", "failed", "committed"])
@pytest.mark.parametrize(
    "cleared",
    [
        FIRST.model_copy(update={"number": 2, "limit": 3}),
        FIRST.model_copy(
            update={"number": 2, "limit": 1}
        ),  # cleared onto a version of the DAG with fewer retries
        FIRST.model_copy(
            update={"run_after": "2026-01-02T00:00:00+00:00"}
        ),  # the run was deleted, and made anew under its name
    ],
)
def test_work_that_is_wanted_anew_stops_the_old_job_before_it_fences_it(
    task: str, cleared: TaskTry, fate: str
) -> None:
    uri = begin(task, 1)
    if fate == "failed":
        commit.write_failure(uri, InputError("x", "y", "z"))
    if fate == "committed":
        commit.commit(uri, {"dataset": f"{task}-x"}, {})
    stopped: list[str] = []

    def stop(name: str) -> None:
        assert commit.fate(uri) == fate
        stopped.append(name)

    result = survey(task, cleared, never, stop)
    assert (result.number, result.state) == (2, "new")
    assert stopped == [submission_id(task, 1)]
    assert commit.fate(uri) == ("committed" if fate == "committed" else "fenced")


def test_a_job_that_cannot_be_stopped_is_not_followed_by_another(task: str) -> None:
    uri = begin(task, 1)

    def stop(name: str) -> None:
        raise ClusterError(name, "still RUNNING", "stop it")

    with pytest.raises(ClusterError):
        survey(task, FIRST.model_copy(update={"number": 2, "limit": 3}), never, stop)
    assert commit.fate(uri) == "open"


@pytest.mark.parametrize(
    "by", [FIRST, RETRY, FIRST.model_copy(update={"number": 3, "limit": 4}), None]
)
def test_a_try_that_was_frozen_and_wakes_late_stops_nothing(task: str, by: TaskTry | None) -> None:
    begin(task, 1, by)
    assert survey(task, FIRST, lambda _: True, never).state == "live"


def test_submission_ids_are_short_safe_stable_and_distinct(task: str) -> None:
    long = task_uri(
        "/s", "boig_experiments", "manual__2026-01-01T00:00:00.000000+00:00" * 4, "finetune_llm", 12
    )
    ids = [
        submission_id(task, 1),
        submission_id(task, 2),
        submission_id(long, 1),
        submission_id(task_uri("/t", "a", "b", "c"), 1),
    ]
    assert len(set(ids)) == 4
    assert all(re.fullmatch(r"boig-[a-z0-9-]{1,95}", name) for name in ids)
    assert submission_id(task, 1) == ids[0]
    assert "finetune-llm" in ids[0]


def test_run_ids_become_one_safe_part_of_a_path() -> None:
    assert run_folder("manual_1") == "manual_1"
    assert run_folder("a:b") != run_folder("a+b")
    assert "/" not in run_folder("../../etc")
    assert task_uri("/s", "d", "r", "t", 3) == "/s/runs/d/r/t/3"


@pytest.mark.parametrize(("version", "used"), [(manifest.code_version(), True), ("0.0", False)])
def test_what_another_version_has_begun_is_not_the_same_work(
    tmp_path: Path, version: str, used: bool
) -> None:
    """After `boig resume` the lineage's version has done a part alone."""
    job = Job(
        stage=Stage.FINETUNE_SD,
        recipe=load_recipe("tiny"),
        inputs={"dataset": "/d"},
        store=str(tmp_path),
        root="r",
        task=task_uri(str(tmp_path), "boig_sd", "one", "finetune_sd"),
        attempt=1,
    )
    (tmp_path / "folder").mkdir()
    hop = WentOnFrom(checkpoint="c", step=1, recipe="r", code=version)
    uri = Workspace(job, tmp_path).publish(
        "models/high-kpi", tmp_path / "folder", kind="sd", went_on_from=(hop,)
    )
    commit.commit(job.attempt_uri, {"high_kpi": uri}, {})
    assert find_reusable_attempt(job) == (job.attempt_uri if used else None)
