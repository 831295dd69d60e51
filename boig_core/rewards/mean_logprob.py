"""Mean token log-probability under HIGH: free of the text's length, yet it also pays for text that
is merely typical."""

from __future__ import annotations

from boig_core.rewards.evidence import RewardEvidence, require


def mean_logprob(evidence: RewardEvidence) -> float:
    """Mean of ``log p(token | HIGH)`` over the answer's tokens, in nats per token. At most 0."""
    return float(require(evidence.high_T).mean())
