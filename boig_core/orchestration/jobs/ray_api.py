"""Ray's Jobs REST API over aiohttp, so that Airflow needs neither ray nor a blocked event loop.

Leaves out: which job to submit and what its end means (see `attempts` and `operator`). The address
comes from ``RAY_API_ADDRESS`` or an Airflow connection, the token from ``RAY_AUTH_TOKEN`` or that
connection; a token never enters a job, an entry point or a trigger's arguments.
"""

from __future__ import annotations

import asyncio
import json
import os
import ssl
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any, Final
from urllib.parse import quote

import aiohttp

from boig_core import environment
from boig_core.errors import ClusterError, InputError
from boig_core.observability.logs import IN_ADDRESS
from boig_core.orchestration.jobs.asks import Ask, lacking
from boig_core.orchestration.jobs.backend import FEW, AwayError, JobInfo

DEFAULT_ADDRESS = "http://127.0.0.1:8265"
CONNECTION = "ray_default"

NO_NODE: Final = "No available agent"
"""Ray's words, with a 500, while its head is up again and no node has joined yet."""

TAIL: Final = 20_000
"""Characters of a job's output that `RayJobs.tail` returns."""


@dataclass(frozen=True)
class RayCluster:
    """One cluster's Jobs API.

    Attributes:
        address: such as ``http://ray-head:8265``; links and the triggerer's arguments show it, so
            one with credentials is refused.
        conn_id: Airflow connection that holds the token; empty: ``RAY_AUTH_TOKEN``.
        verify: whether the server's certificate is checked.
        ca_bundle: file with the authorities to trust; empty: the system's.
    """

    address: str
    conn_id: str = ""
    verify: bool = True
    ca_bundle: str = ""

    def __post_init__(self) -> None:
        if IN_ADDRESS.search(self.address):
            raise InputError(
                "the cluster's address",
                "carries credentials",
                "set RAY_AUTH_TOKEN, or the connection's password",
            )

    @classmethod
    def find(cls, conn_id: str = CONNECTION) -> RayCluster:
        """The cluster of ``RAY_API_ADDRESS``, else of the Airflow connection, else of this
        machine."""
        if address := os.environ.get("RAY_API_ADDRESS"):
            return cls(address.rstrip("/"))
        from airflow.sdk import BaseHook
        from airflow.sdk.exceptions import AirflowNotFoundException

        try:
            return cls.of_connection(BaseHook.get_connection(conn_id))
        except AirflowNotFoundException:
            return cls(DEFAULT_ADDRESS)

    @classmethod
    def of_connection(cls, conn: Any) -> RayCluster:
        """The cluster of an Airflow connection: host, port, schema (``http``, ``https``), the token
        as its password, TLS in its extra."""
        host = str(conn.host or "127.0.0.1")
        scheme = "" if "://" in host else f"{conn.schema or 'http'}://"
        extra = conn.extra_dejson
        return cls(
            address=f"{scheme}{host}:{conn.port or 8265}",
            conn_id=str(conn.conn_id) if conn.password else "",
            verify=extra.get("verify") is not False,
            ca_bundle=str(extra.get("ca_bundle") or ""),
        )

    def connect(self) -> RayJobs:
        """A session; use with ``async with``."""
        return RayJobs(self)

    def page(self, submission_id: str) -> str:
        """Page of a job in Ray's dashboard; ``BOIG_RAY_WEB`` is where people see that in a browser,
        if that is another address."""
        return f"{(environment.RAY_WEB.read() or self.address).rstrip('/')}/#/jobs/{submission_id}"

    def serialize(self) -> dict[str, Any]:
        """The arguments of this class."""
        return asdict(self)

    def token(self) -> str:
        """The token, read where it is needed; empty: none."""
        if not self.conn_id:
            return os.environ.get("RAY_AUTH_TOKEN", "")
        from airflow.sdk import BaseHook

        return str(BaseHook.get_connection(self.conn_id).password or "")

    def tls(self) -> ssl.SSLContext | bool:
        """How the server is checked: aiohttp's ``ssl`` argument.

        Raises:
            InputError: the bundle cannot be read.
        """
        if not self.address.startswith("https://"):
            return True
        try:
            return (
                ssl.create_default_context(cafile=self.ca_bundle or None) if self.verify else False
            )
        except OSError as exc:
            raise InputError(
                f"ca_bundle {self.ca_bundle!r}",
                f"cannot be read ({exc})",
                "give a PEM file that this machine has",
            ) from exc


class RayJobs:
    """A session with one cluster's Jobs API (a `jobs.backend.JobBackend`); use with ``async with``.

    Args:
        cluster: which cluster.
        timeout_s: longest wait for one answer, in seconds.
    """

    def __init__(self, cluster: RayCluster, timeout_s: float = 30.0) -> None:
        self.cluster = cluster
        self.address = cluster.address.rstrip("/")
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> RayJobs:
        # Certificates lie in files and a connection comes over a socket: neither may hold up the
        # event loop.
        token, tls = await asyncio.gather(
            asyncio.to_thread(self.cluster.token), asyncio.to_thread(self.cluster.tls)
        )
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._session = aiohttp.ClientSession(
            timeout=self._timeout, headers=headers, connector=aiohttp.TCPConnector(ssl=tls)
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def submit(
        self,
        submission_id: str,
        entrypoint: str,
        metadata: Mapping[str, str],
        asks: Sequence[Ask] = (),
    ) -> None:
        """Start a job under an id of the caller's. After a failed post, whether Ray knows the id
        decides: it answers a duplicate with 500.

        Raises:
            ClusterError: the job did not start.
        """
        body = {
            "submission_id": submission_id,
            "entrypoint": entrypoint,
            "metadata": dict(metadata),
            "entrypoint_num_cpus": 0,
        }
        try:
            await self._call("POST", "/api/jobs/", body)
        except ClusterError:
            if await self._info(submission_id) is None:
                raise

    async def states(self, ids: Collection[str]) -> dict[str, JobInfo]:
        """Those of the jobs that Ray knows; it forgets them when its head restarts."""
        if len(ids) > FEW:
            known = await self.jobs()
            return {name: known[name] for name in ids if name in known}
        states = await asyncio.gather(*(self._info(name) for name in ids))
        return {name: info for name, info in zip(ids, states, strict=True) if info is not None}

    async def jobs(self) -> dict[str, JobInfo]:
        """All submitted jobs since Ray's head started."""
        return {
            str(job["submission_id"]): _info_of(job)
            # Ray lists drivers that nobody submitted, too. They have no submission id.
            for job in await self._call("GET", "/api/jobs/")
            if job.get("submission_id")
        }

    async def stop(self, submission_id: str) -> None:
        """Ask a job to stop; one that is unknown or over is no error."""
        await self._call("POST", f"/api/jobs/{quote(submission_id)}/stop", missing_ok=True)

    async def tail(self, submission_id: str) -> str:
        """The last of what a job has printed; empty when Ray does not know it."""
        answer = await self._call("GET", f"/api/jobs/{quote(submission_id)}/logs", missing_ok=True)
        return "" if answer is None else str(answer.get("logs") or "")[-TAIL:]

    async def room(self, asks: Sequence[Ask]) -> str:
        """What the nodes that are there now are too few or too small for; an autoscaler may add
        others."""
        # Ray lists 100 nodes unless it is told a limit. This is the highest that it takes.
        answer = await self._call("GET", "/api/v0/nodes?limit=10000")
        nodes = [
            node["resources_total"]
            for node in answer["data"]["result"]["result"]
            if node["state"] == "ALIVE"
        ]
        short = lacking(nodes, asks)
        capacity = " and ".join(
            f"{sum(node.get(name, 0.0) for node in nodes):g} {name}s" for name in ("CPU", "GPU")
        )
        return (
            f"{len(nodes)} nodes with {capacity} do not hold {', '.join(map(str, short))}"
            if short
            else ""
        )

    async def _info(self, submission_id: str) -> JobInfo | None:
        answer = await self._call("GET", f"/api/jobs/{quote(submission_id)}", missing_ok=True)
        return None if answer is None else _info_of(answer)

    async def _call(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None = None,
        *,
        missing_ok: bool = False,
    ) -> Any:
        assert self._session is not None, "use RayJobs with `async with`"
        try:
            async with self._session.request(method, self.address + path, json=body) as answer:
                if answer.status == 404 and missing_ok:
                    return None
                if answer.status >= 400:
                    detail = " ".join((await answer.text()).split())[-300:]
                    # 500 alone does not say that Ray is away: it answers a duplicate id so, too,
                    # and errors that the same request would meet again.
                    kind = (
                        AwayError
                        if answer.status in {502, 503, 504} or NO_NODE in detail
                        else ClusterError
                    )
                    raise kind(
                        f"{method} {path}",
                        f"Ray answered {answer.status}: {detail}",
                        "give Airflow and Ray the same RAY_AUTH_TOKEN"
                        if answer.status in {401, 403}
                        else f"see the dashboard at {self.address}",
                    )
                text = await answer.read()
                # The list of a busy cluster is long. Parsed here, it would hold up all triggers of
                # the process.
                return (
                    await asyncio.to_thread(json.loads, text)
                    if len(text) > 2**16
                    else json.loads(text)
                )
        except (TimeoutError, aiohttp.ClientError, ValueError) as exc:
            reason = str(exc) or type(exc).__name__
            raise AwayError(
                self.address,
                f"Ray does not answer ({reason})",
                "check that the cluster is up and RAY_API_ADDRESS",
            ) from exc


def _info_of(answer: Mapping[str, Any]) -> JobInfo:
    return JobInfo(
        str(answer["status"]), str(answer.get("message") or ""), answer.get("metadata") or {}
    )
