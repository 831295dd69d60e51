"""Room in the cluster: what actors and training workers ask for, and whether all of it fits before
any of it starts.

Ray's own scheduler judges, by placement groups: on a cluster that grows, a group that does not fit
yet is the demand that nodes are added for. Leaves out: starting the actors (see `rollouts`) and the
workers (see `train`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
from ray.util import placement_group, remove_placement_group

from boig_core.config import Resources
from boig_core.errors import ClusterError


@dataclass(frozen=True)
class Demand:
    """So many processes of one kind, each with these resources."""

    count: int
    kind: str
    resources: Resources

    def __str__(self) -> str:
        each = [f"{amount:g} {name}" for name, amount in bundle(self.resources).items()]
        return f"{self.count} {self.kind} of {' + '.join(each + [f'{k}={v}' for k, v in self.resources.labels.items()])}"


def bundle(resources: Resources) -> dict[str, float]:
    """What one process takes, by Ray's names."""
    return {"CPU": resources.cpus, **({"GPU": resources.gpus} if resources.gpus else {})}


def actor_options(resources: Resources) -> dict[str, Any]:
    """Ray's options for an actor or task that asks for these resources."""
    labels = {"label_selector": resources.labels} if resources.labels else {}
    return {"num_cpus": resources.cpus, "num_gpus": resources.gpus, **labels}


@contextmanager
def room(ranks: Demand, others: Sequence[Demand], wait_s: float) -> Iterator[None]:
    """Wait until everything fits at once, then hold the room of one demand while the others start.

    Without that, actors with a share of a GPU could take each a piece of the GPUs that the training
    workers need.

    Args:
        ranks: keeps its room until the context ends.
        others: have theirs free when the context begins.
        wait_s: longest wait, in seconds.

    Raises:
        ClusterError: not all of it fits in time; names the demands and the nodes.
    """
    deadline = time.monotonic() + wait_s
    # Both are asked for before either is waited for, so that a cluster that grows adds nodes for
    # all of it; two groups, so that one can be given back alone.
    mine = _reserve([ranks])
    try:
        rest = _reserve(others)
        try:
            if not all(
                group.wait(math.ceil(max(0.0, deadline - time.monotonic())))
                for group in (mine, rest)
            ):  # Ray cuts off fractions
                wanted = ", ".join(str(demand) for demand in (ranks, *others))
                raise ClusterError(
                    wanted,
                    f"did not fit within {wait_s:g} s into {nodes()}",
                    "add nodes, ask for less, or raise ddpo.placement_s",
                )
        finally:
            # Free before the actors start: they ask the cluster for plain resources, and get none
            # that a group still holds.
            remove_placement_group(rest)
        yield
    finally:
        remove_placement_group(mine)


def _reserve(demands: Sequence[Demand]) -> Any:
    each = [demand.resources for demand in demands for _ in range(demand.count)]
    # PACK prefers few nodes and demands none: the only question is whether everything fits.
    return placement_group(
        [bundle(resources) for resources in each],
        strategy="PACK",
        bundle_label_selector=[resources.labels for resources in each],
    )


def nodes() -> str:
    """The living nodes by shape, such as ``2 x (8 CPU + 1 GPU, pool=learner)``, and what is free of
    all."""
    shapes: dict[str, int] = {}
    for node in ray.nodes():
        if node["Alive"]:
            own = [
                f"{node['Resources'].get(name, 0):g} {name}"
                for name in ("CPU", "GPU")
                if node["Resources"].get(name)
            ]
            # Ray's own labels differ from node to node, such as the node's id: with them no two
            # nodes would have one shape.
            labels = [
                f"{k}={v}" for k, v in sorted(node["Labels"].items()) if not k.startswith("ray.io/")
            ]
            shape = ", ".join([" + ".join(own) or "nothing", *labels])
            shapes[shape] = shapes.get(shape, 0) + 1
    free = ray.available_resources()
    return (
        " and ".join(f"{count} x ({shape})" for shape, count in shapes.items())
        + f" ({free.get('CPU', 0):g} CPU, {free.get('GPU', 0):g} GPU free)"
    )
