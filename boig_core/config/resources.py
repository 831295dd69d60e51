"""Section ``resources``: what one process asks of the Ray cluster."""

from __future__ import annotations

from pydantic import Field

from boig_core.config.section import Section


class Resources(Section):
    """What one Ray actor or training worker asks for."""

    cpus: float = Field(0.5, gt=0)
    """CPUs per actor or worker."""
    gpus: float = Field(0.0, ge=0)
    """GPUs per actor or worker; with a share such as 0.25, several of them use one GPU."""
    labels: dict[str, str] = Field(default_factory=dict)
    """Ray labels of the nodes that it may run on: ``{pool: rollouts}``, ``{market: "!spot"}``,
    ``{zone: "in(a,b)"}``; empty: any node."""
