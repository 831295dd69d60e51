"""The links of a task: to its data card in Airflow, to its run in MLflow."""

from __future__ import annotations

import traceback
from pathlib import Path

import pytest
from mlflow import MlflowClient

from boig_core.config import load_recipe
from boig_core.errors import (
    InfrastructureError,
)
from boig_core.observability.metrics import MetricLog, experiment
from boig_core.orchestration.stage.operator import RayJobOperator
from boig_core.orchestration.ui.links import mlflow_page, page_url
from boig_core.storage import commit, manifest
from boig_core.storage.job import Job, Stage, write_job


def a_dataset(root: str, *files: str) -> dict[str, str]:
    """An attempt that committed a dataset of these files, as the trigger's event."""
    attempt, uri = f"{root}/runs/a", f"{root}/datasets/d/v"
    folder = Path(root) / "made"
    folder.mkdir(parents=True)
    for name in files:
        (folder / name).write_text("x")
    lineage = manifest.Lineage(inputs={}, recipe="r", code="c")
    manifest.publish_folder(
        folder, uri, kind="dataset", lineage=lineage, commit=f"{attempt}/{commit.COMMIT}"
    )
    commit.commit(attempt, {"dataset": uri}, {})
    return {
        "attempt": attempt,
        "status": "SUCCEEDED",
        "message": "",
        "job_url": "http://h/#/jobs/j",
    }


def links(operator: RayJobOperator) -> dict[str, str]:
    return {
        link.name: link.get_link(operator, ti_key=None) for link in operator.operator_extra_links
    }


def test_a_task_that_made_a_dataset_links_to_its_card_in_airflow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", "https://airflow.example/team/")
    root = str(tmp_path / "the store")
    operator = RayJobOperator(task_id="ingest", stage="ingest", plan={"store": root}, inputs={})
    assert set(links(operator).values()) == {""}
    operator.execute_complete({}, a_dataset(root, "labels.parquet", "card.html"))
    card = "https://airflow.example/team/boig/datasets/d/v/card.html"
    assert {name: link for name, link in links(operator).items() if link} == {
        "Ray job": "http://h/#/jobs/j",
        "Data card": card,
    }


def test_a_training_links_to_its_run_in_mlflow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.setenv("BOIG_MLFLOW_WEB", "https://me:my-password@mlflow.example/")
    root = str(tmp_path / "store")
    jobs = [
        Job(
            stage=stage,
            recipe=load_recipe("tiny"),
            inputs={},
            store=root,
            root="r",
            task=f"{root}/runs/d/r/{stage}",
            attempt=1,
        )
        for stage in (Stage.DDPO, Stage.REPORT, Stage.FINETUNE_SD)
    ]
    for job in jobs:
        write_job(job)
    log = MetricLog(lambda data: None, experiment=experiment("ddpo"), run=jobs[0].version)
    log.log(0, reward=1.0)
    log.log(1, reward=2.5)
    log.close()
    [run] = MlflowClient().search_runs(
        [MlflowClient().get_experiment_by_name("boig/ddpo").experiment_id]
    )
    rewards = MlflowClient().get_metric_history(run.info.run_id, "reward")
    assert [(reward.step, reward.value) for reward in rewards] == [(0, 1.0), (1, 2.5)]
    page = f"https://mlflow.example/#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}"
    assert [mlflow_page(job.attempt_uri) for job in jobs] == [page, "", ""]
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert mlflow_page(jobs[0].attempt_uri) == ""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:my-password@127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(InfrastructureError, match="MLflow failed") as caught:
        mlflow_page(jobs[0].attempt_uri)
    assert "my-password" not in "".join(traceback.format_exception(caught.value))


def test_an_output_of_another_store_has_no_page() -> None:
    assert page_url("s3://theirs/reports/v", "report.html", "s3://ours") == ""
    assert page_url("s3://ours/a/reports/v 1", "report.html", "s3://ours/a/").endswith(
        "/boig/reports/v%201/report.html"
    )


def test_a_dataset_without_a_card_or_one_that_cannot_be_read_has_no_link_and_is_no_failure(
    tmp_path: Path,
) -> None:
    root = str(tmp_path)
    operator = RayJobOperator(task_id="ingest", stage="ingest", plan={"store": root}, inputs={})
    event = a_dataset(root, "labels.parquet")
    assert operator.execute_complete({}, event)["outputs"] == {"dataset": f"{root}/datasets/d/v"}
    assert links(operator)["Data card"] == ""
    (tmp_path / "datasets/d/v/manifest.json").unlink()
    assert operator.execute_complete({}, event)["outputs"] == {"dataset": f"{root}/datasets/d/v"}
    assert links(operator)["Data card"] == ""


def test_a_task_that_made_no_dataset_has_no_card(tmp_path: Path) -> None:
    operator = RayJobOperator(
        task_id="ddpo", stage="ddpo", plan={"store": str(tmp_path)}, inputs={}
    )
    commit.commit(str(tmp_path / "a"), {"boigsd": str(tmp_path / "s")}, {})
    operator.execute_complete(
        {}, {"attempt": str(tmp_path / "a"), "status": "SUCCEEDED", "message": "", "job_url": ""}
    )
    assert links(operator)["Data card"] == ""
