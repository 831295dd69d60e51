"""The RayJob resource of one job: a team's base file (`infra/kuberay/rayjob.yaml` is one) with what differs from job to job filled in.

The file says what is the team's: namespace, image, pods, queue, deadlines, secrets by reference. Leaves out: Kubernetes (see `kuberay`).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import yaml

from boig_core.errors import InputError
from boig_core.orchestration.asks import Ask

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


def read_base(path: str) -> dict[str, Any]:
    """The team's file.

    Raises:
        InputError: it cannot be read, or is no RayJob.
    """
    remedy = "point BOIG_KUBERAY at a file such as infra/kuberay/rayjob.yaml"
    try:
        found = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        cluster = found["spec"]["rayClusterSpec"]
        pods = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
        whole = all(group["template"]["spec"]["containers"] for group in pods) and len(pods) > 1
        if (found["apiVersion"], found["kind"]) != ("ray.io/v1", "RayJob") or not whole:
            raise InputError(path, "must be a RayJob of ray.io/v1 with a head and a worker group", remedy)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as exc:
        raise InputError(path, f"cannot be read ({exc})", remedy) from exc
    except (KeyError, TypeError) as exc:
        raise InputError(path, f"must be a RayJob of ray.io/v1 with a head and a worker group ({exc!r})", remedy) from exc
    return {**found, "metadata": found.get("metadata") or {}}


def name_of(submission_id: str) -> str:
    """Name of the resource: the id, or its two ends where it is too long. An id ends with a digest of all that it stands for."""
    if len(submission_id) <= NAME:
        return submission_id
    return f"{submission_id[:HEAD].rstrip('-')}-{submission_id[HEAD + 1 - NAME :].lstrip('-')}"


def render(
    base: Mapping[str, Any], submission_id: str, entrypoint: str, metadata: Mapping[str, str], asks: Sequence[Ask]
) -> dict[str, Any]:
    """The resource of one job.

    The first worker group whose pods can hold each process stays, those without GPUs first; it gets as many pods as all processes need.

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
    spec.update(jobId=submission_id, entrypoint=entrypoint, metadata=dict(metadata), submissionMode="HTTPMode", backoffLimit=0)
    spec.setdefault("shutdownAfterJobFinishes", "deletionStrategy" not in spec)
    if QUEUE in meta["labels"]:
        spec["suspend"] = True
    cluster = spec["rayClusterSpec"]
    cluster.setdefault("authOptions", {"mode": "token"})
    # To a head that comes back KubeRay submits the job again. Retries are Airflow's: a job ends with its head, the next attempt follows.
    meta["annotations"] = {**(meta.get("annotations") or {}), HEAD_STAYS_DOWN: "true"}
    cluster["headGroupSpec"]["template"]["spec"]["restartPolicy"] = "Never"
    cluster["workerGroupSpecs"] = [_group(cluster["workerGroupSpecs"], asks)]
    return body


def _group(groups: Sequence[dict[str, Any]], asks: Sequence[Ask]) -> dict[str, Any]:
    for group in sorted(groups, key=lambda group: _shape(group)[1]):
        pods = _pods(_shape(group), asks)
        if pods is not None:
            count = pods or group.get("replicas", 1)
            return {**group, "replicas": count, "minReplicas": count, "maxReplicas": count}
    shapes = {group["groupName"]: _shape(group) for group in groups}
    remedy = "lower the recipe's resources, or raise the limits of a worker group in the file of BOIG_KUBERAY"
    raise InputError(", ".join(map(str, asks)), f"fit no worker pod (CPUs, GPUs: {shapes})", remedy)


def _shape(group: Mapping[str, Any]) -> tuple[float, float]:
    """CPUs and GPUs that Ray has in a pod of the group: the limits of its first container, as KubeRay tells Ray."""
    limits = group["template"]["spec"]["containers"][0].get("resources", {}).get("limits", {})
    cpus = str(limits.get("cpu", "0"))
    return float(cpus[:-1]) / 1000 if cpus.endswith("m") else float(cpus), float(limits.get(GPU, 0))


def _pods(shape: tuple[float, float], asks: Sequence[Ask]) -> int | None:
    """Pods of that shape that hold all processes, of one kind beside each other; None: one fits into none."""
    share = 0.0
    for ask in asks:
        wanted = [(has, wants) for has, wants in zip(shape, (ask.cpus, ask.gpus), strict=True) if wants]
        # 0.1 fits ten times into 1, whatever the division of floats says.
        fit = min((math.floor(has / wants + 1e-9) for has, wants in wanted), default=1)
        if fit < 1:
            return None
        share += ask.count / fit
    return math.ceil(share - 1e-9)
