"""Airflow's masker is told the secrets of this environment, so that no task log shows them,
whatever a library puts into its errors.

Leaves out: the copy that the LocalExecutor prints beside the scheduler's output, which passes no
masker, and logs of stages; what boig itself says there goes through
`boig_core.observability.logs.hide_secrets`.
"""

from __future__ import annotations

from typing import Any

from airflow.sdk.log import mask_secret

from boig_core.observability.logs import secret_values


def hide_environment(context: Any) -> None:
    """Runs in a task's process just before the task does, as ``on_execute_callback``."""
    for value, _ in secret_values():
        mask_secret(value)
