"""What the runs of `reward_per_cost` say together: shares of the reference's cost, a table, a plot.

Leaves out: training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np

SHARE: Final = 0.25
TARGET: Final = 0.2
"""Share of the reference's compute with which `windowed` must reach the reference's final
reward."""
KEPT: Final = 0.9
Point = dict[str, float]
Run = dict[str, Any]


def final_reward(points: Sequence[Point]) -> float:
    """Mean of the last three measurements."""
    return float(np.mean([point["reward"] for point in points[-3:]]))


def reached(points: Sequence[Point], level: float) -> Point | None:
    """The first place of a curve at which the reward is ``level``, between measurements by a
    straight line; None where it never is."""
    if points[0]["reward"] >= level:
        return dict(points[0])
    for before, after in pairwise(points):
        if after["reward"] >= level:
            share = (level - before["reward"]) / (after["reward"] - before["reward"])
            return {name: before[name] + share * (after[name] - before[name]) for name in before}
    return None


def compare(runs: Mapping[str, Sequence[Run]]) -> dict[str, Any]:
    """What each arm spends until the reference's final reward, and whether `windowed` holds what it
    must.

    Returns:
        ``level``, ``arms`` (shares of the reference's compute and seconds per seed, None where it
        never gets there; CLIP margin and diversity there as shares of the reference's at its end),
        ``holds``: None where the reference or `windowed` was not run.
    """
    if "reference" not in runs:
        return {"level": None, "arms": {}, "holds": None}
    # The mean over the reference's seeds, so one lucky seed sets no level for the others.
    level = float(np.mean([final_reward(run["points"]) for run in runs["reference"]]))
    ends = [run["points"][-1] for run in runs["reference"]]
    whole = {
        name: float(np.mean([end[name] for end in ends]))
        for name in ("compute", "seconds", "clip_margin", "diversity")
    }
    arms = {}
    for arm, of in runs.items():
        places = [reached(run["points"], level) for run in of]
        # Measures exist where the level is reached; a seed that never gets there already fails by
        # its compute.
        there = [place for place in places if place is not None]
        arms[arm] = {
            **{
                name: [None if place is None else place[name] / whole[name] for place in places]
                for name in ("compute", "seconds")
            },
            **{
                name: float(np.mean([place[name] for place in there])) / whole[name]
                if there
                else None
                for name in ("clip_margin", "diversity")
            },
        }
    return {
        "level": level,
        "arms": arms,
        "holds": verdict(arms["windowed"]) if "windowed" in arms else None,
    }


def verdict(arm: Mapping[str, Any]) -> bool:
    """Whether an arm reaches the level on every seed at `TARGET` of the compute, and keeps `KEPT`
    of both measures there."""
    cheap = all(share is not None and share <= TARGET for share in arm["compute"])
    return cheap and all(
        arm[name] is not None and arm[name] >= KEPT for name in ("clip_margin", "diversity")
    )


def table(result: Mapping[str, Any]) -> list[str]:
    """One line per arm, and the verdict."""
    rows = [
        f"{'arm':10} {'lr':>7} {'first':>6} {'final reward':>18} {'at guidance 3':>18}   compute to the reference's final reward"
    ]

    def listed(values: Sequence[float | None], digits: int) -> str:
        return " ".join("never" if value is None else f"{value:.{digits}f}" for value in values)

    for arm, of in result["runs"].items():
        finals, deployed = (
            [final_reward(r["points"]) for r in of],
            [r["deployed"]["reward"] for r in of],
        )
        there = result["arms"].get(arm)
        shares = (
            "-"
            if there is None
            else f"{listed(there['compute'], 2)} of it, seconds {listed(there['seconds'], 2)}, "
            f"CLIP margin {listed([there['clip_margin']], 2)}, diversity {listed([there['diversity']], 2)}"
        )
        first = of[0]["points"][0]["reward"]
        rows.append(
            f"{arm:10} {of[0]['lr']:7g} {first:6.3f} {listed(finals, 3):>18} {listed(deployed, 3):>18}   {shares}"
        )
    if result["holds"] is not None:
        reach = f"windowed reaches {result['level']:.3f} at {TARGET:g} of the compute on every seed"
        rows.append(
            f"{reach} and keeps {KEPT:g} of CLIP margin and diversity: {'holds' if result['holds'] else 'DOES NOT HOLD'}"
        )
    return rows


def plot(runs: Mapping[str, Sequence[Run]], file: Path) -> None:
    """Reward against compute and against seconds: a thin line per seed, a color an arm."""
    import matplotlib

    # Draws into files, so no display is needed.
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4.2), sharey=True)
    for axis, name, label in zip(
        axes, ("compute", "seconds"), ("passes of the UNet (backward = 2)", "seconds"), strict=True
    ):
        for color, (arm, of) in enumerate(runs.items()):
            for number, run in enumerate(of):
                xs, ys = ([point[key] for point in run["points"]] for key in (name, "reward"))
                axis.plot(
                    xs,
                    ys,
                    color=f"C{color}",
                    linewidth=1.2,
                    marker=".",
                    label=arm if number == 0 else None,
                )
        axis.set_xlabel(label)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("share of warm pixels, held-out prompts")
    axes[0].legend()
    figure.tight_layout()
    figure.savefig(file, dpi=150)
    pyplot.close(figure)
