"""``boig resume``: a person's word that the next attempt may go on after a clear."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from boig_core.storage import commit
from boig_core.storage.ancestry import ancestry_of, read_resume
from boig_core.storage.job import Job, Stage, TaskTry, write_job
from boig_core.training.checkpoint import Checkpoints
from tests.unit.cli.test_cli import boig
from tests.unit.training.test_checkpoint import Number
from tests.unit.training.test_going_on import job_of, work_of_job


def attempt(root: Path, number: int, *steps: int, names: tuple[str, ...] = ("",)) -> Job:
    """An attempt of a training after a clear, with complete checkpoints."""
    job = job_of(root, number, limit=number + 3)
    for name in names:
        points = Checkpoints.of_job(job, name)
        points.restore(Number(), work_of_job(job))
        for step in steps:
            points.save(Number(step), step)
        points.wait()
    return job


def resume(root: Path, *more: str) -> tuple[int, str, str]:
    done = boig("resume", "boig_sd/one", "finetune_sd", "--store", str(root), *more, cwd=root)
    return done.returncode, done.stdout, done.stderr


def test_the_next_attempt_goes_on_from_the_newest_with_a_checkpoint(tmp_path: Path) -> None:
    attempt(tmp_path, 1, 100, 200)
    job = attempt(tmp_path, 2)
    code, shown, _ = resume(tmp_path)
    line = "after attempt 2, finetune_sd goes on from attempt 1 (step 200): clear the task now"
    assert (code, " ".join(shown.split())) == (0, line)
    wish = read_resume(job.task, 2)
    assert wish is not None
    assert wish.attempt == 1
    next_job = attempt(tmp_path, 3)
    points, number = Checkpoints.of_job(next_job), Number()
    assert points.restore(number, work_of_job(next_job)) is not None
    assert number.value == 200
    [hop] = points.went_on_from
    assert hop.asked_by == wish.asked_by
    assert ancestry_of(attempt(tmp_path, 4)).attempts == (), "one wish is for one clear"


def test_it_says_each_model_of_a_stage_and_json(tmp_path: Path) -> None:
    attempt(tmp_path, 1, 100, names=("boigllm", "no_kpi"))
    code, shown, _ = resume(tmp_path)
    assert code == 0
    assert "attempt 1 (boigllm step 100, no_kpi step 100)" in " ".join(shown.split())
    code, shown, _ = resume(tmp_path, "--json")
    assert json.loads(shown) | {"asked_by": None} == {
        "run": "boig_sd/one",
        "stage": "finetune_sd",
        "schema_version": 1,
        "attempt": 1,
        "asked_by": None,
    }


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--attempt", "2"], "attempt-2: has no complete checkpoint to go on from"),
        (["--attempt", "3"], "attempt-3: has finished, so nothing is left"),
        (["--attempt", "7"], "--attempt 7: is not there for finetune_sd"),
    ],
)
def test_what_cannot_be_gone_on_from_is_refused(tmp_path: Path, more: list[str], told: str) -> None:
    attempt(tmp_path, 1, 100)
    attempt(tmp_path, 2)
    commit.commit(attempt(tmp_path, 3, 50).attempt_uri, {}, {})
    code, _, error = resume(tmp_path, *more)
    assert code == 2
    assert told in error
    assert not list(tmp_path.rglob("resume.json"))


def test_a_stage_that_has_not_begun_is_refused(tmp_path: Path) -> None:
    job = job_of(tmp_path, 1).model_copy(update={"stage": Stage.DDPO})
    write_job(job.model_copy(update={"started_by": TaskTry(run_after="n", number=1, limit=3)}))
    done = boig("resume", "latest", "ddpo", "--store", str(tmp_path), cwd=tmp_path)
    assert done.returncode == 2
    assert "stage 'ddpo': has not begun in boig_sd/one" in done.stderr
