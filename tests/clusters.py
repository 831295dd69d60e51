"""Ray clusters of several nodes on this machine, for tests that take nodes away."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import ray
from ray.cluster_utils import Cluster


@contextmanager
def cluster_of_nodes() -> Iterator[Cluster]:
    """A head without CPUs, which holds the driver alone; the test adds nodes, from any thread."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        # Off where Ray has one node that is this process's own.
        patch.setenv("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "1")
        # As where the dashboard is not installed: each node's agent then starts without what it
        # needs seconds to import.
        patch.setattr(ray._private.utils, "get_dashboard_dependency_error", ImportError)
        cluster = Cluster(
            initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}
        )
        cluster._shutdown_at_exit = False  # threads cannot set signal handlers
        ray.init(address=cluster.address)
        try:
            yield cluster
        finally:
            ray.shutdown()
            cluster.shutdown()
