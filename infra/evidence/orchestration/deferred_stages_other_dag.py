"""The DAG that `deferred_stages` holds against boig's: the same stages by astro-provider-ray.

In a file of its own, since each task reads its DAG's file anew, and this one imports ray and
kubernetes.
"""

from __future__ import annotations

import os

from airflow.sdk import DAG
from ray_provider.operators import SubmitRayJob

with DAG("astro-provider-ray", schedule=None, is_paused_upon_creation=False, max_active_tasks=1000):
    for number in range(int(os.environ["BOIG_STAGES"])):
        SubmitRayJob(
            task_id=f"stage-{number:03}",
            conn_id="ray_other",
            entrypoint=f"echo stage-{number:03}",
            runtime_env={},
            poll_interval=1,
            job_timeout_seconds=0,  # the stages take longer than its ten minutes
        )
