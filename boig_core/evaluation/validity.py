"""Does a reward tell high-KPI images from low ones? Measured on held-out real images, always within an account.

Accounts differ in level, so a reward that only knew the account would look good over all of them; no pair and no correlation below
crosses accounts. Leaves out: how rewards are computed (`boig_core.rewards`) and choosing the images. R resamples, N images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from boig_core.errors import InputError
from boig_core.evaluation.intervals import interval, resample_counts
from boig_core.vocabulary import Sample


@dataclass(frozen=True)
class Validity:
    """How well one reward tells the KPI, on one split.

    Attributes:
        auc_high_vs_low: chance that, of a HIGH and a LOW image of one account, HIGH has the higher reward; ties count half; pairs pooled.
        auc_interval: its 95 % interval, posts resampled within account.
        pearson: correlation of reward and normalized KPI, both centered within account, over all buckets.
        pearson_interval: its 95 % interval.
        length_correlation: correlation of reward and answer length in tokens; a reward that pays for length shows here; None where
            lengths do not vary.
        n: images.
        pairs: HIGH and LOW pairs within accounts.
    """

    auc_high_vs_low: float
    auc_interval: tuple[float, float]
    pearson: float
    pearson_interval: tuple[float, float]
    length_correlation: float | None
    n: int
    pairs: int

    def as_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return asdict(self)


def validity(
    reward_N: NDArray[np.float64], length_N: NDArray[np.float64], samples: Sequence[Sample], *, resamples: int, seed: int
) -> Validity:
    """Measure one reward on real images.

    Args:
        reward_N: reward of each sample's own image.
        length_N: tokens of each answer.
        samples: whose accounts, buckets and KPIs are compared.
        resamples: draws of the bootstrap.
        seed: of the draws.

    Raises:
        InputError: no account has both a HIGH and a LOW image here, or reward or KPI are all alike within accounts.
    """
    accounts = [sample.account for sample in samples]
    counts_RN = resample_counts([sample.post for sample in samples], resamples, seed, strata=accounts)
    weights_RN = np.concatenate([np.ones((1, len(samples))), counts_RN])
    auc_R, pairs = _auc(reward_N, samples, weights_RN)
    kpi_N = np.array([sample.kpi_normalized for sample in samples])
    pearson_R = _pearson_within(reward_N, kpi_N, accounts, weights_RN)
    if not np.isfinite(pearson_R[0]):
        raise InputError(f"reward or KPI of {len(samples)} held-out images", "must vary within an account", "ingest more posts")
    length = float(_pearson_within(reward_N, np.asarray(length_N, np.float64), ["all"] * len(samples), weights_RN[:1])[0])
    return Validity(
        auc_high_vs_low=float(auc_R[0]),
        auc_interval=interval(auc_R[1:]),
        pearson=float(pearson_R[0]),
        pearson_interval=interval(pearson_R[1:]),
        length_correlation=length if np.isfinite(length) else None,
        n=len(samples),
        pairs=pairs,
    )


def _auc(reward_N: NDArray[np.float64], samples: Sequence[Sample], weights_RN: NDArray[np.float64]) -> tuple[NDArray[np.float64], int]:
    """Pooled AUC within accounts for each row of weights, and the number of pairs."""
    wins_R, total_R, pairs = np.zeros(len(weights_RN)), np.zeros(len(weights_RN)), 0
    account_N = np.array([sample.account for sample in samples])
    bucket_N = np.array([sample.bucket or "" for sample in samples])
    for account in np.unique(account_N):
        high = np.flatnonzero((account_N == account) & (bucket_N == "high"))
        low = np.flatnonzero((account_N == account) & (bucket_N == "low"))
        margin_HL = reward_N[high][:, None] - reward_N[low][None, :]
        won_HL = (np.sign(margin_HL) + 1) / 2
        wins_R += np.einsum("rh,hl,rl->r", weights_RN[:, high], won_HL, weights_RN[:, low], optimize=True)
        total_R += weights_RN[:, high].sum(axis=1) * weights_RN[:, low].sum(axis=1)
        pairs += margin_HL.size
    if not pairs:
        raise InputError(f"{len(samples)} held-out images", "hold no HIGH and LOW image of one account", "ingest more posts")
    with np.errstate(invalid="ignore"):
        return wins_R / total_R, pairs


def _pearson_within(
    x_N: NDArray[np.float64], y_N: NDArray[np.float64], groups: Sequence[str], weights_RN: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Weighted correlation of x and y, both centered within their group, for each row of weights; NaN where either does not vary."""
    xy_R, xx_R, yy_R = (np.zeros(len(weights_RN)) for _ in range(3))
    group_N = np.array(groups)
    for group in np.unique(group_N):
        here = np.flatnonzero(group_N == group)
        w_RM = weights_RN[:, here]
        mass_R = np.maximum(w_RM.sum(axis=1), 1e-12)
        x_RM = x_N[here] - (w_RM @ x_N[here] / mass_R)[:, None]
        y_RM = y_N[here] - (w_RM @ y_N[here] / mass_R)[:, None]
        xy_R += (w_RM * x_RM * y_RM).sum(axis=1)
        xx_R += (w_RM * x_RM**2).sum(axis=1)
        yy_R += (w_RM * y_RM**2).sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        spread_R = np.sqrt(xx_R * yy_R)
        return np.where(spread_R > 1e-12, xy_R / spread_R, np.nan)
