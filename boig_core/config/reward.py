"""Section ``reward``: what alignment maximizes."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from boig_core.config.resources import Resources
from boig_core.config.section import Fraction, Section

RewardName = Literal["contrast", "mean_logprob", "dsg", "attribute_similarity", "engagement"]
"""A formulation of the reward."""


class Reward(Section):
    """What DDPO maximizes."""

    weights: dict[RewardName, float] = Field({"contrast": 1.0}, min_length=1)
    """Formulations by their weights. Of several, each counts in units of its own spread on real
    validation images; one alone keeps its own unit."""
    clip_percentiles: tuple[float, float] = (1.0, 99.0)
    """Rewards are clipped to this range of the reward on real validation images."""
    posts: int = Field(600, ge=10)
    """Held-out posts per split that the calibration scores."""
    min_auc: Fraction | None = Field(0.5, ge=0, lt=1)
    """``ddpo`` refuses a reward unless the whole 95 % interval of its AUC, HIGH against LOW on test
    images, lies above this value; 0.5 is chance; null: any reward is accepted."""
    chunk: int = Field(32, ge=1)
    """Images per scored chunk: fixed, so that a chunk that is scored again gives the same bits."""
    split: Literal["train", "validation", "test", "held_out"] = "test"
    """What score_rewards scores where it is given no folder of images."""
    actors: int = Field(1, ge=1)
    """Ray actors that score images."""
    resources: Resources | None = None
    """What such an actor asks for; null: the recipe's ``resources``."""
    runtime_env: dict[str, Any] = Field(default_factory=dict)
    """Ray runtime environment of such an actor, such as ``{pip: [spacy]}``; empty: that of the job.
    No place for secrets."""
    timeout_s: float = Field(600.0, gt=0)
    """Longest time for a chunk, in seconds. An actor that takes longer is replaced, and its chunk
    is scored again."""

    @model_validator(mode="after")
    def _check(self) -> Reward:
        if 0 in self.weights.values():
            raise ValueError(f"weights {self.weights} must differ from 0")
        return self

    @property
    def name(self) -> str:
        """What is maximized, in words: ``contrast``, or ``contrast + 0.5 dsg``."""
        return " + ".join(
            name if weight == 1 else f"{weight:g} {name}" for name, weight in self.weights.items()
        )
