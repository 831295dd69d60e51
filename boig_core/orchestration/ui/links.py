"""The links from a task to its job in Ray's dashboard, to its run in MLflow, and to the pages of
what it made: data card and report.

The pages are shown by Airflow itself (see `web`), so a link needs no other server and asks for no
other login.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote

from airflow.sdk import BaseOperatorLink
from airflow.sdk.configuration import conf

from boig_core import environment
from boig_core.errors import InfrastructureError
from boig_core.observability.logs import IN_ADDRESS, hide_secrets
from boig_core.observability.metrics import experiment
from boig_core.storage import manifest, store
from boig_core.storage.job import Stage, read_job

PREFIX: Final = "/boig"
"""Path below Airflow's address at which the store's pages are."""
REPORT_PAGE: Final = "report.html"
PAGES: Final = {"Data card": ("dataset", manifest.PAGE), "Report": ("report", REPORT_PAGE)}
"""Output and file of each page, by the link's name."""
TRACKED: Final = (Stage.FINETUNE_LLM, Stage.FINETUNE_SD, Stage.DDPO)
"""Stages that log to MLflow."""


class RayJobLink(BaseOperatorLink):
    """Opens the job's page: state, logs, actors, resources."""

    @property
    def name(self) -> str:
        """Label of the button."""
        return "Ray job"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """URL of the job that the operator has just used; empty when a committed result was found
        and no job ran."""
        return str(getattr(operator, "job_url", ""))


class DataCardLink(BaseOperatorLink):
    """Opens the page that says what is in a dataset."""

    @property
    def name(self) -> str:
        """Label of the button."""
        return "Data card"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """Address of the card of the dataset that the task has just committed; empty for a task
        that made none."""
        return str(getattr(operator, "pages", {}).get(self.name, ""))


class ReportLink(BaseOperatorLink):
    """Opens the report of a run: numbers, images side by side, what it was made from."""

    @property
    def name(self) -> str:
        """Label of the button."""
        return "Report"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """Address of the report that the task has made or asks about; empty for a task without."""
        return str(getattr(operator, "pages", {}).get(self.name, ""))


class MlflowRunLink(BaseOperatorLink):
    """Opens the curves of a training in MLflow."""

    @property
    def name(self) -> str:
        """Label of the button."""
        return "MLflow run"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """Address of the run that the stage has logged to; empty for a stage that trains nothing,
        and without MLflow."""
        return str(getattr(operator, "pages", {}).get(self.name, ""))


def result_pages(result: Mapping[str, Any], root: str) -> dict[str, str]:
    """Addresses in Airflow of the pages that a committed result comes with, by the link's name.

    Args:
        result: ``{"outputs", "metrics", "attempt"}``.
        root: URI of the store.

    Raises:
        BoigError: an output cannot be read.
    """
    pages = {}
    for name, (output, file) in PAGES.items():
        uri = result["outputs"].get(output)
        if uri is not None and manifest.find_file(uri, file) is not None:
            pages[name] = page_url(uri, file, root)
    if curves := mlflow_page(result["attempt"]):
        pages[MlflowRunLink().name] = curves
    return pages


def mlflow_page(attempt: str) -> str:
    """Address of the MLflow run of an attempt, which is named as the attempt's outputs are; empty
    without one.

    ``BOIG_MLFLOW_WEB`` is where people see MLflow in a browser, if that is another address than
    ``MLFLOW_TRACKING_URI``.

    Raises:
        InfrastructureError: MLflow does not answer.
        InputError: the attempt's job cannot be read.
    """
    server = os.environ.get("MLFLOW_TRACKING_URI", "")
    # A browser asks for a login, a link is for everyone.
    web = IN_ADDRESS.sub("", environment.MLFLOW_WEB.read() or server)
    # A tracking address may be a file or a database, which no browser opens.
    if not server or not web.startswith(("http://", "https://")):
        return ""
    job = read_job(store.join(attempt, "job.json"))
    if job.stage not in TRACKED:
        return ""
    # A task whose work is done waits seconds for its link, not the minutes of MLflow's own
    # patience; the process ends with the task.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    try:
        client = MlflowClient()
        kept = client.get_experiment_by_name(experiment(job.stage))
        runs = (
            client.search_runs(
                [kept.experiment_id], f"attributes.run_name = '{job.version}'", max_results=1
            )
            if kept
            else []
        )
    except MlflowException as exc:  # says the whole address, as would a cause in a traceback
        raise InfrastructureError(
            hide_secrets(server),
            hide_secrets(f"MLflow failed ({exc})"),
            "check the server and its log",
        ) from None
    return (
        f"{web.rstrip('/')}/#/experiments/{runs[0].info.experiment_id}/runs/{runs[0].info.run_id}"
        if runs
        else ""
    )


def page_url(output: str, file: str, root: str) -> str:
    """Address in Airflow of a page of an output of the store; empty for an output of another store,
    which Airflow does not show."""
    output, root = store.normalize(output), store.normalize(root)
    if not output.startswith(f"{root}/"):
        return ""
    base = str(conf.get("api", "base_url", fallback="") or "").rstrip("/")
    return f"{base}{PREFIX}/{quote(store.join(output, file).removeprefix(f'{root}/'))}"
