"""Section ``resources``: what one process asks of the Ray cluster."""

from __future__ import annotations

from pydantic import Field

from boig_core.config.section import Section


class Resources(Section):
    """What one process on the Ray cluster, an actor or a training worker, asks for."""

    cpus: float = Field(0.5, gt=0)
    """CPU cores per process. With a share of one, several processes use the same core."""
    gpus: float = Field(0.0, ge=0)
    """GPUs per process; with a share such as 0.25, several processes use the same one. 0: the
    process computes on CPUs."""
    labels: dict[str, str] = Field(default_factory=dict)
    """Ray labels of the nodes that it may run on: ``{pool: rollouts}``, ``{market: "!spot"}``,
    ``{zone: "in(a,b)"}``; empty: any node."""
