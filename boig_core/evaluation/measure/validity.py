"""Does a reward tell high-KPI images from low ones? Measured on held-out real images, always within
an account.

AUC and correlations with each KPI, the correlation with the answer's length, the share of HIGH by
decile of the reward, and each account alone. What is undefined is None with its reason, never a
number. Leaves out: the statistics (`association`), how rewards are computed (`boig_core.rewards`),
choosing the images, and what follows from it (`boig_core.rewards.calibration`). R resamples, N
images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from boig_core.evaluation.measure.association import (
    Floats,
    auc_within,
    members,
    pearson_within,
    percentile_within,
    spearman_within,
    varies_within,
)
from boig_core.evaluation.measure.intervals import interval, resample_counts
from boig_core.vocabulary import KpiValue, Sample

MIN_POSTS: Final = 10
"""Fewer posts have no interval, fewer HIGH or LOW posts no interval of the AUC: resampling a
handful of posts is sure of anything. At this many a reward of pure noise has its whole interval
above 0.5 in 3 of 100 cases, as it should; with 4 HIGH posts in 6."""
MIN_ACCOUNT: Final = 20
"""Fewer images of an account are counted, not shown; so are accounts with fewer than `MIN_BUCKET`
HIGH or LOW images."""
MIN_BUCKET: Final = 3

Interval = tuple[float, float]
Statistic = Callable[[Floats, Floats, NDArray[Any], Floats], Floats]


@dataclass(frozen=True)
class Agreement:
    """How a reward goes together with one KPI, within accounts.

    Attributes:
        auc_high_vs_low: chance that, of a HIGH and a LOW image of one account, HIGH has the higher
            reward; ties count half; pairs pooled.
        auc_interval: its 95 % interval, posts resampled within account.
        pearson: correlation of reward and normalized KPI, both centered within account, over all
            buckets.
        pearson_interval: its 95 % interval.
        spearman: the same of ranks within account.
        spearman_interval: its 95 % interval.
        n: images that have the KPI.
        pairs: of HIGH and LOW images within accounts.
        undefined: reason of each of these that is None.
    """

    auc_high_vs_low: float | None
    auc_interval: Interval | None
    pearson: float | None
    pearson_interval: Interval | None
    spearman: float | None
    spearman_interval: Interval | None
    n: int
    pairs: int
    undefined: Mapping[str, str]


@dataclass(frozen=True)
class Decile:
    """Images whose reward lies in one tenth of their account's.

    Attributes:
        decile: 1 holds the lowest rewards, 10 the highest.
        n: images.
        share_high: share of them in the HIGH bucket.
        kpi_normalized: mean, 0 to 100.
    """

    decile: int
    n: int
    share_high: float
    kpi_normalized: float


@dataclass(frozen=True)
class Account:
    """One account alone, without intervals; fields as in `Agreement`."""

    n: int
    auc_high_vs_low: float
    spearman: float | None
    undefined: Mapping[str, str]


@dataclass(frozen=True)
class Validity:
    """How well one reward tells the KPI, on one split.

    Attributes:
        kpi: agreement with the KPI that the recipe aims at.
        length_correlation: correlation of reward and answer length in tokens, centered within
            account: a reward that pays for length shows here.
        length_interval: its 95 % interval.
        reliability: deciles of the reward that hold images, from the lowest.
        accounts: accounts with enough images.
        accounts_too_few: how many others there are.
        more_kpis: agreement with each further KPI.
        undefined: reason of each of the two length fields that is None.
    """

    kpi: Agreement
    length_correlation: float | None
    length_interval: Interval | None
    reliability: tuple[Decile, ...]
    accounts: Mapping[str, Account]
    accounts_too_few: int
    more_kpis: Mapping[str, Agreement]
    undefined: Mapping[str, str]

    def as_json(self) -> dict[str, Any]:
        """Plain JSON, the recipe's KPI on the top level."""
        body = asdict(self)
        kpi = body.pop("kpi")
        return {**kpi, **body, "undefined": {**kpi["undefined"], **body["undefined"]}}


def validity(
    reward_N: Floats,
    length_N: Floats,
    samples: Sequence[Sample],
    *,
    more_kpis: Iterable[str] = (),
    resamples: int,
    seed: int,
) -> Validity:
    """Measure one reward on real images.

    Args:
        reward_N: reward of each sample's own image.
        length_N: tokens of each answer.
        samples: whose accounts, buckets and KPIs are compared; at least one.
        more_kpis: names of further KPIs; a sample may lack them.
        resamples: draws of the bootstrap.
        seed: of the draws.

    Raises:
        ValueError: no sample, other than one reward and length a sample, or one that is not finite.
    """
    if (
        not samples
        or not reward_N.shape == length_N.shape == (len(samples),)
        or not np.isfinite([reward_N, length_N]).all()
    ):
        raise ValueError(
            f"{reward_N.shape} rewards and {length_N.shape} lengths of {len(samples)} samples: must be as many and finite"
        )
    own = [KpiValue(sample.kpi, sample.kpi_normalized, sample.bucket) for sample in samples]
    held_out = _Held(samples, resamples, seed)
    length, length_interval = held_out.correlation(
        "length_correlation", "length_interval", pearson_within, reward_N, length_N, "length"
    )
    accounts, too_few = _accounts(reward_N, own, held_out.account_N)
    return Validity(
        kpi=agreement(reward_N, samples, own, resamples=resamples, seed=seed),
        length_correlation=length,
        length_interval=length_interval,
        reliability=_reliability(reward_N, own, held_out.account_N),
        accounts=accounts,
        accounts_too_few=too_few,
        more_kpis={
            name: agreement(
                reward_N,
                samples,
                [sample.more_kpis.get(name) for sample in samples],
                resamples=resamples,
                seed=seed,
            )
            for name in more_kpis
        },
        undefined=held_out.undefined,
    )


def agreement(
    reward_N: Floats,
    samples: Sequence[Sample],
    kpis: Sequence[KpiValue | None],
    *,
    resamples: int,
    seed: int,
) -> Agreement:
    """Measure one reward by one KPI, on the samples that have it.

    Args:
        reward_N: reward of each sample's own image.
        samples: whose accounts and posts count.
        kpis: KPI of each sample, None where it has none.
        resamples: draws of the bootstrap.
        seed: of the draws.
    """
    # Left out before anything is drawn: a resample must not spend its draws on images without this
    # KPI.
    rows = [(index, kpi) for index, kpi in enumerate(kpis) if kpi is not None]
    if not rows:
        names = (
            "auc_high_vs_low",
            "auc_interval",
            "pearson",
            "pearson_interval",
            "spearman",
            "spearman_interval",
        )
        return Agreement(
            None, None, None, None, None, None, 0, 0, dict.fromkeys(names, "no image has this KPI")
        )
    x_N, kpi_N = (
        reward_N[[index for index, _ in rows]],
        np.array([kpi.normalized for _, kpi in rows]),
    )
    high_N, low_N = _in_bucket([kpi for _, kpi in rows])
    held_out = _Held([samples[index] for index, _ in rows], resamples, seed)
    return Agreement(
        *held_out.auc(x_N, high_N, low_N),
        *held_out.correlation("pearson", "pearson_interval", pearson_within, x_N, kpi_N, "KPI"),
        *held_out.correlation("spearman", "spearman_interval", spearman_within, x_N, kpi_N, "KPI"),
        n=len(rows),
        pairs=sum(
            int(high_N[here].sum() * low_N[here].sum()) for here in members(held_out.account_N)
        ),
        undefined=held_out.undefined,
    )


class _Held:
    """Accounts and posts of held-out samples, the weights of their resamples, and why something was
    undefined."""

    def __init__(self, samples: Sequence[Sample], resamples: int, seed: int) -> None:
        self.account_N = np.array([sample.account for sample in samples])
        self.post_N = np.array([sample.post for sample in samples])
        # Within accounts, so that no resample shifts weight to an account that is easier to tell
        # apart.
        counts_RN = resample_counts(
            self.post_N.tolist(), resamples, seed, strata=self.account_N.tolist()
        )
        # The first row draws each image once: it gives the estimate itself, by the same code as the
        # resamples.
        self.weights_RN = np.concatenate([np.ones((1, len(samples))), counts_RN])
        self.undefined: dict[str, str] = {}

    def auc(
        self, reward_N: Floats, high_N: NDArray[np.bool_], low_N: NDArray[np.bool_]
    ) -> tuple[float | None, Interval | None]:
        """AUC and its interval."""
        both = np.intersect1d(self.account_N[high_N], self.account_N[low_N])
        # A constant reward would get 0.5 with an interval of no width, and pass for measured.
        if not both.size or not varies_within(reward_N, self.account_N):
            reason = (
                "the reward does not vary within any account"
                if both.size
                else "no account has both a HIGH and a LOW image"
            )
            self.undefined |= dict.fromkeys(("auc_high_vs_low", "auc_interval"), reason)
            return None, None
        auc_R = auc_within(reward_N, high_N, low_N, self.account_N, self.weights_RN)
        # Posts of accounts without a partner form no pair, so they do not make the interval any
        # surer.
        paired_N = np.isin(self.account_N, both)
        if min(len(set(self.post_N[paired_N & side_N])) for side_N in (high_N, low_N)) < MIN_POSTS:
            self.undefined["auc_interval"] = (
                f"fewer than {MIN_POSTS} HIGH or LOW posts in accounts that have both"
            )
            return float(auc_R[0]), None
        return float(auc_R[0]), interval(auc_R[1:])

    def correlation(
        self, name: str, span: str, statistic: Statistic, reward_N: Floats, y_N: Floats, called: str
    ) -> tuple[float | None, Interval | None]:
        """A correlation of the reward with what is ``called`` so, and its interval; reported under
        ``name`` and ``span``."""
        for value_N, what in ((reward_N, "reward"), (y_N, called)):
            if not varies_within(value_N, self.account_N):
                self.undefined |= dict.fromkeys(
                    (name, span), f"the {what} does not vary within any account"
                )
                return None, None
        found_R = statistic(reward_N, y_N, self.account_N, self.weights_RN)
        # Posts and not images: the bootstrap draws posts, and images of one post are one draw.
        if len(set(self.post_N)) < MIN_POSTS:
            self.undefined[span] = f"fewer than {MIN_POSTS} posts"
            return float(found_R[0]), None
        return float(found_R[0]), interval(found_R[1:])


def _in_bucket(kpis: Sequence[KpiValue]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which are HIGH, and which are LOW."""
    return np.array([kpi.bucket == "high" for kpi in kpis]), np.array(
        [kpi.bucket == "low" for kpi in kpis]
    )


def _accounts(
    reward_N: Floats, kpis: Sequence[KpiValue], account_N: NDArray[Any]
) -> tuple[dict[str, Account], int]:
    """Accounts with enough images by name, and the number of the others."""
    accounts: dict[str, Account] = {}
    too_few = 0
    kpi_N = np.array([kpi.normalized for kpi in kpis])
    high_N, low_N = _in_bucket(kpis)
    for here in members(account_N):
        if len(here) < MIN_ACCOUNT or min(high_N[here].sum(), low_N[here].sum()) < MIN_BUCKET:
            too_few += 1
            continue
        # No resamples: an interval of each account would suggest more than so few posts can tell.
        weights_RM, one_M = np.ones((1, len(here))), account_N[here]
        auc = float(auc_within(reward_N[here], high_N[here], low_N[here], one_M, weights_RM)[0])
        spearman = float(spearman_within(reward_N[here], kpi_N[here], one_M, weights_RM)[0])
        defined = bool(np.isfinite(spearman))
        reason = {} if defined else {"spearman": "reward or KPI does not vary"}
        accounts[str(one_M[0])] = Account(len(here), auc, spearman if defined else None, reason)
    return accounts, too_few


def _reliability(
    reward_N: Floats, kpis: Sequence[KpiValue], account_N: NDArray[Any]
) -> tuple[Decile, ...]:
    kpi_N, (high_N, _) = np.array([kpi.normalized for kpi in kpis]), _in_bucket(kpis)
    # Mean ranks lie inside (0, 1), so 1 to 10 are all that can come out.
    decile_N = np.floor(10 * percentile_within(reward_N, account_N)).astype(int) + 1
    return tuple(
        Decile(int(d), int(in_N.sum()), float(high_N[in_N].mean()), float(kpi_N[in_N].mean()))
        for d in np.unique(decile_N)
        for in_N in [decile_N == d]
    )
