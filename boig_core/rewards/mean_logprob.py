"""Mean token log-probability under HIGH (PAPER section 6): free of the text's length, yet it also pays for text that is merely typical."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def mean_logprob(high_T: NDArray[np.float64], low_T: NDArray[np.float64]) -> float:
    """Mean of ``log p(token | HIGH)`` over one answer's tokens (T), in nats a token; LOW is not looked at. At most 0."""
    del low_T
    return float(high_T.mean())
