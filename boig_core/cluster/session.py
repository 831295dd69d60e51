"""Connecting to Ray: the one place that calls ``ray.init``.

A stage that was submitted as a Ray job finds its cluster through ``RAY_ADDRESS``; without it
(``boig run``, tests) a cluster is started inside this process and ends with it. Where things run is
the environment's business, never the recipe's.
"""

from __future__ import annotations

import logging
import os
from typing import Final

import ray

from boig_core.errors import ClusterError
from boig_core.observability.logs import get_logger

log = get_logger(__name__)

_LOCAL_STARTS: Final = 3
"""Ray gives a local node 30 s to come up, which a busy laptop may miss."""


def connect(cpus: int | None = None) -> None:
    """Connect this process to Ray; a no-op when it is connected already.

    Args:
        cpus: logical CPUs of a cluster that has to be started here; None: those of the machine, at
            least 4, because stages ask for more actors than a laptop has cores.

    Raises:
        ClusterError: ``RAY_ADDRESS`` names a cluster that does not answer, or a local one does not
            come up.
    """
    if ray.is_initialized():
        return
    address = os.environ.get("RAY_ADDRESS")
    # The loop makes all starts but the last, whose failure is raised. A cluster with an address
    # gets that one alone: it is there or it is not.
    for start in range(1, 1 if address else _LOCAL_STARTS):
        try:
            _init(address, cpus)
            break
        except ClusterError as exc:
            log.warning("start %d of %d: %s", start, _LOCAL_STARTS, exc)
            # What has come up of a failed start would stand in the way of the next.
            ray.shutdown()
    else:
        _init(address, cpus)
    log.info(
        "connected to Ray: %s",
        {
            name: round(amount, 1)
            for name, amount in ray.cluster_resources().items()
            if name in {"CPU", "GPU"}
        },
    )


def cores() -> int:
    """CPUs that are really there: a cluster that was started here says it has more (see
    `connect`)."""
    total = int(ray.cluster_resources().get("CPU", 1))
    return max(1, total if os.environ.get("RAY_ADDRESS") else min(total, os.cpu_count() or 1))


def _init(address: str | None, cpus: int | None) -> None:
    if not address:
        # An actor for each training, and this one node never drains.
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    try:
        if address:
            ray.init(log_to_driver=True, logging_level=logging.WARNING)
        else:
            ray.init(
                address="local",
                num_cpus=cpus or max(4, os.cpu_count() or 1),
                include_dashboard=False,
                log_to_driver=True,
                logging_level=logging.WARNING,
                # A Python process for each CPU in advance: actors have environments of their own,
                # and use none of them.
                _system_config={"prestart_worker_first_driver": False},
            )
    except Exception as exc:  # ray raises bare ones when a node does not come up
        where = f"RAY_ADDRESS={address}" if address else "a local Ray"
        raise ClusterError(
            where,
            f"cannot be reached ({exc})",
            "check that the Ray head runs, or unset RAY_ADDRESS",
        ) from exc
