"""The RayJob resource of one job: a team's base file (`infra/kuberay/rayjob.yaml` is one) with what
differs from job to job filled in.

The file says what is the team's: namespace, image, pods, queue, deadlines, secrets by reference.
Leaves out: Kubernetes (see `kuberay`).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from boig_core.errors import InputError
from boig_core.orchestration.jobs.asks import Ask

GPU: Final = "nvidia.com/gpu"
QUEUE: Final = "kueue.x-k8s.io/queue-name"
"""Label that names a Kueue queue."""

HEAD_STAYS_DOWN: Final = "ray.io/disable-provisioned-head-restart"
"""Annotation by which KubeRay makes no second head pod."""

LABELS: Final = {"app.kubernetes.io/managed-by": "boig"}
"""What our RayJobs are listed by."""

NAME: Final = 47
"""Characters of a RayJob's name: KubeRay makes names of clusters and pods of it."""

HEAD: Final = 20
"""Characters of a long id that begin its name; the rest of the name is the id's end."""

_EPS: Final = 1e-9
"""Ten times a tenth is no more than one, whatever floats say."""


def read_base(path: str) -> dict[str, Any]:
    """The team's file.

    Raises:
        InputError: it cannot be read, or is no RayJob.
    """
    remedy = "point BOIG_KUBERAY at a file such as infra/kuberay/rayjob.yaml"
    try:
        manifest = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        cluster = manifest["spec"]["rayClusterSpec"]
        pods = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
        whole = all(group["template"]["spec"]["containers"] for group in pods) and len(pods) > 1
        if (manifest["apiVersion"], manifest["kind"]) != ("ray.io/v1", "RayJob") or not whole:
            raise InputError(
                path, "must be a RayJob of ray.io/v1 with a head and a worker group", remedy
            )
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as exc:
        raise InputError(path, f"cannot be read ({exc})", remedy) from exc
    except (KeyError, TypeError) as exc:
        raise InputError(
            path, f"must be a RayJob of ray.io/v1 with a head and a worker group ({exc!r})", remedy
        ) from exc
    return {**manifest, "metadata": manifest.get("metadata") or {}}


def name_of(submission_id: str) -> str:
    """Name of the resource: the id, or its two ends where it is too long. An id ends with a digest
    of all that it stands for."""
    if len(submission_id) <= NAME:
        return submission_id
    return f"{submission_id[:HEAD].rstrip('-')}-{submission_id[HEAD + 1 - NAME :].lstrip('-')}"


def render(
    base: Mapping[str, Any],
    submission_id: str,
    entrypoint: str,
    metadata: Mapping[str, str],
    asks: Sequence[Ask],
) -> dict[str, Any]:
    """The resource of one job.

    Each process goes to the first worker group that has its labels and holds it, those without GPUs
    first. Such groups stay, with as many pods as their processes need.

    Args:
        base: what `read_base` has read.
        submission_id: the job's id, Ray's too.
        entrypoint: the job's command.
        metadata: what the job carries; Ray and Kubernetes show it.
        asks: the stage's processes.

    Raises:
        InputError: a process fits into no pod of the file.
    """
    body = copy.deepcopy(dict(base))
    meta, spec = body["metadata"], body["spec"]
    meta["name"] = name_of(submission_id)
    meta["labels"] = {**(meta.get("labels") or {}), **LABELS}
    # HTTP: the other modes pass entry point and metadata through a shell, or start a stage before
    # the workers have joined. No backoff: what is tried again, and when, is Airflow's matter.
    spec.update(
        jobId=submission_id,
        entrypoint=entrypoint,
        metadata=dict(metadata),
        submissionMode="HTTPMode",
        backoffLimit=0,
    )
    # KubeRay refuses a shutdown beside deletion rules. A team that has rules keeps them.
    spec.setdefault("shutdownAfterJobFinishes", "deletionStrategy" not in spec)
    # Kueue lets a job run by ending its suspension.
    if QUEUE in meta["labels"]:
        spec["suspend"] = True
    cluster = spec["rayClusterSpec"]
    # KubeRay makes each cluster a token of its own, which boig never sees.
    cluster.setdefault("authOptions", {"mode": "token"})
    # To a head that comes back KubeRay submits the job again. Retries are Airflow's: a job ends
    # with its head, the next attempt follows.
    meta["annotations"] = {**(meta.get("annotations") or {}), HEAD_STAYS_DOWN: "true"}
    cluster["headGroupSpec"]["template"]["spec"]["restartPolicy"] = "Never"
    cluster["workerGroupSpecs"] = _groups(cluster["workerGroupSpecs"], asks)
    return body


@dataclass
class _Pod:
    """What is left of a worker pod: its CPUs, and each of its GPUs."""

    cpus: float
    gpus: list[float]

    @classmethod
    def of(cls, group: Mapping[str, Any]) -> _Pod:
        """A pod of a group: the limits of its first container, as KubeRay tells Ray."""
        limits = (group["template"]["spec"]["containers"][0].get("resources") or {}).get(
            "limits"
        ) or {}
        cpus = str(limits.get("cpu", "0"))
        return cls(
            float(cpus[:-1]) / 1000 if cpus.endswith("m") else float(cpus),
            [1.0] * int(limits.get(GPU, 0)),
        )

    def take(self, ask: Ask) -> bool:
        """Hold one process more, if there is room: whole GPUs are its own, a share is one of a
        single GPU, as in Ray."""
        share = min(ask.gpus, 1.0)
        room = [gpu for gpu, left in enumerate(self.gpus) if left > share - _EPS][
            : math.ceil(ask.gpus)
        ]
        if self.cpus < ask.cpus - _EPS or len(room) < math.ceil(ask.gpus):
            return False
        self.cpus -= ask.cpus
        for gpu in room:
            self.gpus[gpu] -= share
        return True


def _groups(groups: Sequence[dict[str, Any]], asks: Sequence[Ask]) -> list[dict[str, Any]]:
    # A process without GPUs must not take the room beside a GPU where another pod would hold it.
    order = sorted(groups, key=lambda group: len(_Pod.of(group).gpus))
    taken: dict[str, list[Ask]] = {} if asks else {order[0]["groupName"]: []}
    for ask in asks:
        group = next(
            (
                group
                for group in order
                if _wanted(group.get("labels") or {}, ask) and _Pod.of(group).take(ask)
            ),
            None,
        )
        if group is None:
            remedy = "lower the recipe's resources, or raise the limits of a worker group in the file of BOIG_KUBERAY"
            raise InputError(
                ask,
                f"fits no worker pod of {', '.join(group['groupName'] for group in order)}",
                remedy,
            )
        taken.setdefault(group["groupName"], []).append(ask)
    # Groups that hold no process are left out: their pods would hold machines for nothing.
    return [
        _with_pods(group, _count(group, taken[group["groupName"]]))
        for group in groups
        if group["groupName"] in taken
    ]


def _with_pods(group: Mapping[str, Any], count: int) -> dict[str, Any]:
    # No autoscaler: Kueue admits a fixed set of pods, and a stage that counts the cluster's cores
    # as it starts must find all of them.
    return {**group, "replicas": count, "minReplicas": count, "maxReplicas": count}


def _count(group: Mapping[str, Any], asks: Sequence[Ask]) -> int:
    """Pods that hold all processes at once; the group's own number where they are as many as there
    is room for."""
    pods: list[_Pod] = []
    # The largest first, as Ray packs them: small ones then fill the room that is left beside them.
    for ask in sorted(asks, key=lambda ask: (ask.gpus, ask.cpus), reverse=True):
        for _ in range(ask.count):
            if not any(pod.take(ask) for pod in pods):
                pods.append(_Pod.of(group))
                pods[-1].take(ask)
    return len(pods) or int(group.get("replicas", 1))


def _wanted(labels: Mapping[str, str], ask: Ask) -> bool:
    """Whether a group's labels are those that a process asks for: ``x``, ``!x``, ``in(x,y)``,
    ``!in(x,y)``."""
    for key, word in ask.labels.items():
        if key.startswith("ray.io/"):  # Ray finds these out on the node
            continue
        bare = word.removeprefix("!")
        values = bare[3:-1].split(",") if bare.startswith("in(") else [bare]
        if (labels.get(key) in [value.strip() for value in values]) == word.startswith("!"):
            return False
    return True
