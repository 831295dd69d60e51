"""What a stage uses: GPUs by its recipe, GPU-hours, and their cost where a price is set.

Leaves out: adding up a run (see `runs`), and what a GPU does while it is held (each training logs
that itself).
"""

from __future__ import annotations

import math

from boig_core import environment
from boig_core.config import Recipe
from boig_core.errors import InputError


def held_gpus(stage: str, recipe: Recipe) -> float | None:
    """GPUs that a stage asks for; None where the number of its workers depends on the cluster.

    A stage may ask for them later than it starts and give them back before it ends, so hours
    counted with this are an upper bound.
    """
    each, ddpo = recipe.resources.gpus, ddpo_gpus(recipe)
    if stage in {"perceive", "evaluate_llm"}:
        return None if each else 0.0
    return {
        "finetune_llm": recipe.llm_workers * each,
        "finetune_sd": recipe.sd.workers * each,
        "ddpo": sum(ddpo.values()),
        "evaluate_sd": recipe.ddpo.rollout_actors * each,
        "score_rewards": ddpo["reward_actors"],
    }.get(stage, 0.0)


def ddpo_gpus(recipe: Recipe) -> dict[str, float]:
    """GPUs of the alignment's learner and pools, by the names that its rows give them."""
    return {
        "learner": recipe.ddpo.workers * recipe.worker_resources.gpus,
        "rollout_actors": recipe.ddpo.rollout_actors * recipe.rollout_resources.gpus,
        "reward_actors": recipe.reward.actors * recipe.scorer_resources.gpus,
    }


def gpu_hours(stage: str, recipe: Recipe, seconds: float | None) -> float | None:
    """GPU-hours of a stage that took so long; None where they are not known."""
    gpus = held_gpus(stage, recipe)
    return None if gpus is None or seconds is None else round(gpus * seconds / 3600, 4)


def price() -> float | None:
    """Price of a GPU-hour; None where ``BOIG_GPU_HOUR_PRICE`` is not set.

    Raises:
        InputError: it is no price.
    """
    text = environment.GPU_HOUR_PRICE.read()
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        # Refused below, in the same words as a negative price.
        value = -1.0
    if not (math.isfinite(value) and value >= 0):
        raise InputError(
            f"{environment.GPU_HOUR_PRICE.name}={text}",
            "must be a number that is not negative",
            "set what an hour of one GPU costs, or leave it out",
        )
    return value


def spent(
    stage: str, recipe: Recipe, seconds: float, per_hour: float | None
) -> dict[str, float | None]:
    """What a stage has used: ``seconds`` and ``gpu_hours``; ``cost`` where a price is set."""
    hours = gpu_hours(stage, recipe, seconds)
    cost = (
        {} if per_hour is None else {"cost": None if hours is None else round(hours * per_hour, 2)}
    )
    return {"seconds": round(seconds, 3), "gpu_hours": hours, **cost}
