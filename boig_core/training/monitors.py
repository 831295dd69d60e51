"""Monitors: signs in a run's metrics that it stopped improving or started to harm itself, each a
pure function of the rows so far.

They read the training's own metrics, its probe on held-out prompts included; the held-out judge of
the evaluation has no part in them. Leaves out: where the metrics come from, and what a loop does
when a monitor trips (`Action`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

from boig_core.config import Action, Monitors

Row = Mapping[str, float]
HELD_OUT: Final = ("probe_engagement", "probe_reward")
"""What a probe says of a policy's worth, the better witness first: an engagement predictor that is
not maximized, then the reward on prompts that are not trained on. The spread over its images stands
beside, as ``…_std``."""
MARGIN: Final = "probe_clip_margin"
WATCHED: Final = (
    "reward",
    "reward_std",
    "similarity",
    "color_entropy",
    MARGIN,
    *(n for m in HELD_OUT for n in (m, f"{m}_std")),
)
"""Metrics that monitors read: what a checkpoint keeps of each epoch. Those of the probe stand in
the rows of probed epochs alone."""

MONITORS: Final = tuple(Monitors.model_fields)
"""Names of the monitors."""


@dataclass(frozen=True)
class Trip:
    """A monitor that found its sign.

    Attributes:
        monitor: its name in `ddpo.monitors`.
        epoch: number of the epoch whose row showed it, from 0.
        action: what the recipe wants done.
        met: what was measured against which threshold.
        remedy: what a person can do.
    """

    monitor: str
    epoch: int
    action: Action
    met: str
    remedy: str

    def __str__(self) -> str:
        return f"monitor {self.monitor} in epoch {self.epoch + 1}: {self.met}; {self.remedy} (action: {self.action})"

    def state(self) -> dict[str, Any]:
        """As JSON takes it; ``Trip(**state)`` makes it again."""
        return asdict(self)


def plateau(rows: Sequence[Row], epochs: int, rise: float) -> str | None:
    """No row of the last ``epochs`` beats the best before them by ``rise`` spreads of the first
    epoch's rewards."""
    if len(rows) <= epochs:
        return None
    rewards = [row["reward"] for row in rows]
    before, latest = max(rewards[:-epochs]), max(rewards[-epochs:])
    # In spreads of the first epoch, so that a reward in other units gets the same verdict.
    needed = rise * rows[0]["reward_std"]
    if latest - before > needed:
        return None
    return f"best reward of the last {epochs} epochs {latest:.4g}, best before {before:.4g}, must rise by more than {needed:.4g}"


def fall(rows: Sequence[Row], epochs: int, share: float) -> str | None:
    """The mean reward of the last ``epochs`` lies below the best such mean by more than ``share``
    of the rise up to it.

    A rise below the spread of the first epoch's rewards counts as that spread: else a run that
    never rose would trip on its noise.
    """
    if len(rows) <= epochs:
        return None
    # Means of whole windows alone (`valid`): one that is cut off at the end looks like a fall.
    means = np.convolve([row["reward"] for row in rows], np.ones(epochs) / epochs, mode="valid")
    floor = means.max() - share * max(means.max() - means[0], rows[0]["reward_std"])
    if means[-1] >= floor:
        return None
    return f"mean reward of the last {epochs} epochs {means[-1]:.4g}, best {means.max():.4g}, must not fall below {floor:.4g}"


def collapse(rows: Sequence[Row], diversity: float, entropy: float) -> str | None:
    """Images of a prompt, or their colors, keep less than a share of the variety of the first
    epoch, whose policy is the base."""
    first, last = rows[0], rows[-1]
    kinds = {
        "diversity within a prompt (1 - similarity)": (
            1 - last["similarity"],
            diversity * (1 - first["similarity"]),
        ),
        "color entropy in bits": (last["color_entropy"], entropy * first["color_entropy"]),
    }
    met = [
        f"{kind} {value:.4g}, must not fall below {floor:.4g}"
        for kind, (value, floor) in kinds.items()
        if value < floor
    ]
    return " and ".join(met) or None


def drift(rows: Sequence[Row], margin: float) -> str | None:
    """The probe's CLIP margin keeps less than a share of that of the first probe, whose policy is
    the base.

    A base whose images fit their prompts no better than others has nothing that could be lost.
    """
    # In epochs without a probe there is nothing new to say.
    if MARGIN not in rows[-1]:
        return None
    base, last = next(row[MARGIN] for row in rows if MARGIN in row), rows[-1][MARGIN]
    if base <= 0 or last >= margin * base:
        return None
    return f"CLIP margin on held-out prompts {last:.4g}, of the base {base:.4g}, must not fall below {margin * base:.4g}"


def overoptimization(rows: Sequence[Row], rise: float, fall: float) -> str | None:
    """Since the best probe by a measure of `HELD_OUT` that measure fell by more than ``fall``
    spreads, and the reward rose by more than ``rise``.

    Held against the best probe and not against the base, so that a training ends while its policy
    is still better than the base.
    """
    met = []
    for kind in HELD_OUT:
        if kind not in rows[-1]:
            continue
        probed = [row for row in rows if kind in row]
        best = max(probed, key=lambda row: row[kind])
        rose, fell = rows[-1]["reward"] - best["reward"], best[kind] - rows[-1][kind]
        if rose > rise * rows[0]["reward_std"] and fell > fall * probed[0][f"{kind}_std"]:
            met.append(
                f"{kind} fell from {best[kind]:.4g} to {rows[-1][kind]:.4g} while the reward rose by {rose:.4g}"
            )
    return " and ".join(met) or None


def quality(row: Row, *, probed: bool) -> float | None:
    """What the choice of the best epoch goes by; None where the epoch is no candidate.

    Args:
        row: of the epoch.
        probed: whether the training probes: then only probed epochs are candidates, by the first of
            `HELD_OUT` that there is.
    """
    return next((row[kind] for kind in HELD_OUT if kind in row), None) if probed else row["reward"]


def check(monitors: Monitors, rows: Sequence[Row]) -> list[Trip]:
    """The monitors that trip on the newest of the rows, those switched off left out.

    Args:
        monitors: thresholds and actions.
        rows: one of each epoch from the first on, with the metrics of `WATCHED` that it has; not
            empty.
    """
    tripped = {
        "plateau": (
            monitors.plateau.action,
            plateau(rows, monitors.plateau.epochs, monitors.plateau.rise),
            "end here, or sample more images per prompt or lower ddpo.lr",
        ),
        "fall": (
            monitors.fall.action,
            fall(rows, monitors.fall.epochs, monitors.fall.share),
            "lower ddpo.lr or ddpo.clip_ratio, or keep the best epoch",
        ),
        "collapse": (
            monitors.collapse.action,
            collapse(rows, monitors.collapse.diversity, monitors.collapse.entropy),
            "look at the sample grids, then train fewer epochs or lower ddpo.lr",
        ),
        "drift": (
            monitors.drift.action,
            drift(rows, monitors.drift.margin),
            "look at the sample grids, then train fewer epochs or lower ddpo.lr",
        ),
        "overoptimization": (
            monitors.overoptimization.action,
            overoptimization(rows, monitors.overoptimization.rise, monitors.overoptimization.fall),
            "keep the best epoch, or weigh the reward with another formulation",
        ),
    }
    return [
        Trip(name, len(rows) - 1, action, met, remedy)
        for name, (action, met, remedy) in tripped.items()
        if action != "off" and met is not None
    ]
