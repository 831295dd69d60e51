"""Ceilings on GPU-hours: what was used decides whether another stage starts."""

from __future__ import annotations

import pytest

from boig_core.config import Policy
from boig_core.errors import PolicyError
from boig_core.orchestration.stage.ceilings import require_hours
from boig_core.storage import commit
from tests.unit.storage.test_runs import with_gpus

RUN = "boig_sd/manual-8"


def test_a_run_and_a_month_end_at_their_ceilings(tmp_path: object) -> None:
    root = str(tmp_path)
    # 4 GPUs for 900 s are one GPU-hour, and a lost attempt was paid for like another.
    for run in (RUN, "boig_sd/manual-9"):
        commit.fence(with_gpus(root, run, "ddpo", 1).attempt_uri)
        commit.commit(with_gpus(root, run, "ddpo", 2).attempt_uri, {}, {"seconds": 900.0})
    require_hours(Policy(), root, RUN)
    require_hours(Policy(ceilings={"gpu_hours_per_run": 1.1}), root, RUN)
    require_hours(Policy(ceilings={"gpu_hours_per_month": 2.1}), root)
    with pytest.raises(PolicyError, match=r"run boig_sd/manual-8: 1\.0\d GPU-hours used"):
        require_hours(Policy(ceilings={"gpu_hours_per_run": 1.0}), root, RUN)
    with pytest.raises(PolicyError, match=r"2\.0\d GPU-hours used: reaches 2, the ceiling"):
        require_hours(Policy(ceilings={"gpu_hours_per_month": 2.0}), root)
    require_hours(Policy(ceilings={"gpu_hours_per_run": 1.0}), root)
