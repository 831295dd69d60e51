"""Section ``promotion``: the gates that a candidate passes before a person is asked."""

from __future__ import annotations

from pydantic import Field

from boig_core.config.monitors import Monitor
from boig_core.config.section import Fraction, Section


class Promotion(Section):
    """Gates that a candidate must pass before a person is asked to promote it. A number that was
    not measured fails its gate, but for FID; beside these gates stands the reward's own,
    ``reward.min_auc``."""

    min_reward_gain: float = 0.0
    """Smallest gain in reward over the base model: the lower end of the difference's 95 % interval,
    on the same prompts and noise, must lie above it."""
    min_judge_gain: float | None = 0.0
    """Smallest gain over the base by the held-out judge, measured in the same way. null: not asked;
    a recipe without ``evaluation.judge`` must say so."""
    min_champion_gain: float | None = 0.0
    """Smallest gain over the registry's champion by the held-out judge, measured in the same way;
    below 0 a candidate may be worse by that much. null: not asked. The first model has no champion
    to beat."""
    min_clip_margin: Fraction = Field(0.9, ge=0)
    """Share of the base's CLIP margin that must be kept: how much better images fit their own
    prompt than others. 0: not asked."""
    min_diversity: Fraction = Field(0.5, ge=0)
    """Share of the base's diversity, how much images of one prompt differ by CLIP, that must be
    kept. 0: not asked."""
    max_fid: float | None = Field(2.0, gt=0)
    """Largest FID (distance from real images), as a multiple of the base's. null, or where there
    are too few images to measure it: not asked."""
    silent: tuple[Monitor, ...] = ("fall", "collapse", "drift", "overoptimization")
    """Monitors of ``ddpo`` that must not have tripped. One that is off, lacks a probe, or has kept
    the best epoch counts as silent; empty: none is asked."""
    max_days: float = Field(7.0, gt=0)
    """Days that the approval waits for a person. Then its task fails, and the champion stays."""
