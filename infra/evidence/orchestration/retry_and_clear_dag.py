"""The DAGs that `retry_and_clear` clicks on: one for each training, which is its one task."""

import json
import os
from datetime import timedelta
from pathlib import Path

from airflow.sdk import DAG

from boig_core.orchestration.stage.operator import RayJobOperator

STORE = os.environ["BOIG_STORE"]
INPUTS = json.loads((Path(STORE) / "inputs.json").read_text())

for kind, inputs in INPUTS.items():
    with DAG(kind, schedule=None, is_paused_upon_creation=False):
        RayJobOperator(
            task_id="stage",
            stage=kind,
            plan={
                "store": STORE,
                "recipe": f"{STORE}/recipe.json",
                "root": kind,
                "outputs": {},
                "seconds": {},
            },
            inputs=inputs,
            pool="default_pool",
            retries=3,
            retry_delay=timedelta(seconds=1),
        )
