"""Section ``ddpo.monitors``: signs of an alignment that fails, and what each does."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from boig_core.config.section import Fraction, Section

Action = Literal["off", "warn", "stop", "keep_best"]
"""What a tripped monitor does: nothing; one line in the log; end the training with what it has; end
it with the best epoch's policy."""
Monitor = Literal["plateau", "fall", "collapse", "drift", "overoptimization"]
"""A sign of a training that fails."""


class Plateau(Section):
    """The reward no longer rises."""

    action: Action = "warn"
    """What happens then: ``off``, nothing; ``warn``, a line in the log; ``stop``, the training ends
    with the model that it has; ``keep_best``, it ends with the model of its best epoch."""
    epochs: int = Field(10, ge=1)
    """Latest epochs whose best reward is held against the best of all epochs before."""
    rise: float = Field(0.05, ge=0)
    """Rise that is expected of them, in spreads (standard deviations) of the first epoch's rewards.
    0: any rise is enough."""


class Fall(Section):
    """The reward falls again."""

    action: Action = "warn"
    """What happens then: ``off``, nothing; ``warn``, a line in the log; ``stop``, the training ends
    with the model that it has; ``keep_best``, it ends with the model of its best epoch."""
    epochs: int = Field(3, ge=1)
    """Epochs whose mean reward is compared, since the reward of a single epoch is noisy."""
    share: Fraction = Field(0.5, gt=0, le=1)
    """Share of the rise up to the best mean reward that may be lost again. A rise of less than one
    spread of the first epoch's rewards counts as one."""


class Collapse(Section):
    """Images grow alike."""

    action: Action = "warn"
    """What happens then: ``off``, nothing; ``warn``, a line in the log; ``stop``, the training ends
    with the model that it has; ``keep_best``, it ends with the model of its best epoch."""
    # Under a reward for warm colors alone the tiny model kept 26 % of it where a CLIP still found
    # 68 % of the variety, and two epochs later 4 % where the CLIP found 34 %.
    diversity: Fraction = Field(0.25, ge=0, le=1)
    """Share of the first epoch's difference between images of one prompt that must stay. Keep it
    low: it is a difference of pixels, and images that all take on the rewarded colors lose most of
    it long before they show the same."""
    entropy: Fraction = Field(0.5, ge=0, le=1)
    """Share of the first epoch's entropy of palette colors, a measure of how many colors images
    show, that must stay."""


class Drift(Section):
    """Images no longer show what their prompts say."""

    action: Action = "warn"
    """What happens then: ``off``, nothing; ``warn``, a line in the log; ``stop``, the training ends
    with the model that it has; ``keep_best``, it ends with the model of its best epoch."""
    margin: Fraction = Field(0.8, gt=0, le=1)
    """Share of the base model's CLIP margin that must stay: how much better the probe's images fit
    their own prompt than the other prompts."""


class Overoptimization(Section):
    """The reward rises, and what it stands for falls: the engagement predictor on held-out prompts,
    or the reward on them."""

    action: Action = "warn"
    """What happens then: ``off``, nothing; ``warn``, a line in the log; ``stop``, the training ends
    with the model that it has; ``keep_best``, it ends with the model of its best epoch."""
    rise: float = Field(0.5, ge=0)
    """Rise of the training's reward since the best probe that makes a fall suspicious, in spreads
    (standard deviations) of the first epoch's rewards."""
    fall: float = Field(0.5, gt=0)
    """Fall of the probe since its best that counts, in spreads of the first probe's images. Smaller
    values mistake chance for a fall: between two means of 64 independent images the standard error
    is 0.18."""


class Monitors(Section):
    """Signs of an alignment that fails, checked after each epoch; ``drift`` and
    ``overoptimization`` in epochs with a probe alone."""

    plateau: Plateau = Plateau()
    """What to do when the reward no longer rises."""
    fall: Fall = Fall()
    """What to do when the reward loses what it has gained."""
    collapse: Collapse = Collapse()
    """What to do when images lose their variety."""
    drift: Drift = Drift()
    """What to do when images lose what their prompts say."""
    overoptimization: Overoptimization = Overoptimization()
    """What to do when the reward is hacked, or learned by heart."""

    @property
    def keeps_best(self) -> bool:
        """Whether any monitor may ask for the policy of the best epoch."""
        return any(getattr(self, name).action == "keep_best" for name in type(self).model_fields)
