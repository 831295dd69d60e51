"""A DAG with a deadline, whose second task waits for a word: a file of the run's name."""

import os
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, task

from boig_core import environment
from boig_core.orchestration.signals.deadlines import deadline
from boig_core.orchestration.stage.attempts import run_folder

os.environ[environment.DEADLINE_H.name] = "0.001"

tries = {"retries": 3, "retry_delay": timedelta(seconds=1)}

with DAG(
    "late", schedule=None, deadline=deadline(), is_paused_upon_creation=False, default_args=tries
):

    @task
    def before() -> None:
        pass

    @task
    def stage(**context: Any) -> None:
        while not Path(os.environ["BOIG_FAULTS"], "go", run_folder(context["run_id"])).exists():
            time.sleep(0.1)

    before() >> stage()
