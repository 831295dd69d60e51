"""What another run has made of the same is used, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from airflow.sdk.exceptions import TaskDeferred

from boig_core.config import load_recipe
from boig_core.orchestration.signals import counts
from boig_core.orchestration.stage.attempts import (
    task_uri,
)
from boig_core.orchestration.stage.operator import RayJobOperator
from boig_core.storage import commit
from boig_core.storage.job import Job, Stage
from boig_core.storage.stage import Workspace
from tests.unit.orchestration import test_operator
from tests.unit.orchestration.test_operator import Run

api, run = test_operator.api, test_operator.run


@pytest.fixture
def made(run: Run, tmp_path: Path) -> Job:
    """A baseline that another run has made."""
    task = task_uri(run.root, "boig_sd", "other", "finetune_sd")
    job = Job(
        stage=Stage.FINETUNE_SD,
        recipe=load_recipe("tiny"),
        inputs={"dataset": "/d"},
        store=run.root,
        root="r",
        task=task,
        attempt=1,
    )
    (tmp_path / "folder").mkdir()
    uri = Workspace(job, tmp_path).publish("models/high-kpi", tmp_path / "folder", kind="sd")
    commit.commit(job.attempt_uri, {"high_kpi": uri}, {})
    return job


def test_what_another_run_has_made_of_the_same_is_used(
    run: Run, api: Any, made: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[str] = []
    monkeypatch.setattr(counts, "took", lambda stage, seconds: counted.append(stage))
    mine = RayJobOperator(
        task_id="finetune_sd",
        stage="finetune_sd",
        plan=run.plan,
        inputs={"dataset": "/d"},
        reuse=True,
        retries=3,
    )
    assert mine.execute(run.context(1, 3, "finetune_sd"))["attempt"] == made.attempt_uri
    assert api.posts == []
    assert counted == [], "its seconds were counted in the run that has made it"


@pytest.mark.parametrize(
    ("changed", "limit"),
    [({"reuse": False}, 3), ({"inputs": {"dataset": "/other"}}, 3), ({}, 4)],
    ids=["not asked for", "of something else", "cleared: wanted anew"],
)
def test_the_same_is_made_again_where_it_is_not_the_same_or_wanted_anew(
    run: Run, api: Any, made: Job, changed: dict[str, Any], limit: int
) -> None:
    values = {"plan": run.plan, "inputs": {"dataset": "/d"}, "reuse": True, "retries": 3, **changed}
    with pytest.raises(TaskDeferred):
        RayJobOperator(task_id="finetune_sd", stage="finetune_sd", **values).execute(
            run.context(1, limit, "finetune_sd")
        )
    assert len(api.posts) == 1
