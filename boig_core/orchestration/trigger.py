"""Where version 0.1 had its trigger: Airflow's database still names this path for tasks that wait.

Leaves out: the trigger (see `boig_core.orchestration.jobs.trigger`).
"""

from boig_core.orchestration.jobs.trigger import RayJobTrigger

__all__ = ["RayJobTrigger"]
