"""The hook of the connection type ``ray``: a cluster's Jobs API, with a test of address, token and
certificate.

Its form is described in `provider`. Leaves out: stages, which need
`boig_core.orchestration.stage.operator.RayJobOperator`.
"""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

from airflow.sdk import BaseHook

from boig_core.errors import BoigError
from boig_core.orchestration.jobs.ray_api import CONNECTION, RayCluster, RayJobs


class RayHook(BaseHook):
    """A Ray cluster by its Airflow connection.

    Args:
        ray_conn_id: the connection.
    """

    conn_name_attr: ClassVar[str] = "ray_conn_id"
    default_conn_name: ClassVar[str] = CONNECTION
    conn_type: ClassVar[str] = "ray"
    hook_name: ClassVar[str] = "Ray"

    def __init__(self, ray_conn_id: str = CONNECTION, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.ray_conn_id = ray_conn_id

    def get_conn(self) -> RayJobs:
        """A session with the Jobs API; use with ``async with``."""
        return RayCluster.of_connection(self.get_connection(self.ray_conn_id)).connect()

    def test_connection(self) -> tuple[bool, str]:
        """Whether the Jobs API answers, for the button in Airflow's connection form."""

        async def listed() -> int:
            async with self.get_conn() as jobs:
                return len(await jobs.jobs())

        try:
            return True, f"Ray answers; it knows {asyncio.run(listed())} jobs"
        except BoigError as exc:
            return False, str(exc)
