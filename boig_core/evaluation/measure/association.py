"""How a reward and a KPI go together within accounts: AUC, Pearson and Spearman, for many bootstrap
resamples at once.

A resample is a row of weights: how often each image was drawn. Accounts differ in level, so a
reward that only knew the account would look good over all of them; no pair and no correlation here
crosses accounts. Leaves out: drawing resamples (`intervals`), and what the numbers are of
(`validity`). R resamples, N images, M images of one account, U distinct values of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
_NOTHING = 1e-28
"""Variance of values scaled to [-1, 1] that is rounding alone."""


def auc_within(
    reward_N: Floats,
    high_N: NDArray[np.bool_],
    low_N: NDArray[np.bool_],
    account_N: NDArray[Any],
    weights_RN: Floats,
) -> Floats:
    """Chance that a HIGH image has the higher reward than a LOW one of its account, for each row of
    weights (R).

    Pairs are pooled over accounts; ties count half. NaN in a row that holds no such pair.
    """
    wins_R, pairs_R = np.zeros(len(weights_RN)), np.zeros(len(weights_RN))
    for here in members(account_N):
        high_RM, low_RM = weights_RN[:, here] * high_N[here], weights_RN[:, here] * low_N[here]
        # No pair is written out: a HIGH image wins against the LOW weight below it, and weights
        # multiply as drawn copies would.
        wins_R += (high_RM * _mass_below(reward_N[here], low_RM)).sum(axis=1)
        pairs_R += high_RM.sum(axis=1) * low_RM.sum(axis=1)
    # 0 / 0 in a resample that drew no pair: NaN, which `interval` leaves out.
    with np.errstate(invalid="ignore"):
        return wins_R / pairs_R


def pearson_within(x_N: Floats, y_N: Floats, account_N: NDArray[Any], weights_RN: Floats) -> Floats:
    """Correlation of x and y, both centered within their account, for each row of weights (R); NaN
    where either does not vary."""
    # Scaled first: centering a large constant leaves rounding of its own size, which would
    # correlate.
    x_N, y_N = _scaled(x_N, account_N), _scaled(y_N, account_N)
    sums_3R = np.zeros((3, len(weights_RN)))
    for here in members(account_N):
        w_RM = weights_RN[:, here]
        # A resample may draw nothing of an account: then all its weights are 0, and so are its
        # products.
        mass_R = np.maximum(w_RM.sum(axis=1), 1e-12)
        x_RM, y_RM = (v_N[here] - (w_RM @ v_N[here] / mass_R)[:, None] for v_N in (x_N, y_N))
        sums_3R += _products(w_RM, x_RM, y_RM)
    return _correlation(sums_3R, weights_RN)


def spearman_within(
    x_N: Floats, y_N: Floats, account_N: NDArray[Any], weights_RN: Floats
) -> Floats:
    """The same of ranks within the account, ties at their mean rank, divided by the account's size
    so that all images weigh alike.

    For one account this is Spearman's coefficient. Ranks are taken anew in each resample.
    """
    sums_3R = np.zeros((3, len(weights_RN)))
    for here in members(account_N):
        w_RM = weights_RN[:, here]
        mass_R1 = np.maximum(w_RM.sum(axis=1, keepdims=True), 1e-12)
        # Mean ranks, as shares, have the mean 1/2 under any weights: 0.5 centers them.
        sums_3R += _products(
            w_RM, *(_mass_below(v_N[here], w_RM) / mass_R1 - 0.5 for v_N in (x_N, y_N))
        )
    return _correlation(sums_3R, weights_RN)


def percentile_within(x_N: Floats, account_N: NDArray[Any]) -> Floats:
    """Rank of each value within its account as a share of it (N), in (0, 1); ties at their mean
    rank."""
    share_N = np.zeros(len(x_N))
    for here in members(account_N):
        share_N[here] = _mass_below(x_N[here], np.ones((1, len(here))))[0] / len(here)
    return share_N


def varies_within(x_N: Floats, account_N: NDArray[Any]) -> bool:
    """Whether x takes two values in at least one account."""
    return any(np.ptp(x_N[here]) > 0 for here in members(account_N))


def members(account_N: NDArray[Any]) -> Iterator[NDArray[np.intp]]:
    """Positions of each account's images."""
    _, place_N = np.unique(account_N, return_inverse=True)
    order_N = np.argsort(place_N, kind="stable")
    yield from np.split(order_N, np.flatnonzero(np.diff(place_N[order_N])) + 1)


def _mass_below(x_M: Floats, weights_RM: Floats) -> Floats:
    """Weight of the values below each value plus half the weight of those equal to it, for each row
    of weights (R, M)."""
    _, place_M = np.unique(x_M, return_inverse=True)
    order_M = np.argsort(place_M, kind="stable")
    # -1 is no place, so the first value starts a group like all others.
    starts_U = np.flatnonzero(np.diff(place_M[order_M], prepend=-1))
    mass_RU = np.add.reduceat(weights_RM[:, order_M], starts_U, axis=1)
    # Less half of the own mass: of those equal to a value, half count as below it.
    below_RM: Floats = (mass_RU.cumsum(axis=1) - mass_RU / 2)[:, place_M]
    return below_RM


def _scaled(x_N: Floats, account_N: NDArray[Any]) -> Floats:
    """Measured from a value of its own account, so that what does not vary is exactly 0, and at
    most 1 in size."""
    from_N = np.zeros(len(x_N))
    for here in members(account_N):
        from_N[here] = x_N[here] - x_N[here[0]]
    return from_N / (np.abs(from_N).max() or 1.0)


def _products(w_RM: Floats, x_RM: Floats, y_RM: Floats) -> Floats:
    return np.stack(
        [
            (w_RM * x_RM * y_RM).sum(axis=1),
            (w_RM * x_RM**2).sum(axis=1),
            (w_RM * y_RM**2).sum(axis=1),
        ]
    )


def _correlation(sums_3R: Floats, weights_RN: Floats) -> Floats:
    # Per unit of weight, so that `_NOTHING` means the same for few images and for many.
    xy_R, xx_R, yy_R = sums_3R / np.maximum(weights_RN.sum(axis=1), 1e-12)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where((xx_R > _NOTHING) & (yy_R > _NOTHING), xy_R / np.sqrt(xx_R * yy_R), np.nan)
