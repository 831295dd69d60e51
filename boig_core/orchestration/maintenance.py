"""The task of the maintenance DAG: what nothing refers to any more is listed, or removed.

Leaves out: what that is (see `storage.retention`).
"""

from __future__ import annotations

import os
from typing import Any

from airflow.sdk import task
from airflow.sdk.exceptions import AirflowFailException

from boig_core.errors import InputError, UserError
from boig_core.orchestration import registry


@task(task_id="clean", doc_md="Lists what no manifest, promoted model or recent run refers to; removes it when `apply` is set.")
def clean_task(**context: Any) -> dict[str, Any]:
    """Returns ``{"files", "bytes", "removed"}``."""
    from boig_core.storage import retention

    params = context["params"]
    try:
        root = os.environ.get("BOIG_STORE")
        if not root:
            raise InputError("BOIG_STORE", "is not set", "set it to s3://BUCKET/PREFIX or a folder")
        found = (retention.clean if params["apply"] else retention.find_garbage)(root, registry.promoted(), params["days"])
    except UserError as exc:
        raise AirflowFailException(str(exc)) from exc
    print("\n".join(retention.summary(found)))
    return {"files": sum(len(each.files) for each in found), "bytes": sum(each.bytes for each in found), "removed": params["apply"]}
