"""The link from a task to its job in Ray's dashboard."""

from __future__ import annotations

from typing import Any

from airflow.sdk import BaseOperatorLink


class RayJobLink(BaseOperatorLink):
    """Opens the job's page: state, logs, actors, resources."""

    @property
    def name(self) -> str:
        """Label of the button."""
        return "Ray job"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """URL of the job that the operator has just used; empty when a committed result was found and no job ran."""
        return str(getattr(operator, "job_url", ""))
