"""The links from a task to its job in Ray's dashboard and to the data card of the dataset that it made."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from airflow.sdk import BaseOperatorLink

from boig_core.storage import manifest, store


class RayJobLink(BaseOperatorLink):
    """Opens the job's page: state, logs, actors, resources."""

    @property
    def name(self) -> str:
        """Label of the button."""
        return "Ray job"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """URL of the job that the operator has just used; empty when a committed result was found and no job ran."""
        return str(getattr(operator, "job_url", ""))


class DataCardLink(BaseOperatorLink):
    """Opens the page that says what is in a dataset."""

    @property
    def name(self) -> str:
        """Label of the button."""
        return "Data card"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """Address of the card of the dataset that the task has just committed; empty for a task that made none."""
        return str(getattr(operator, "card_url", ""))


def card_page(dataset: str, root: str) -> str:
    """Address of the card of a dataset; empty for one without.

    ``BOIG_STORE_WEB`` is where people see the store in a browser, if they do; else the address is a ``file:`` or ``s3:`` one.

    Args:
        dataset: its URI.
        root: URI of the store.

    Raises:
        BoigError: the dataset cannot be read.
    """
    uri = manifest.find_file(dataset, manifest.PAGE)
    web, root = os.environ.get("BOIG_STORE_WEB", ""), store.normalize(root)
    if uri is None:
        return ""
    uri = store.normalize(uri)
    if web and uri.startswith(f"{root}/"):
        return store.join(web, uri.removeprefix(root))
    return uri if store.is_s3(uri) else Path(uri).as_uri()
