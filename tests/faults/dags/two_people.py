"""Airflow's DAG `boig_promote` as it is, with a registry that answers: the installation's own
address of MLflow is a planted secret, at which nothing listens."""

import os

os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{os.environ['AIRFLOW_HOME']}/mlflow.db"

from dags.boig_promote import dag  # after the address, which a task's process reads

__all__ = ["dag"]
