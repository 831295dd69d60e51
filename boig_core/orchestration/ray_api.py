"""Ray's Jobs REST API over aiohttp, so that Airflow needs neither ray nor a blocked event loop.

Leaves out: which job to submit and what its end means (see `attempts` and `operator`). The address comes from ``RAY_API_ADDRESS`` or an
Airflow connection, the token from ``RAY_AUTH_TOKEN``; a token never enters a job, an entry point or a trigger's arguments.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from types import TracebackType
from typing import Any
from urllib.parse import quote

import aiohttp

from boig_core.errors import ClusterError

DEFAULT_ADDRESS = "http://127.0.0.1:8265"
LIVE = frozenset({"PENDING", "RUNNING"})


@dataclass(frozen=True)
class JobInfo:
    """What Ray says of a job: ``status`` is PENDING, RUNNING, STOPPED, SUCCEEDED or FAILED."""

    status: str
    message: str

    @property
    def live(self) -> bool:
        """Whether the job may still do something."""
        return self.status in LIVE


class RayJobs:
    """A session with one cluster's Jobs API; use with ``async with``.

    Args:
        address: such as ``http://ray-head:8265``.
        timeout_s: longest wait for one answer, in seconds.
    """

    def __init__(self, address: str, timeout_s: float = 30.0) -> None:
        self.address = address.rstrip("/")
        token = os.environ.get("RAY_AUTH_TOKEN")
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> RayJobs:
        self._session = aiohttp.ClientSession(timeout=self._timeout, headers=self._headers)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None) -> None:
        if self._session is not None:
            await self._session.close()

    async def submit(self, submission_id: str, entrypoint: str, metadata: dict[str, str]) -> None:
        """Start a job under an id of the caller's. After a failed post, whether Ray knows the id decides: it answers a duplicate with 500.

        Raises:
            ClusterError: the job did not start.
        """
        body = {"submission_id": submission_id, "entrypoint": entrypoint, "metadata": metadata, "entrypoint_num_cpus": 0}
        try:
            await self._call("POST", "/api/jobs/", body)
        except ClusterError:
            if await self.info(submission_id) is None:
                raise

    async def info(self, submission_id: str) -> JobInfo | None:
        """State of a job; None when Ray does not know it (never submitted, or the head has restarted)."""
        answer = await self._call("GET", f"/api/jobs/{quote(submission_id)}", missing_ok=True)
        return None if answer is None else JobInfo(str(answer["status"]), str(answer.get("message") or ""))

    async def logs(self, submission_id: str) -> str:
        """Everything the job has printed so far; empty when Ray does not know it."""
        answer = await self._call("GET", f"/api/jobs/{quote(submission_id)}/logs", missing_ok=True)
        return "" if answer is None else str(answer.get("logs") or "")

    async def stop(self, submission_id: str) -> None:
        """Ask a job to stop; one that is unknown or over is no error."""
        await self._call("POST", f"/api/jobs/{quote(submission_id)}/stop", missing_ok=True)

    async def _call(self, method: str, path: str, body: dict[str, Any] | None = None, *, missing_ok: bool = False) -> dict[str, Any] | None:
        assert self._session is not None, "use RayJobs with `async with`"
        try:
            async with self._session.request(method, self.address + path, json=body) as answer:
                if answer.status == 404 and missing_ok:
                    return None
                if answer.status >= 400:
                    detail = " ".join((await answer.text()).split())[-300:]
                    raise ClusterError(
                        f"{method} {path}", f"Ray answered {answer.status}: {detail}", f"see the dashboard at {self.address}"
                    )
                result: dict[str, Any] = await answer.json(content_type=None)
                return result
        except (TimeoutError, aiohttp.ClientError, ValueError) as exc:
            reason = str(exc) or type(exc).__name__
            raise ClusterError(self.address, f"Ray does not answer ({reason})", "check that the cluster is up and RAY_API_ADDRESS") from exc


def ray_address(conn_id: str = "ray_default") -> str:
    """Address of the Jobs API: ``RAY_API_ADDRESS``, else the Airflow connection's host and port, else this machine's default."""
    if address := os.environ.get("RAY_API_ADDRESS"):
        return address
    from airflow.sdk import BaseHook
    from airflow.sdk.exceptions import AirflowNotFoundException

    try:
        conn = BaseHook.get_connection(conn_id)
    except AirflowNotFoundException:
        return DEFAULT_ADDRESS
    host = str(conn.host or "127.0.0.1")
    scheme = "" if "://" in host else f"{conn.schema or 'http'}://"
    return f"{scheme}{host}:{conn.port or 8265}"


def job_page(address: str, submission_id: str) -> str:
    """Page of a job in Ray's dashboard."""
    return f"{address.rstrip('/')}/#/jobs/{submission_id}"
