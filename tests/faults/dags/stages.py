"""DAGs of one stage each: `deferred` waits for its Ray job in the triggerer, `waiting` in the
worker; `training` is a real stage, which holds at its checkpoint after step 10 of 12 (see
`stand_in`)."""

import os
from datetime import timedelta

from airflow.sdk import DAG

from boig_core.orchestration.stage.operator import RayJobOperator

STORE = os.environ["BOIG_STORE"]

for name, stage, deferrable in (
    ("deferred", "ingest", True),
    ("waiting", "ingest", False),
    ("training", "finetune_sd", True),
):
    with DAG(
        name, schedule=None, max_active_runs=50, max_active_tasks=50, is_paused_upon_creation=False
    ):
        RayJobOperator(
            task_id="stage",
            stage=stage,
            plan={
                "store": STORE,
                "recipe": f"{STORE}/recipe.json",
                "root": name,
                "outputs": {},
                "seconds": {},
            },
            inputs={"dataset": f"{STORE}/datasets/adworld/v1"} if name == "training" else {},
            deferrable=deferrable,
            pool="default_pool",
            retries=3,
            retry_delay=timedelta(seconds=1),
        )
