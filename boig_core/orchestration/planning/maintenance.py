"""The task of the maintenance DAG: what nothing refers to is listed, or put into the trash.

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
    doc_md="Lists what no manifest, promoted model or recent run refers to; moves it to the trash when `apply` is set.",
)
def clean_task(**context: Any) -> dict[str, Any]:
    """Returns ``{"files", "bytes", "removed", "foreign"}``; the last one counts files that are not
    boig's."""
    from boig_core.storage import retention

    params = context["params"]
    result = (retention.clean if params["apply"] else retention.survey)(
        store_root(), registry.promoted(), params["days"]
    )
    print(visible("\n".join(retention.summary(result))))
    return {
        "files": sum(len(each.files) for each in result.garbage),
        "bytes": sum(each.bytes for each in result.garbage),
        "removed": params["apply"],
        "foreign": len(result.foreign),
    }
