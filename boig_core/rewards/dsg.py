"""The reward as published: sum of the token probabilities under HIGH. It grows with the text's
length: a known flaw."""

from __future__ import annotations

import numpy as np

from boig_core.rewards.evidence import RewardEvidence, require


def dsg(evidence: RewardEvidence) -> float:
    """Sum of ``p(token | HIGH)`` over the answer's tokens. At least 0, at most the number of
    tokens."""
    return float(np.exp(require(evidence.high_T)).sum())
