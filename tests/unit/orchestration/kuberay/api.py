"""Kubernetes' API for RayJobs on a real socket: what the API server refuses by the CRD's schema,
what KubeRay refuses, states as told.

Told and asked as the Jobs API of `conftest` is, so that the same tests run against both. Leaves
out: clusters and pods.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Final

import yaml
from aiohttp import web
from jsonschema import Draft202012Validator

from boig_core.orchestration.jobs.kuberay import KubeRayCluster
from boig_core.orchestration.jobs.rayjob import name_of

SCHEMA: Final = Draft202012Validator(
    json.loads((Path(__file__).parent / "rayjob.schema.json").read_text())
)
BASE: Final = Path(__file__).parents[4] / "infra/kuberay/rayjob.yaml"
TOKEN: Final = "the-service-account-token"

WORDS: Final = {
    "PENDING": {"jobDeploymentStatus": "Initializing"},
    "RUNNING": {"jobDeploymentStatus": "Running", "jobStatus": "RUNNING"},
    "STOPPED": {"jobDeploymentStatus": "Complete", "jobStatus": "STOPPED"},
    "SUCCEEDED": {"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED"},
    "FAILED": {
        "jobDeploymentStatus": "Failed",
        "jobStatus": "FAILED",
        "message": "python: \x1b[31mno module ray_jobs\x1b[0m\n",
    },
}
GONE: Final = ""


def refused(body: dict[str, Any]) -> str | None:
    """What KubeRay's own validation says of a body that fits the schema."""
    name, spec = body["metadata"]["name"], body["spec"]
    if len(name) > 47 or not re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name):
        return f"name {name}"
    if spec.get("suspend") and not spec.get("shutdownAfterJobFinishes"):
        return "suspend without shutdownAfterJobFinishes"
    if spec.get("shutdownAfterJobFinishes") and "deletionRules" in spec.get("deletionStrategy", {}):
        return "shutdownAfterJobFinishes with deletionRules"
    if spec["rayClusterSpec"].get("authOptions", {}).get("mode") == "token" and not spec[
        "rayClusterSpec"
    ].get("rayVersion"):
        return "token without rayVersion"
    return None


class KubeApi:
    """Answers as told, and notes what was asked.

    Attributes:
        states: by submission id: the states of its RayJob (keys of `WORDS`, or a status as KubeRay
            writes it), one an answer; the last one stays; `GONE`: deleted.
        metadata: what each job carries.
        posts: the bodies that were created, with the fields of a post to the Jobs API beside them.
        deleting: those that carry a deletion timestamp.
        stubborn: RayJobs whose pods do not end.
        fail_stops: RayJobs that cannot be deleted.
        lose: creates, but answers 500.
        down: answers 503 to everything.
        token: the one that it takes.
    """

    def __init__(self, folder: Path) -> None:
        self.states: dict[str, list[Any]] = {}
        self.metadata: dict[str, dict[str, str]] = {}
        self.posts: list[dict[str, Any]] = []
        self.tokens: set[str | None] = set()
        self.policies: set[str | None] = set()
        self.stopped: list[str] = []
        self.asked: list[str] = []
        self.deleting: set[str] = set()
        self.stubborn: set[str] = set()
        self.fail_stops: set[str] = set()
        self.down = self.fail_posts = self.lose = False
        self.address, self.token = "", TOKEN
        self.base = folder / "rayjob.yaml"
        self.write_base(yaml.safe_load(BASE.read_text()))

    def write_base(self, base: dict[str, Any]) -> None:
        """Write the team's file."""
        base["metadata"]["annotations"] = {"boig/page": "https://k8s/{namespace}/{name}"}
        self.base.write_text(yaml.safe_dump(base))

    def kube_config(self) -> str:
        """A kubeconfig that leads here."""
        server = {"name": "c", "cluster": {"server": self.address}}
        user = {"name": "u", "user": {"token": self.token}}
        context = {"name": "x", "context": {"cluster": "c", "user": "u"}}
        return json.dumps(
            {
                "apiVersion": "v1",
                "clusters": [server],
                "users": [user],
                "contexts": [context],
                "current-context": "x",
            }
        )

    def environment(self) -> dict[str, str]:
        """What Airflow's processes are given."""
        connection = {"conn_type": "kubernetes", "extra": {"kube_config": self.kube_config()}}
        return {
            "BOIG_KUBERAY": str(self.base),
            "AIRFLOW_CONN_KUBERNETES_DEFAULT": json.dumps(connection),
        }

    @property
    def cluster(self) -> KubeRayCluster:
        return KubeRayCluster.find(str(self.base))

    def was_stopped(self, name: str) -> bool:
        return name in self.stopped and name not in self.states

    def routes(self) -> list[web.RouteDef]:
        """What the API server serves."""
        jobs = "/apis/ray.io/v1/namespaces/boig/rayjobs"
        item = jobs + "/{name}"
        return [
            web.post(jobs, self.create),
            web.get(jobs, self.list),
            web.get(item, self.get),
            web.delete(item, self.delete),
        ]

    @web.middleware
    async def note(self, request: web.Request, handler: Any) -> web.StreamResponse:
        self.asked.append(request.path)
        self.tokens.add(request.headers.get("Authorization"))
        if request.headers.get("Authorization") != f"Bearer {self.token}":
            return web.Response(status=401, text="Unauthorized")
        if self.down:
            return web.Response(status=503, text="apiserver is shutting down")
        answer: web.StreamResponse = await handler(request)
        return answer

    async def create(self, request: web.Request) -> web.Response:
        body = await request.json()
        if self.fail_posts:
            return web.Response(status=500, text="etcdserver: request timed out")
        # Without strict validation the server drops what it does not know in silence.
        if request.query.get("fieldValidation") != "Strict":
            return web.Response(status=400, text="unknown fields would be dropped")
        wrong = [
            f"{'.'.join(map(str, error.absolute_path))}: {error.message}"
            for error in SCHEMA.iter_errors(body)
        ]
        if wrong:
            return web.Response(status=422, text="; ".join(wrong))
        name = body["spec"]["jobId"]
        self.posts.append(
            {
                **body,
                "submission_id": name,
                "entrypoint": body["spec"]["entrypoint"],
                "metadata": body["spec"]["metadata"],
            }
        )
        if name in self.states:
            return web.Response(status=409, text="AlreadyExists")
        reason = refused(body)
        answers = {
            "jobDeploymentStatus": "ValidationFailed",
            "reason": "ValidationFailed",
            "message": reason,
        }
        self.states[name], self.metadata[name] = (
            [answers if reason else "RUNNING"],
            body["spec"]["metadata"],
        )
        return (
            web.Response(status=500, text="etcdserver: request timed out")
            if self.lose
            else web.json_response(body, status=201)
        )

    def answer(self, name: str) -> dict[str, Any]:
        """The RayJob as the server has it now."""
        states = self.states[name]
        word = states.pop(0) if len(states) > 1 else states[0]
        status = WORDS[word] if isinstance(word, str) else word
        meta = {
            "name": name_of(name),
            **({"deletionTimestamp": "2026-01-01T00:00:00Z"} if name in self.deleting else {}),
        }
        return {
            "metadata": meta,
            "spec": {"jobId": name, "metadata": self.metadata.get(name) or {}},
            "status": status,
        }

    def find(self, request: web.Request) -> str | None:
        """The submission id of what is asked for."""
        result = next(
            (name for name in self.states if name_of(name) == request.match_info["name"]), None
        )
        if result is not None and self.states[result] == [GONE]:
            del self.states[result]
            self.deleting.discard(result)
            return None
        return result

    async def list(self, request: web.Request) -> web.Response:
        assert request.query["labelSelector"] == "app.kubernetes.io/managed-by=boig"
        return web.json_response({"items": [self.answer(name) for name in self.states]})

    async def get(self, request: web.Request) -> web.Response:
        name = self.find(request)
        return (
            web.Response(status=404, text="NotFound")
            if name is None
            else web.json_response(self.answer(name))
        )

    async def delete(self, request: web.Request) -> web.Response:
        name = self.find(request)
        if name is None:
            return web.Response(status=404, text="NotFound")
        if name in self.fail_stops:
            return web.Response(status=403, text="forbidden")
        self.policies.add(request.query.get("propagationPolicy"))
        if name not in self.deleting and name not in self.stubborn:
            self.states[name] = [self.states[name][0], GONE]
        self.deleting.add(name)
        self.stopped.append(name)
        return web.json_response(
            self.answer(name) if name in self.stubborn else {"metadata": {"name": name}}
        )
