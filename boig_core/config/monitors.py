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
    """What happens then."""
    epochs: int = Field(10, ge=1)
    """Latest epochs that are held against all before."""
    rise: float = Field(0.05, ge=0)
    """Rise that is expected of them, in spreads (standard deviations) of the first epoch's
    rewards."""


class Fall(Section):
    """The reward falls again."""

    action: Action = "warn"
    """What happens then."""
    epochs: int = Field(3, ge=1)
    """Epochs per mean, since the reward of a single epoch is noisy."""
    share: Fraction = Field(0.5, gt=0, le=1)
    """Share of the rise up to the best mean that may be lost."""


class Collapse(Section):
    """Images grow alike."""

    action: Action = "warn"
    """What happens then."""
    diversity: Fraction = Field(0.25, ge=0, le=1)
    """Share of the first epoch's difference between images of one prompt that must stay. Low,
    because it is a difference of pixels: images that all take on the rewarded colors lose most of
    it long before they show the same. Under a reward for warm colors alone the tiny model kept 26 %
    of it where a CLIP still found 68 % of the variety, and two epochs later 4 % where the CLIP
    found 34 %."""
    entropy: Fraction = Field(0.5, ge=0, le=1)
    """Share of the first epoch's entropy of palette colors that must stay."""


class Drift(Section):
    """Images no longer show what their prompts say."""

    action: Action = "warn"
    """What happens then."""
    margin: Fraction = Field(0.8, gt=0, le=1)
    """Share of the base's CLIP margin that must stay: how much better the probe's images fit their
    own prompt than the other prompts."""


class Overoptimization(Section):
    """The reward rises, and what it stands for falls: the engagement predictor on held-out prompts,
    or the reward on them."""

    action: Action = "warn"
    """What happens then."""
    rise: float = Field(0.5, ge=0)
    """Rise of the training's reward since the probe's best, in spreads of the first epoch's
    rewards, that makes a fall suspicious."""
    fall: float = Field(0.5, gt=0)
    """Fall of the probe since its best that counts, in spreads of the first probe's images: between
    two means of 64 independent images the standard error is 0.18."""


class Monitors(Section):
    """Signs of a training that fails, checked after each epoch; the last two where there is a
    probe."""

    plateau: Plateau = Plateau()
    """No rise of the reward."""
    fall: Fall = Fall()
    """Loss of what the reward gained."""
    collapse: Collapse = Collapse()
    """Loss of variety."""
    drift: Drift = Drift()
    """Loss of the prompts' content."""
    overoptimization: Overoptimization = Overoptimization()
    """A reward that is hacked, or learned by heart."""

    @property
    def keeps_best(self) -> bool:
        """Whether any monitor may ask for the policy of the best epoch."""
        return any(getattr(self, name).action == "keep_best" for name in type(self).model_fields)
