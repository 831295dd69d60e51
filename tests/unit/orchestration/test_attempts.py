"""Attempts: the store decides first, a dead attempt is fenced before the next one starts, ids stay the same on every ask."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from boig_core.errors import FencedError, InputError
from boig_core.orchestration.attempts import result, run_folder, submission_id, survey, task_uri
from boig_core.storage import commit, store


@pytest.fixture
def task(tmp_path: Path) -> str:
    return task_uri(str(tmp_path), "boig_llm", "asset_triggered__2026-01-01T00:00:00+00:00_x", "finetune_llm")


def begin(task: str, attempt: int) -> str:
    uri = commit.attempt_uri(task, attempt)
    store.write_bytes(store.join(uri, "job.json"), b"{}")
    return uri


def test_the_first_attempt_is_new(task: str) -> None:
    found = survey(task, lambda _: pytest.fail("Ray was asked for a task that nobody started"))
    assert (found.number, found.state, found.uri) == (1, "new", f"{task}/attempt-1")


def test_a_committed_attempt_is_used_without_asking_ray(task: str) -> None:
    uri = begin(task, 1)
    commit.commit(uri, {"dataset": "x"}, {"seconds": 1.0})
    found = survey(task, lambda _: pytest.fail("Ray was asked"))
    assert (found.number, found.state) == (1, "committed")
    assert result(found.uri) == {"outputs": {"dataset": "x"}, "metrics": {"seconds": 1.0}, "attempt": uri}


def test_a_live_job_is_adopted(task: str) -> None:
    begin(task, 1)
    asked: list[str] = []
    found = survey(task, lambda name: asked.append(name) is None)
    assert (found.number, found.state) == (1, "live")
    assert asked == [submission_id(task, 1)]


def test_a_vanished_job_is_fenced_so_that_it_can_never_commit(task: str) -> None:
    uri = begin(task, 1)
    found = survey(task, lambda _: False)
    assert (found.number, found.state) == (2, "new")
    with pytest.raises(FencedError):
        commit.commit(uri, {"dataset": "late"}, {})
    assert survey(task, lambda _: False).number == 2


def test_a_failed_attempt_is_followed_by_the_next(task: str) -> None:
    commit.write_failure(begin(task, 1), InputError("x", "y", "z"))
    assert survey(task, lambda _: pytest.fail("Ray was asked")).number == 2


def test_a_commit_between_the_two_looks_wins(task: str) -> None:
    uri = begin(task, 1)

    def commits_now(_: str) -> bool:
        commit.commit(uri, {"dataset": "x"}, {})
        return False

    found = survey(task, commits_now)
    assert (found.number, found.state) == (1, "committed")


def test_submission_ids_are_short_safe_stable_and_distinct(task: str) -> None:
    long = task_uri("/s", "boig_experiments", "manual__2026-01-01T00:00:00.000000+00:00" * 4, "finetune_llm", 12)
    ids = [submission_id(task, 1), submission_id(task, 2), submission_id(long, 1), submission_id(task_uri("/t", "a", "b", "c"), 1)]
    assert len(set(ids)) == 4
    assert all(re.fullmatch(r"boig-[a-z0-9-]{1,95}", name) for name in ids)
    assert submission_id(task, 1) == ids[0]
    assert "finetune-llm" in ids[0]


def test_run_ids_become_one_safe_part_of_a_path() -> None:
    assert run_folder("manual_1") == "manual_1"
    assert run_folder("a:b") != run_folder("a+b")
    assert "/" not in run_folder("../../etc")
    assert task_uri("/s", "d", "r", "t", 3) == "/s/runs/d/r/t/3"
