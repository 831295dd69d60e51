"""Two DAGs of one stage each: `deferred` waits for its Ray job in the triggerer, `waiting` in the worker."""

import os
from datetime import timedelta

from airflow.sdk import DAG

from boig_core.orchestration.operator import RayJobOperator

STORE = os.environ["BOIG_STORE"]

for name, deferrable in {"deferred": True, "waiting": False}.items():
    with DAG(name, schedule=None, max_active_runs=50, max_active_tasks=50, is_paused_upon_creation=False):
        RayJobOperator(
            task_id="stage",
            stage="ingest",
            plan={"store": STORE, "recipe": f"{STORE}/recipe.json", "root": name, "outputs": {}, "seconds": {}},
            inputs={},
            deferrable=deferrable,
            pool="default_pool",
            retries=3,
            retry_delay=timedelta(seconds=1),
        )
