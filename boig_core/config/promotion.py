"""Section ``promotion``: the gates that a candidate passes before a person is asked."""

from __future__ import annotations

from pydantic import Field

from boig_core.config.monitors import Monitor
from boig_core.config.section import Fraction, Section


class Promotion(Section):
    """Gates that a candidate passes before a person is asked; beside them stands the reward's own
    (`Reward.min_auc`)."""

    min_reward_gain: float = 0.0
    """Lower end of the paired 95 % interval of reward, candidate minus base, must exceed this."""
    min_judge_gain: float | None = 0.0
    """The same for the held-out judge; null: this gate is not asked."""
    min_champion_gain: float | None = 0.0
    """The same for the held-out judge, candidate minus the registry's champion; below 0 a candidate
    may be worse by that much; null: not asked. Without a champion the gate does not apply."""
    min_clip_margin: Fraction = Field(0.9, ge=0)
    """Share of the base's CLIP margin (matched minus mismatched captions) that must be kept."""
    min_diversity: Fraction = Field(0.5, ge=0)
    """Share of the base's diversity that must be kept."""
    max_fid: float | None = Field(2.0, gt=0)
    """FID, as a share of the base's, must not exceed this where it is measured; null: not asked."""
    silent: tuple[Monitor, ...] = ("fall", "collapse", "drift", "overoptimization")
    """Monitors of ddpo that must not have tripped; one that is off, or needs a probe that the
    training does without, is silent."""
    max_days: float = Field(7.0, gt=0)
    """Days that the approval waits for a person."""
