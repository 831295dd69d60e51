"""Section ``reward``: what alignment maximizes."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from boig_core.config.resources import Resources
from boig_core.config.section import Fraction, Names, Section

RewardName = Literal["contrast", "mean_logprob", "dsg", "attribute_similarity", "engagement"]
"""A formulation of the reward."""


class Reward(Section):
    """What the alignment maximizes. Formulations: ``contrast``, how much likelier BoigLLM finds the
    image's description at a high KPI than at a low one; ``mean_logprob``, its mean log-probability
    per token at a high KPI; ``dsg``, the published sum of token probabilities, which grows with the
    text's length; ``attribute_similarity``, likeness to what BoigLLM expects at a high KPI;
    ``engagement``, the KPI that the engagement predictor expects."""

    weights: dict[RewardName, float] = Field({"contrast": 1.0}, min_length=1)
    """Formulations of the reward, by their weights. Of several, each counts in units of its own
    spread on real validation images; one alone keeps its own unit."""
    clip_percentiles: tuple[float, float] = (1.0, 99.0)
    """Rewards are clipped to the range between these two percentiles of the reward on real
    validation images, so that no odd image rules an update."""
    posts: int = Field(600, ge=10)
    """Largest number of images of held-out posts, in each of the splits validation and test, on
    which the calibration measures rewards. More give narrower intervals and take longer."""
    min_auc: Fraction | None = Field(0.5, ge=0, lt=1)
    """``ddpo`` refuses a reward unless the whole 95 % interval of its AUC, high against low KPI on
    real test images, lies above this value; a guess has an AUC of one half. The promotion asks for
    the same; null: any reward is accepted."""
    chunk: int = Field(32, ge=1)
    """Images that are scored at a time. It is fixed, so that a chunk that is scored again gives the
    same bits; lower it where memory is short."""
    split: Literal["train", "validation", "test", "held_out"] = "test"
    """Split whose images the stage ``score_rewards`` scores where it is given no folder of
    images."""
    actors: int = Field(1, ge=1)
    """Processes (Ray actors) that score images. Add some where ``idle_reward_actors`` in the
    metrics is near 0."""
    resources: Resources | None = None
    """What each of these processes asks of the cluster. null: the recipe's ``resources``."""
    runtime_env: Annotated[str | None, Names("runtime_env")] = None
    """Ray runtime environment of these processes, by its name in the installation's policy. null:
    that of the job."""
    timeout_s: float = Field(600.0, gt=0)
    """Longest time for the scoring of a chunk, in seconds. A process that takes longer is replaced,
    and its chunk is scored again."""

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
