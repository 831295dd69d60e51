"""Which checkpoint an attempt goes on from, what its log's head says of it, and what is refused."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from boig_core.config import load_recipe
from boig_core.errors import InputError
from boig_core.storage import manifest
from boig_core.storage.job import Job, Stage, TaskTry, write_job
from boig_core.storage.manifest import WentOnFrom, code_version
from boig_core.training.beginning import Point, where_it_begins
from boig_core.training.checkpoint import Checkpoints
from boig_core.training.work import Work, work_of
from tests.unit.training.test_checkpoint import Number


def job_of(store_root: Path, attempt: int, limit: int | None = None) -> Job:
    """An attempt at a training; with a limit of tries, which a clear raises, one of Airflow's."""
    started = TaskTry(run_after="noon", number=attempt, limit=limit) if limit else None
    job = Job(
        stage=Stage.FINETUNE_SD,
        recipe=load_recipe("tiny"),
        inputs={"dataset": "/store/datasets/posts/one"},
        store=str(store_root),
        root="boig_sd/one",
        task=str(store_root / "runs" / "boig_sd" / "one" / "finetune_sd"),
        attempt=attempt,
        started_by=started,
    )
    write_job(job)
    return job


def work_of_job(job: Job) -> Work:
    return work_of(job.stage, job.recipe, lambda: "")


def trained(job: Job, step: int = 100) -> str:
    """The checkpoint that a job's attempt has left, of the number of its steps."""
    points, number = Checkpoints.of_job(job), Number()
    points.restore(number, work_of_job(job))
    uri = points.save(Number(step), step)
    points.wait()
    return uri


@pytest.mark.parametrize(
    ("change", "goes_on"),
    [
        ({}, True),
        ({"recipe": load_recipe("tiny", ["sd.zero_stage=1", "resources.cpus=2"])}, True),
        ({"recipe": load_recipe("tiny", ["sd.lr=1"])}, False),
        ({"inputs": {"dataset": "/store/datasets/posts/two"}}, False),
    ],
)
def test_what_a_job_goes_on_from(
    tmp_path: Path, change: dict[str, object], goes_on: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    first = job_of(tmp_path, 1)
    uri = trained(first)
    second = first.model_copy(update={"attempt": 2, **change})
    points = Checkpoints.of_job(second)
    assert (points.restore(Number(), work_of_job(second)) is not None) == goes_on
    [*_, head, begins] = caplog.messages
    assert head == (
        f"finetune_sd: attempt 2 (run again) · dataset {second.inputs['dataset']}"
        " · base package:tiny-sd"
    )
    if goes_on:
        assert begins == f"finetune_sd: goes on from {uri}, step 100"
        assert points.went_on_from == (
            WentOnFrom(
                checkpoint="runs/boig_sd/one/finetune_sd/attempt-1/checkpoints/step-000100",
                step=100,
                recipe=first.recipe.digest(),
                code=code_version(),
            ),
        )
    else:
        assert begins.startswith(
            "finetune_sd: trains from the start: 1 checkpoint of attempt 1 passed over: "
        )
        assert begins.endswith((" and is 1.0", "posts/one and is /store/datasets/posts/two"))
        assert points.went_on_from == ()


def test_a_retry_by_another_version_begins_anew_and_names_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    job = job_of(tmp_path, 1)
    for version, attempt, goes_on in (("1.0", 1, False), ("1.1", 2, False), ("1.1", 3, True)):
        monkeypatch.setattr(manifest, "version", lambda _, version=version: version)
        points = Checkpoints.of_job(job.model_copy(update={"attempt": attempt}))
        assert (points.restore(Number(), work_of_job(job)) is not None) == goes_on
        points.save(Number(attempt), 100 * attempt)
        points.wait()
    assert (
        "attempt 1 passed over: is of another recipe, input or version: boig was 1.0" in caplog.text
    )


def test_a_worker_that_starts_again_goes_on_from_its_attempts_own_checkpoint(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A cleared attempt reads no older one, and what it has itself gone on from stays known."""
    caplog.set_level(logging.INFO)
    first, cleared = job_of(tmp_path, 1, limit=3), job_of(tmp_path, 2, limit=4)
    trained(first, step=300)
    trained(cleared, step=100)
    number = Number()
    again = Checkpoints.of_job(cleared)
    assert again.restore(number, work_of_job(cleared)) is not None
    assert (number.value, again.went_on_from) == (100, ())
    assert "attempt 2 (after a clear) · dataset" in caplog.text
    assert "step 100; 1 checkpoint of attempt 1 passed over: the task was cleared" in caplog.text
    retried = job_of(tmp_path, 3, limit=4)
    trained(retried, step=200)
    restarted = Checkpoints.of_job(retried)
    assert restarted.restore(number, work_of_job(retried)) is not None
    assert [hop.step for hop in restarted.went_on_from] == [100]


@pytest.mark.parametrize(
    "change", ["sd.lr=1", "sd.batch=4", "sd.steps=7", "seed=1", "sd.min_snr=1"]
)
def test_in_its_own_folder_a_training_of_other_work_is_refused(tmp_path: Path, change: str) -> None:
    tiny, other = load_recipe("tiny"), load_recipe("tiny", [change])
    points = Checkpoints(str(tmp_path), 1)
    assert points.restore(Number(), work_of(Stage.FINETUNE_SD, tiny, lambda: "data")) is None
    points.save(Number(10), 100)
    points.wait()
    again = Checkpoints(str(tmp_path), 1)
    name = change.split("=")[0]
    with pytest.raises(InputError, match=rf"{name} was .* and is .*; set that back, or train into"):
        again.restore(Number(), work_of(Stage.FINETUNE_SD, other, lambda: "data"))
    with pytest.raises(InputError, match="data was data and is others"):
        again.restore(Number(), work_of(Stage.FINETUNE_SD, tiny, lambda: "others"))
    moved = load_recipe("tiny", ["sd.workers=2", "sd.checkpoint_every=3"])
    assert again.restore(Number(), work_of(Stage.FINETUNE_SD, moved, lambda: "data")) is not None


def test_attempts_that_are_passed_over_for_one_reason_stand_in_one_note() -> None:
    line = where_it_begins(None, [(3, "a"), (2, "b"), (1, "b"), (1, "b")])
    assert line == (
        "trains from the start: 1 checkpoint of attempt 3 passed over: a;"
        " 3 checkpoints of attempts 1, 2 passed over: b"
    )
    assert where_it_begins(None, []) == "trains from the start: there is no checkpoint"
    assert where_it_begins(Point(1, 7, "uri"), []) == "goes on from uri, step 7"
