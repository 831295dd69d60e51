"""A DAG with a deadline, whose second task waits for a word: a file of the run's name."""

import os
import time
from pathlib import Path

from airflow.sdk import DAG, task

from boig_core.orchestration.attempts import run_folder
from boig_core.orchestration.deadlines import deadline

with DAG("late", schedule=None, deadline=deadline(), is_paused_upon_creation=False):

    @task
    def before() -> None:
        pass

    @task
    def stage(run_id: str) -> None:
        while not Path(os.environ["BOIG_FAULTS"], "go", run_folder(run_id)).exists():
            time.sleep(0.1)

    before() >> stage("{{ run_id }}")
