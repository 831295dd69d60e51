"""What a stage's processes ask of a cluster, told by the recipe, for a cluster that is made for the job.

A standing cluster needs none of it: there Ray waits for room by itself. Leaves out: which machines hold them (see `rayjob`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from boig_core.config import Recipe, Resources
from boig_core.storage.job import Stage


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


def asks_of(stage: Stage, recipe: Recipe) -> list[Ask]:
    """The actors and workers of a stage, all of them at once."""
    wants = recipe.resources
    match stage:
        case Stage.FINETUNE_LLM:
            return [_ask(recipe.llm.workers, wants)]
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


def _ask(count: int, wants: Resources) -> Ask:
    return Ask(count, wants.cpus, wants.gpus, wants.labels)
