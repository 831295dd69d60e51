"""What the law looks at in an image, in one neutral form for both sources: a scene (the truth) or
pixels (the oracle's measurement).

Nothing is weighed here (see `law`) and no pixel is read (see `oracle`); both sources share the
naming of colors and tones below.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from boig_core.adworld.drawing import silhouette
from boig_core.adworld.scene import OBJECT_COLORS, RADII, RGB, Scene, Thing
from boig_core.vocabulary import TONES

UNKNOWN: Final = "unknown"
"""The kind of an object that matches no silhouette; neutral to every term of a law that names a
kind."""
GRADIENT_DISTANCE: Final = 60.0
"""RGB distance from top to bottom above which a background counts as a gradient; the closest two
names are 83 apart."""

_ROWS: Final = 64
_NEUTRAL_CHROMA: Final = 45.0
_PALETTE_N3: Final = np.array([RGB[name] for name in OBJECT_COLORS], np.float32)


@dataclass(frozen=True)
class Features:
    """An image as a law sees it.

    Attributes:
        background: color name to its share of the background; sums to 1.
        tones: warm, neutral, cool to their shares of the image; sums to 1.
        gradient: whether the background changes from top to bottom.
        things: the objects; kind may be `UNKNOWN`.
    """

    background: Mapping[str, float]
    tones: Mapping[str, float]
    gradient: bool
    things: tuple[Thing, ...]


def nearest_names(rgb_N3: NDArray[np.float32]) -> NDArray[np.intp]:
    """Index into `OBJECT_COLORS` of the nearest color, by RGB distance; input (N, 3), result
    (N,)."""
    distances_NP = ((rgb_N3[:, None, :] - _PALETTE_N3) ** 2).sum(axis=-1)
    return np.asarray(distances_NP.argmin(axis=1), np.intp)


def tone_shares(rgb_N3: NDArray[np.float32]) -> dict[str, float]:
    """Shares of warm, neutral and cool among RGB rows (N, 3): neutral by small chroma, warm by a
    hue from magenta-red to yellow."""
    high, low = rgb_N3.max(axis=1), rgb_N3.min(axis=1)
    neutral = high - low < _NEUTRAL_CHROMA
    red, green, blue = rgb_N3.T
    # Red leads, and either green stands above blue (red to yellow) or blue trails red by half the
    # chroma (pinks, not purples).
    warm = ~neutral & (red >= high - 25) & ((green >= blue) | (red - blue >= 0.5 * (high - low)))
    return dict(
        zip(
            TONES,
            (float(warm.mean()), float(neutral.mean()), float((~neutral & ~warm).mean())),
            strict=True,
        )
    )


def background_shares(
    top_3: NDArray[np.float32], bottom_3: NDArray[np.float32]
) -> dict[str, float]:
    """Share of each color name along the straight gradient from one RGB color to another."""
    counts = np.bincount(
        nearest_names(gradient_rows(top_3, bottom_3)), minlength=len(OBJECT_COLORS)
    )
    return {
        name: float(count) / _ROWS
        for name, count in zip(OBJECT_COLORS, counts, strict=True)
        if count
    }


def gradient_rows(top_3: NDArray[np.float32], bottom_3: NDArray[np.float32]) -> NDArray[np.float32]:
    """RGB rows (64, 3) evenly along a gradient."""
    share_N = np.linspace(0, 1, _ROWS, dtype=np.float32)
    return np.asarray(top_3 + share_N[:, None] * (bottom_3 - top_3), np.float32)


@cache
def area(kind: str, size: str) -> float:
    """The share of an image that an object covers."""
    # Measured at one size for all: a share of the image is the same at any side.
    return float(silhouette(kind, (32, 32), RADII[size] * 64, (64, 64), 4).mean())


@cache
def _ground(background: str, gradient: str | None) -> tuple[dict[str, float], dict[str, float]]:
    top_3, bottom_3 = (
        np.array(RGB[background], np.float32),
        np.array(RGB[gradient or background], np.float32),
    )
    return background_shares(top_3, bottom_3), tone_shares(gradient_rows(top_3, bottom_3))


@cache
def _tone_of(color: str) -> str:
    shares = tone_shares(np.array([RGB[color]], np.float32))
    return max(shares, key=shares.__getitem__)


def of_scene(scene: Scene) -> Features:
    """The true features of a scene."""
    background, ground_tones = _ground(scene.background, scene.gradient)
    # Objects of a scene never touch, so what they cover adds up.
    left = 1 - sum(area(thing.kind, thing.size) for thing in scene.things)
    tones = {tone: left * share for tone, share in ground_tones.items()}
    for thing in scene.things:
        tones[_tone_of(thing.color)] += area(thing.kind, thing.size)
    return Features(background, tones, scene.gradient is not None, scene.things)
