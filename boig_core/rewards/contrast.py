"""Evidence for a high KPI: what is merely typical is equally likely under HIGH and LOW, and
cancels."""

from __future__ import annotations

from boig_core.rewards.evidence import RewardEvidence, require


def contrast(evidence: RewardEvidence) -> float:
    """``log p(answer | HIGH) - log p(answer | LOW)``, in nats: above 0 speaks for HIGH."""
    return float(require(evidence.high_T).sum() - require(evidence.low_T).sum())
