"""An operator as a DAG file makes it."""

from __future__ import annotations

import pytest

from boig_core.orchestration.stage.operator import RayJobOperator


@pytest.fixture
def operator() -> RayJobOperator:
    return RayJobOperator(task_id="ingest", stage="ingest", plan={"store": "/store"}, inputs={})
