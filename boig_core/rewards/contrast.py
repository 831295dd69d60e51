"""Evidence for a high KPI (PAPER section 6): what is merely typical is equally likely under HIGH and LOW, and cancels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def contrast(high_T: NDArray[np.float64], low_T: NDArray[np.float64]) -> float:
    """``log p(answer | HIGH) - log p(answer | LOW)`` of one answer with T tokens, in nats: above 0 speaks for HIGH."""
    return float(high_T.sum() - low_T.sum())
