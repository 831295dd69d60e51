"""Colors of images: the nearest of the 40 palette names, with coverage.

Every pixel takes the name that is nearest in OKLab, where equal distances look equally different;
`cell_names` answers that for the 64 x 64 x 64 RGB cells, so that a pixel costs one look into a
table. In small images, pixels that merely mix their two neighbors, as every downsized edge does,
count as the nearer neighbor: else an edge between red and blue shows up as Purple. Leaves out:
counting (see `census`) and tones (see `tones`). Shape letters: B images, H height, W width, C = 3
channels, P palette, N cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from boig_core.vocabulary import PALETTE

NAMES: Final = tuple(PALETTE)
CELL: Final = 4
"""RGB levels along a side of a cell of the lookup table."""
CELLS: Final = 256 // CELL
_EDGE: Final = 45.0
"""RGB distance across two pixels from which the one between them may be a mixture; gradients stay
below."""
_DETOUR: Final = 1.08
"""How much longer than straight the way over a mixture may be: room for noise and JPEG."""

# Björn Ottosson, "A perceptual color space for image processing" (2020).
_LMS: Final = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ],
    np.float32,
)
_LAB: Final = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ],
    np.float32,
)
_LEVELS: Final = np.arange(256, dtype=np.float32) / 255
_LINEAR: Final = np.where(
    _LEVELS <= 0.04045, _LEVELS / 12.92, ((_LEVELS + 0.055) / 1.055) ** 2.4
).astype(np.float32)


def to_oklab(rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
    """OKLab (L in [0, 1], a, b) of sRGB pixels; any shape (..., 3), kept."""
    return np.asarray(np.cbrt(_LINEAR[rgb] @ _LMS.T) @ _LAB.T, np.float32)


def unmix(rgb_BHWC: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Replace each pixel that mixes its two neighbors, left and right or above and below, by the
    nearer of them.

    A mixture lies on the straight line between two clearly different colors in RGB, because that is
    where downsizing averages.
    """
    # Both directions compare pixels of the original: comparing with what was replaced already would
    # let colors creep.
    float_BHWC = rgb_BHWC.astype(np.float32)
    result_BHWC = rgb_BHWC.copy()
    for axis in (2, 1):
        before, here, after = (_shifted(axis, step) for step in (0, 1, 2))
        to_before = _distance(float_BHWC[here], float_BHWC[before])
        to_after = _distance(float_BHWC[here], float_BHWC[after])
        across = _distance(float_BHWC[after], float_BHWC[before])
        mixed = (across > _EDGE) & (to_before + to_after < _DETOUR * across)
        nearer = np.where((to_before < to_after)[..., None], rgb_BHWC[before], rgb_BHWC[after])
        result_BHWC[here] = np.where(mixed[..., None], nearer, result_BHWC[here])
    return result_BHWC


def name_shares(
    counts_P: NDArray[np.intp], max_colors: int, min_coverage: float
) -> dict[str, float]:
    """Palette names and coverage of an image, the largest first.

    Args:
        counts_P: pixels of each name.
        max_colors: at most this many names.
        min_coverage: names that cover less are folded into the kept name that looks most like them.

    Returns:
        Coverages are hundredths that sum to exactly 1. The paper's 3 to 5 names are a habit of
        photographs: an image that shows fewer names gets fewer, because a third one would be made
        up.
    """
    largest = np.argsort(-counts_P, kind="stable")[:max_colors]
    # At least one pixel, also where no coverage is asked for. In the palette's order, so that a tie
    # of distances does not depend on counts.
    kept = np.sort(largest[counts_P[largest] >= max(1, min_coverage * counts_P.sum())])
    # In noise every color may cover too little, and an image has at least one name.
    if len(kept) == 0:
        kept = largest[:1]
    folded = np.bincount(
        _distances()[:, kept].argmin(axis=1), weights=counts_P, minlength=len(kept)
    )
    shares = to_hundredths(folded)
    order = sorted(range(len(kept)), key=lambda k: (-shares[k], NAMES[kept[k]]))
    return {NAMES[kept[k]]: shares[k] for k in order if shares[k] > 0}


def to_hundredths(weights: Sequence[float] | NDArray[Any]) -> list[float]:
    """Weights as shares with two digits that sum to exactly 1, by largest remainder (the earlier
    wins a tie)."""
    exact = 100 * np.asarray(weights, np.float64) / np.sum(weights)
    whole = np.floor(exact)
    missing = round(100 - float(whole.sum()))
    whole[np.argsort(-(exact - whole), kind="stable")[:missing]] += 1
    return [float(int(share)) / 100 for share in whole]


def _distance(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(np.sqrt(((a - b) ** 2).sum(axis=-1)), np.float32)


def _shifted(axis: int, step: int) -> tuple[slice, ...]:
    """The index of every pixel that has two neighbors along ``axis``, moved by ``step - 1``."""
    index = [slice(None)] * 3
    # The end of the last one would be -0, which is the beginning; None is the end.
    index[axis] = slice(step, -2 + step or None)
    return tuple(index)


@cache
def _palette() -> NDArray[np.float32]:
    return to_oklab(np.array(list(PALETTE.values()), np.uint8))


@cache
def _distances() -> NDArray[np.float32]:
    return np.asarray(((_palette()[:, None] - _palette()[None]) ** 2).sum(axis=-1), np.float32)


@cache
def cell_names() -> NDArray[np.uint8]:
    """Index of the name that is nearest to the middle of each RGB cell, (64, 64, 64)."""
    levels = np.arange(CELL // 2, 256, CELL, dtype=np.uint8)
    cells = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1)
    lab_N3, palette_P3 = to_oklab(cells.reshape(-1, 3)), _palette()
    # |lab|^2 is the same for every name, so it is left out of the comparison.
    scores_NP = (palette_P3**2).sum(axis=1) - 2 * lab_N3 @ palette_P3.T
    return np.asarray(scores_NP.argmin(axis=1).reshape(cells.shape[:3]), np.uint8)
