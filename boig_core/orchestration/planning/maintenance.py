"""The task of the maintenance DAG: what nothing refers to any more is listed, or removed.

Leaves out: what that is (see `storage.retention`).
"""

from __future__ import annotations

from typing import Any

from airflow.sdk import task

from boig_core.escapes import visible
from boig_core.orchestration.promotion import registry
from boig_core.orchestration.roots import store_root


@task(
    task_id="clean",
    doc_md="Lists what no manifest, promoted model or recent run refers to; removes it when `apply` is set.",
)
def clean_task(**context: Any) -> dict[str, Any]:
    """Returns ``{"files", "bytes", "removed"}``."""
    from boig_core.storage import retention

    params = context["params"]
    garbage = (retention.clean if params["apply"] else retention.find_garbage)(
        store_root(), registry.promoted(), params["days"]
    )
    print(visible("\n".join(retention.summary(garbage))))
    return {
        "files": sum(len(each.files) for each in garbage),
        "bytes": sum(each.bytes for each in garbage),
        "removed": params["apply"],
    }
