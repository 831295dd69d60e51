"""Which way jobs run: on a standing Ray cluster by its Jobs API, or each on a cluster of its own by
KubeRay."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from boig_core import environment
from boig_core.orchestration.jobs.backend import Cluster
from boig_core.orchestration.jobs.kuberay import KubeRayCluster
from boig_core.orchestration.jobs.ray_api import RayCluster


def find() -> Cluster:
    """KubeRay where ``BOIG_KUBERAY`` names a base file, else the cluster that `RayCluster.find`
    finds.

    Raises:
        InputError: the base file does not do.
    """
    base = environment.KUBERAY.read()
    return KubeRayCluster.find(base) if base else RayCluster.find()


def restore(arguments: Mapping[str, Any]) -> Cluster:
    """The cluster that `Cluster.serialize` has made these arguments of."""
    # Told by the arguments, not by this process's environment: a trigger may have been made under
    # another one, and must find its own job again.
    return (KubeRayCluster if "namespace" in arguments else RayCluster)(**arguments)
