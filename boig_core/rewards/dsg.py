"""The reward as published (PAPER section 6): sum of the token probabilities under HIGH. It grows with the text's length: a known flaw."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def dsg(high_T: NDArray[np.float64], low_T: NDArray[np.float64]) -> float:
    """Sum of ``p(token | HIGH)`` over one answer's tokens (T); LOW is not looked at. At least 0, at most the number of tokens."""
    del low_T
    return float(np.exp(high_T).sum())
