"""Where version 0.1 had what tells of a late run: Airflow's database still names this path.

Leaves out: deadlines (see `boig_core.orchestration.signals.deadlines`).
"""

from boig_core.orchestration.signals.deadlines import on_late_run

__all__ = ["on_late_run"]
