"""A learner on a small recipe, run to its end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from boig_core.config import Recipe
from boig_core.diffusion.learner import Learner
from boig_core.diffusion.lora import Adapter
from boig_core.diffusion.rollout import LocalRollouts, Sampler
from boig_core.training.checkpoint import Checkpoints
from boig_core.vocabulary import Sample


def set_ddpo(recipe: Recipe, **settings: Any) -> Recipe:
    return recipe.model_copy(update={"ddpo": recipe.ddpo.model_copy(update=settings)})


def end_after(learner: Learner, epochs: int | None) -> None:
    """Have a training end before its last epoch, as one that is lost; None: it goes to its end."""
    if epochs is not None:
        # Of the loop alone: what is trained, by which checkpoints are known, stays.
        learner.config = learner.config.model_copy(update={"epochs": epochs})


def fit(
    recipe: Recipe,
    samples: list[Sample],
    scorer: Any,
    task: Path,
    attempt: int = 1,
    epochs: int | None = None,
) -> tuple[Adapter, list[dict[str, float]]]:
    """Adapter and rows of a training, or of its first ``epochs``."""
    rows: list[dict[str, float]] = []
    rollouts = LocalRollouts(Sampler(recipe), scorer)
    learner = Learner(
        recipe,
        samples,
        rollouts,
        Checkpoints(str(task), attempt),
        lambda epoch, values: rows.append({"epoch": epoch, **values}),
    )
    end_after(learner, epochs)
    return learner.fit(), rows
