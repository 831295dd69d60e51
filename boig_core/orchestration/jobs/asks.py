"""What a stage's processes ask of a cluster, told by the recipe, for a cluster that is made for the
job.

A standing cluster needs it for a rehearsal alone: there Ray waits for room by itself. Leaves out:
which machines hold them (see `rayjob`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from boig_core.config import Recipe, Resources
from boig_core.storage.job import Stage

_EPS: Final = 1e-9
"""Ten times a tenth is no more than one, whatever floats say."""


@dataclass(frozen=True)
class Ask:
    """Like processes of a stage, which run at once.

    Attributes:
        count: how many; 0: as many as there is room for.
        cpus: CPUs that each asks of Ray.
        gpus: GPUs that each asks of Ray.
        labels: Ray labels of the nodes that it may run on, as Ray's label selectors write them.
    """

    count: int
    cpus: float
    gpus: float = 0.0
    labels: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        where = f" on {dict(self.labels)}" if self.labels else ""
        return (
            f"{self.count or 'as many as fit'} of {self.cpus:g} CPUs and {self.gpus:g} GPUs{where}"
        )


def asks_of(stage: Stage, recipe: Recipe) -> list[Ask]:
    """The actors and workers of a stage, all of them at once."""
    wants = recipe.resources
    match stage:
        case Stage.FINETUNE_LLM:
            return [_ask(recipe.llm_workers, wants)]
        case Stage.FINETUNE_SD:
            return [_ask(recipe.sd.workers, wants)]
        case Stage.DDPO:
            scorers = _ask(recipe.reward.actors, recipe.scorer_resources)
            rollouts = _ask(recipe.ddpo.rollout_actors, recipe.rollout_resources)
            return [_ask(recipe.ddpo.workers, recipe.worker_resources), rollouts, scorers]
        case Stage.SCORE_REWARDS:
            return [_ask(recipe.reward.actors, recipe.scorer_resources)]
        case Stage.EVALUATE_SD:
            return [_ask(recipe.ddpo.rollout_actors, wants)]
        case Stage.PERCEIVE | Stage.EVALUATE_LLM:
            return [_ask(0, wants)]
        case Stage.INGEST | Stage.CALIBRATE | Stage.REPORT | Stage.COMPARE:
            return [Ask(0, wants.cpus)]


def lacking(nodes: Sequence[Mapping[str, float]], asks: Sequence[Ask]) -> list[Ask]:
    """Those asks that do not all fit beside the others, the largest placed first; labels are not
    looked at.

    Args:
        nodes: of each node what it has, ``CPU`` and ``GPU``.
        asks: of one stage.
    """
    free = [[node.get("CPU", 0.0), node.get("GPU", 0.0)] for node in nodes]

    def place(ask: Ask) -> bool:
        for node in free:
            if ask.cpus <= node[0] + _EPS and ask.gpus <= node[1] + _EPS:
                node[0], node[1] = node[0] - ask.cpus, node[1] - ask.gpus
                return True
        return False

    # The largest first: small ones would take the room of nodes that alone hold a large one. Of a
    # kind that is as many as fit, one at least must fit.
    ordered = sorted(asks, key=lambda ask: (-ask.gpus, -ask.cpus))
    return [ask for ask in ordered if not all([place(ask) for _ in range(max(1, ask.count))])]


def _ask(count: int, wants: Resources) -> Ask:
    return Ask(count, wants.cpus, wants.gpus, wants.labels)
