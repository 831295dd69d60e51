"""Tones of images: the shares of warm, neutral and cool pixels (as in the paper; the thresholds are
ours, the paper gives none).

In OKLab, a pixel is neutral when its chroma is below `NEUTRAL_CHROMA`, warm when its hue runs from
crimson over red, orange and brown to yellow (`WARM_HUES`), else cool: greens, blues, violets,
magentas. Leaves out: counting (see `census`). Shape letters: N colors, C = 3.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from boig_core.vocabulary import TONES

NEUTRAL_CHROMA: Final = 0.035
WARM_HUES: Final = (-20.0, 113.0)
"""OKLab hue angles in degrees: pinks begin at about -5, pure yellow is at 110, greens follow from
120."""


def tones_of(lab_NC: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The tone of OKLab colors as an index into `TONES`; any shape (..., 3)."""
    a, b = lab_NC[..., 1], lab_NC[..., 2]
    hue = np.degrees(np.arctan2(b, a))
    chromatic = np.where(
        (hue >= WARM_HUES[0]) & (hue <= WARM_HUES[1]), TONES.index("warm"), TONES.index("cool")
    )
    # Gray first: where chroma is low, hue is noise.
    return np.where(a**2 + b**2 < NEUTRAL_CHROMA**2, TONES.index("neutral"), chromatic).astype(
        np.uint8
    )
