"""What happens when a task has failed for good: one readable line in the log, and at ``BOIG_ALERT_URL`` when it is set.

Leaves out: retries, and anything that could fail a task: an alert that cannot be sent is logged.
"""

from __future__ import annotations

import json
import os
import urllib.request
from typing import Any

from boig_core.observability.logs import get_logger

log = get_logger(__name__)


def describe_failure(context: Any) -> str:
    """One line on a failed task: DAG, run, task, and the error."""
    ti = context["ti"]
    error = " ".join(str(context.get("exception") or "no exception was recorded").split())
    return f"{ti.dag_id} / {ti.run_id} / {ti.task_id} failed: {error}"


def on_failure(context: Any) -> None:
    """Log a failure, and post ``{"text": line}`` to ``BOIG_ALERT_URL`` (Slack, Mattermost and Teams take that)."""
    line = describe_failure(context)
    log.info("::endgroup::")  # Airflow's page folds up what callbacks log; this line is to be seen without a click
    log.error(line)
    url = os.environ.get("BOIG_ALERT_URL", "")
    if not url.startswith(("http://", "https://")):
        return
    request = urllib.request.Request(url, json.dumps({"text": line}).encode(), {"Content-Type": "application/json"})
    try:
        urllib.request.urlopen(request, timeout=10).close()
    except OSError as exc:
        log.warning("the alert could not be sent: %s", exc)
