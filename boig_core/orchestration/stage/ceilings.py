"""The policy's ceilings on GPU-hours: what has been used, and whether another stage may start.

Hours are counted as `boig_core.storage.usage` counts them, failed attempts included, and those of
stages that still run up to now. Leaves out: what a stage will use, which nobody knows before it
runs.
"""

from __future__ import annotations

from datetime import UTC, datetime

from boig_core.config import Policy
from boig_core.errors import PolicyError
from boig_core.storage import runs


def require_hours(policy: Policy, root: str, run: str | None = None) -> None:
    """Check that a stage may start.

    Args:
        policy: whose ceilings hold.
        root: of the store.
        run: the run, ``DAG/RUN`` as in the store; None: it has none yet.

    Raises:
        PolicyError: the run or the month has used up its GPU-hours.
    """
    ceilings = policy.ceilings
    if run is not None and ceilings.gpu_hours_per_run is not None:
        _require(policy, "gpu_hours_per_run", _hours(root, run), f"run {run}")
    if ceilings.gpu_hours_per_month is not None:
        now = datetime.now(UTC)
        began = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0).timestamp()
        # By the newest attempt: a run that began in the month before and goes on counts whole.
        of_month = [each for each, newest in runs.newest_runs(root).items() if newest >= began]
        used = sum(_hours(root, each) for each in of_month)
        _require(policy, "gpu_hours_per_month", used, f"{now:%B %Y}")


def _hours(root: str, run: str) -> float:
    return sum(state.gpu_hours or 0.0 for state in runs.run_state(root, run))


def _require(policy: Policy, name: str, used: float, what: str) -> None:
    most = getattr(policy.ceilings, name)
    if used >= most:
        raise PolicyError(
            f"{what}: {used:.2f} GPU-hours used",
            f"reaches {most:g}, the ceiling that {policy.line(f'ceilings.{name}')} sets",
            "nothing more is started; have the operator raise the ceiling, or wait for next month",
        )
