"""Tones of images: the shares of warm, neutral and cool pixels (PAPER section 2; the thresholds are ours, the paper gives none).

In OKLab, a pixel is neutral when its chroma is below `NEUTRAL_CHROMA`, warm when its hue runs from crimson over red, orange and brown to
yellow (`WARM_HUES`), else cool: greens, blues, violets, magentas. Shape letters: B images, H height, W width, C = 3.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from boig_core.perception.colors import to_hundredths
from boig_core.vocabulary import TONES

NEUTRAL_CHROMA: Final = 0.035
WARM_HUES: Final = (-20.0, 113.0)
"""OKLab hue angles in degrees: pinks begin at about -5, pure yellow is at 110, greens follow from 120."""


def measure_tones(lab_BHWC: NDArray[np.float32]) -> list[dict[str, float]]:
    """Shares of warm, neutral and cool of each OKLab image; hundredths that sum to exactly 1, in the order of `TONES`."""
    a, b = lab_BHWC[..., 1], lab_BHWC[..., 2]
    neutral = a**2 + b**2 < NEUTRAL_CHROMA**2
    hue = np.degrees(np.arctan2(b, a))
    warm = ~neutral & (hue >= WARM_HUES[0]) & (hue <= WARM_HUES[1])
    counts_B3 = np.stack([mask.sum(axis=(1, 2)) for mask in (warm, neutral, ~warm & ~neutral)], axis=1)
    return [dict(zip(TONES, to_hundredths(counts_3), strict=True)) for counts_3 in counts_B3]
