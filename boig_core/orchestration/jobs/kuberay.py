"""Jobs as KubeRay's RayJob resources, each with a cluster of its own, over Kubernetes' API
(`kubernetes_asyncio`, the extra ``kuberay``).

What differs from Ray's Jobs API: a stop is a delete that is seen through (decision 0016). Leaves
out: the resource itself (see `rayjob`).
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any, Final

import aiohttp

from boig_core import environment
from boig_core.errors import ClusterError, InputError
from boig_core.orchestration.jobs.asks import Ask
from boig_core.orchestration.jobs.backend import FEW, AwayError, JobInfo
from boig_core.orchestration.jobs.rayjob import LABELS, name_of, read_base, render

CONNECTION: Final = "kubernetes_default"

PAGE: Final = "boig/page"
"""Annotation of the base file: where a person sees a RayJob, such as
``https://headlamp.example/…/{namespace}/{name}``."""

_KIND: Final = {"group": "ray.io", "version": "v1", "plural": "rayjobs"}
# KubeRay tells two states, that of Ray's job and that of its own work around it. Either may be the
# first to end.
_OVER: Final = frozenset({"STOPPED", "SUCCEEDED", "FAILED"})
_DEPLOYMENT_OVER: Final = frozenset({"Complete", "Failed", "ValidationFailed"})


@dataclass(frozen=True)
class KubeRayCluster:
    """A namespace in which KubeRay makes a cluster for each job.

    Attributes:
        base: path of the base file, on workers.
        namespace: where the RayJobs are.
        conn_id: Airflow connection of type ``kubernetes``; empty: the pod's service account, else
            the user's kubeconfig.
        pattern: page of a RayJob, with ``{namespace}`` and ``{name}``; empty: none.
    """

    base: str
    namespace: str
    conn_id: str = ""
    pattern: str = ""

    @classmethod
    def find(cls, base: str, conn_id: str = CONNECTION) -> KubeRayCluster:
        """The namespace of a base file, else of the Airflow connection.

        Args:
            base: path of the file.
            conn_id: the connection, if Airflow has it.

        Raises:
            InputError: the file cannot be read, or is no RayJob.
        """
        meta = read_base(base)["metadata"]
        extra = _extra(conn_id)
        namespace = meta.get("namespace") or (extra or {}).get("namespace") or "default"
        pattern = (meta.get("annotations") or {}).get(PAGE, "")
        return cls(base, str(namespace), "" if extra is None else conn_id, str(pattern))

    def connect(self) -> KubeRayJobs:
        """A session; use with ``async with``."""
        return KubeRayJobs(self)

    def page(self, submission_id: str) -> str:
        """Page of a RayJob; empty where the base file names none."""
        return self.pattern.replace("{namespace}", self.namespace).replace(
            "{name}", name_of(submission_id)
        )

    def serialize(self) -> dict[str, Any]:
        """The arguments of this class."""
        return asdict(self)


class KubeRayJobs:
    """A session with Kubernetes' API (a `jobs.backend.JobBackend`); use with ``async with``.

    Args:
        cluster: which namespace.
        timeout_s: longest wait for one answer, in seconds.
    """

    def __init__(self, cluster: KubeRayCluster, timeout_s: float = 30.0) -> None:
        self.cluster = cluster
        self._place = {**_KIND, "namespace": cluster.namespace, "_request_timeout": timeout_s}

    async def __aenter__(self) -> KubeRayJobs:
        # The client is large and a connection comes over a socket: neither may hold up the event
        # loop.
        self._client, self._config = await asyncio.to_thread(_library)
        extra = (
            await asyncio.to_thread(_extra, self.cluster.conn_id) if self.cluster.conn_id else None
        )
        self._extra, settings = extra or {}, self._client.Configuration()
        await _log_in(settings, self._config, self._extra)
        self._api = self._client.ApiClient(settings)
        self._objects = self._client.CustomObjectsApi(self._api)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._api.close()

    async def submit(
        self,
        submission_id: str,
        entrypoint: str,
        metadata: Mapping[str, str],
        asks: Sequence[Ask] = (),
    ) -> None:
        """Create the RayJob. After a failed creation, whether it is there decides: its name is the
        id's.

        Raises:
            ClusterError: it was not created.
            InputError: the base file does not do, or has a field that a RayJob has not.
        """
        body = render(
            await asyncio.to_thread(read_base, self.cluster.base),
            submission_id,
            entrypoint,
            metadata,
            asks,
        )
        body["metadata"].pop("namespace", None)
        try:
            # Strict: otherwise the server drops a field that it does not know, and the pods lack
            # what the field was to set.
            await self._ask(
                "create",
                self._objects.create_namespaced_custom_object(
                    **self._place, body=body, field_validation="Strict"
                ),
            )
        except ClusterError:
            if await self._get(submission_id) is None:
                raise

    async def states(self, ids: Collection[str]) -> dict[str, JobInfo]:
        """Those of the jobs that Kubernetes has."""
        if len(ids) > FEW:
            known = await self.jobs()
            return {name: known[name] for name in ids if name in known}
        states = await asyncio.gather(*(self._get(name) for name in ids))
        return {
            name: _info_of(body) for name, body in zip(ids, states, strict=True) if body is not None
        }

    async def jobs(self) -> dict[str, JobInfo]:
        """All RayJobs of the namespace that boig has made, until someone deletes them."""
        selector = ",".join(f"{key}={value}" for key, value in LABELS.items())
        answer = await self._ask(
            "list",
            self._objects.list_namespaced_custom_object(**self._place, label_selector=selector),
        )
        return {
            str(body["spec"]["jobId"]): _info_of(body)
            for body in answer["items"]
            if body["spec"].get("jobId")
        }

    async def stop(self, submission_id: str) -> None:
        """Delete the RayJob: KubeRay stops its job first. It stays, as a live one, until its pods
        are gone."""
        place = {**self._place, "name": name_of(submission_id)}
        # In the foreground: otherwise the RayJob is gone at once, and the next attempt starts
        # beside pods that still hold their GPUs.
        asked = self._objects.delete_namespaced_custom_object(
            **place, propagation_policy="Foreground"
        )
        await self._ask("delete", asked, missing_ok=True)

    async def tail(self, submission_id: str) -> str:
        """KubeRay's last message: for a job that failed it holds the last lines of its output."""
        body = await self._get(submission_id)
        return "" if body is None else _info_of(body).message

    async def room(self, asks: Sequence[Ask]) -> str:
        """Always: a cluster is made for the job. Asked for what could keep it from being made.

        Raises:
            InputError: the base file does not do, or has no worker group for one of them.
        """
        render(
            await asyncio.to_thread(read_base, self.cluster.base),
            "boig-rehearsal",
            "true",
            {},
            asks,
        )
        await self.jobs()
        return ""

    async def _get(self, submission_id: str) -> Any:
        place = {**self._place, "name": name_of(submission_id)}
        return await self._ask(
            "get", self._objects.get_namespaced_custom_object(**place), missing_ok=True
        )

    async def _ask(self, verb: str, answer: Awaitable[Any], *, missing_ok: bool = False) -> Any:
        what = f"{verb} rayjobs in {self.cluster.namespace}"
        try:
            return await answer
        except self._client.ApiException as exc:
            if exc.status == 404 and missing_ok:
                return None
            detail = " ".join(str(exc.body or exc.reason).split())[:500]
            # The server refuses what the file says. It would refuse the same again, so no try is
            # spent.
            if exc.status in {400, 422}:
                raise InputError(
                    self.cluster.base,
                    f"Kubernetes refuses the RayJob: {detail}",
                    "mend the file of BOIG_KUBERAY",
                ) from exc
            if (
                exc.status == 401
            ):  # a session outlives the token of a kubeconfig; the next call comes with a new one
                await _log_in(self._api.configuration, self._config, self._extra)
            # 401 is among those that are away, so that the caller asks again, now with the new
            # token.
            kind = (
                AwayError
                if exc.status in {401, 429} or not exc.status or exc.status >= 500
                else ClusterError
            )
            raise kind(
                what,
                f"Kubernetes answered {exc.status}: {detail}",
                "see infra/kuberay for what it needs",
            ) from exc
        except (TimeoutError, aiohttp.ClientError, OSError) as exc:
            raise AwayError(
                what,
                f"Kubernetes does not answer ({exc or type(exc).__name__})",
                "check the connection",
            ) from exc


def _extra(conn_id: str) -> dict[str, Any] | None:
    """What a connection says; None: Airflow has none of that name."""
    from airflow.sdk import BaseHook
    from airflow.sdk.exceptions import AirflowNotFoundException

    try:
        return dict(BaseHook.get_connection(conn_id).extra_dejson)
    except AirflowNotFoundException:
        return None


def _library() -> tuple[Any, Any]:
    """The two modules of the client, which is large."""
    try:
        from kubernetes_asyncio import client, config
    except ModuleNotFoundError as exc:
        raise InputError(
            environment.KUBERAY.name,
            f"needs a package ({exc})",
            "install boig[airflow,kuberay] on workers and triggerers",
        ) from exc
    return client, config


async def _log_in(settings: Any, config: Any, extra: Mapping[str, Any]) -> None:
    """Tell the client's settings what a connection says, in the words of Airflow's provider
    cncf.kubernetes."""
    given, path, context = (
        extra.get("kube_config"),
        extra.get("kube_config_path"),
        extra.get("cluster_context"),
    )
    try:
        if given:
            await config.load_kube_config_from_dict(
                given if isinstance(given, Mapping) else json.loads(given), context, settings
            )
        elif extra.get("in_cluster") or (not path and "KUBERNETES_SERVICE_HOST" in os.environ):
            config.load_incluster_config(settings)
        else:
            # Nothing is written back: the kubeconfig belongs to the user.
            await config.load_kube_config(path, context, settings, persist_config=False)
    except (config.ConfigException, OSError, ValueError) as exc:
        raise InputError(
            CONNECTION,
            f"gives no way to Kubernetes ({exc})",
            "run in a pod, or name a kubeconfig in the connection",
        ) from exc


def _info_of(body: Mapping[str, Any]) -> JobInfo:
    """A RayJob's state. One that waits for its queue, its cluster or its pods is PENDING; one that
    is being deleted still runs."""
    status, spec = body.get("status") or {}, body["spec"]
    job, deployment = status.get("jobStatus") or "", status.get("jobDeploymentStatus") or ""
    reason = ": ".join(filter(None, [status.get("reason"), status.get("message")]))
    # First, whatever Ray says: its job may be over while pods still hold their GPUs.
    if body["metadata"].get("deletionTimestamp"):
        return JobInfo("RUNNING", "is being deleted", spec.get("metadata") or {})
    if job in _OVER:
        word = job
    # KubeRay has given up, as after a deadline; Ray's last word may still be RUNNING.
    elif deployment in _DEPLOYMENT_OVER:
        word = "FAILED"
    else:
        # A state that is not known here counts as waiting: taken for an end, it would start another
        # attempt beside a job that goes on.
        word = "RUNNING" if job == "RUNNING" else "PENDING"
    return JobInfo(word, reason or deployment, spec.get("metadata") or {})
