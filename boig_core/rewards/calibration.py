"""What a reward needs to know of the real posts: the HIGH and LOW conditions of each account, and
the range that it is clipped to.

A condition is what a prompt ends with: the label with the likes that this account's posts of that
bucket have, by the median over the training split. The stage ``calibrate`` writes it all into
``calibration.json``, with how well each formulation tells high from low on held-out images
(`evaluation.measure.validity`). The validation split recommends a formulation, the test split
decides whether the one that the recipe names may be optimized at all. Leaves out: scoring (see
`scorer`).
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import ArrayLike
from pydantic import BaseModel, ConfigDict, ValidationError

from boig_core.config import Reward
from boig_core.errors import CorruptError, InputError
from boig_core.rewards.weighted import Scale
from boig_core.verbalization.templates import KpiCondition
from boig_core.vocabulary import Sample

CALIBRATION_FILE: Final = "calibration.json"
_VERSION: Final = 2


class _CalibrationModel(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class KpiPair(_CalibrationModel):
    """The KPI values that stand for HIGH and LOW in a prompt.

    Attributes:
        high: raw KPI of the HIGH condition.
        low: raw KPI of the LOW condition.
    """

    high: float
    low: float

    @property
    def high_condition(self) -> KpiCondition:
        """The HIGH condition of a prompt."""
        return KpiCondition(value=self.high, label="high")

    @property
    def low_condition(self) -> KpiCondition:
        """The LOW condition of a prompt."""
        return KpiCondition(value=self.low, label="low")


class Conditions(_CalibrationModel):
    """HIGH and LOW by account.

    Attributes:
        accounts: pair of each account of the training split.
        fallback: pair of an account that the training split does not hold.
    """

    accounts: dict[str, KpiPair]
    fallback: KpiPair

    def of(self, account: str) -> KpiPair:
        """HIGH and LOW of an account."""
        return self.accounts.get(account, self.fallback)


def conditions(samples: Iterable[Sample]) -> Conditions:
    """Median KPI of each account's HIGH and LOW training posts; a bucket that an account lacks
    takes the median over all accounts.

    Args:
        samples: of any split; only the training split is looked at.

    Raises:
        InputError: no training sample at all in one of the two buckets.
    """
    by_bucket: dict[str, dict[str, list[float]]] = {
        "high": defaultdict(list),
        "low": defaultdict(list),
    }
    for sample in samples:
        # Held-out posts must not shape the conditions: rewards are validated on them.
        if sample.split == "train" and sample.bucket in by_bucket:
            by_bucket[sample.bucket][sample.account].append(sample.kpi)
    overall: dict[str, float] = {}
    for bucket, kpis_of_account in by_bucket.items():
        if not kpis_of_account:
            raise InputError(
                f"{bucket} training samples: 0",
                "the reward needs both HIGH and LOW posts",
                "ingest more posts or lower data.floors",
            )
        overall[bucket] = float(
            # Over all posts, not over the accounts' medians: an account with two posts weighs as
            # two posts.
            np.median(np.concatenate([np.asarray(values) for values in kpis_of_account.values()]))
        )
    accounts = sorted(
        {account for kpis_of_account in by_bucket.values() for account in kpis_of_account}
    )
    medians = {
        account: {
            bucket: float(np.median(kpis_of_account[account]))
            # Asked for by `in`, because a defaultdict would answer an index with an empty list,
            # whose median is NaN.
            if account in kpis_of_account
            else overall[bucket]
            for bucket, kpis_of_account in by_bucket.items()
        }
        for account in accounts
    }
    return Conditions(
        accounts={account: KpiPair(**pair) for account, pair in medians.items()},
        fallback=KpiPair(**overall),
    )


def clip_range(rewards: ArrayLike, percentiles: tuple[float, float]) -> tuple[float, float]:
    """Range that rewards are clipped to: percentiles of the reward on real validation images.

    Raises:
        InputError: fewer than two rewards, or all alike, so that the range would be empty.
    """
    low, high = (
        # Percentiles and not the extremes: one odd image would otherwise set the range for all.
        (float(edge) for edge in np.percentile(np.asarray(rewards, np.float64), percentiles))
        if np.size(rewards)
        else (0.0, 0.0)
    )
    if not low < high:
        raise InputError(
            f"reward range [{low:g}, {high:g}] of {np.size(rewards)} images",
            "must not be empty",
            "calibrate on more posts",
        )
    return low, high


class Calibration(_CalibrationModel):
    """Content of ``calibration.json``.

    Attributes:
        reward: name of what the recipe maximizes (`boig_core.config.Reward.name`).
        clip: range that it is clipped to.
        scales: mean and spread of each formulation on the validation split, for weighted sums.
        conditions: HIGH and LOW by account.
        recommended: the formulation that `recommend` names; none when no AUC is defined on the
            validation split.
        splits: validity of each formulation on ``validation`` and ``test``
            (`evaluation.measure.validity.Validity`).
    """

    schema_version: Literal[2] = _VERSION
    reward: str
    clip: tuple[float, float]
    scales: dict[str, Scale] = {}
    conditions: Conditions
    recommended: str | None
    splits: dict[str, dict[str, dict[str, Any]]]


def recommend(validation: Mapping[str, Mapping[str, Any]]) -> str | None:
    """The formulation that tells HIGH from LOW best on the validation split: by AUC, then Spearman,
    then name.

    Args:
        validation: validity of each formulation; those without an AUC are passed over.
    """
    ranked = [
        # Negated, so that `min` takes the best numbers and, of equals, the first name. No Spearman
        # ranks last among equal AUCs.
        (-row["auc_high_vs_low"], np.inf if row["spearman"] is None else -row["spearman"], name)
        for name, row in validation.items()
        if row["auc_high_vs_low"] is not None
    ]
    return min(ranked)[2] if ranked else None


def passes(row: Mapping[str, Any], min_auc: float | None) -> bool:
    """Whether a formulation with this validity on the test split may be optimized: the whole
    interval of its AUC lies above ``min_auc``."""
    span = row["auc_interval"]
    # No interval means too few posts to tell, which is no ground to optimize: it does not pass.
    return min_auc is None or (span is not None and span[0] > min_auc)


def require_worth(calibration: Calibration, reward: Reward) -> None:
    """The gate before anything is optimized.

    Raises:
        InputError: the calibration is of another formulation than the recipe's, or this one does
            not pass on the test split.
    """
    name, rows = reward.name, calibration.splits["test"]
    if calibration.reward != name:
        raise InputError(
            f"reward {name}",
            f"the calibration was made for {calibration.reward}",
            "run the stage calibrate again",
        )
    if passes(rows[name], reward.min_auc):
        return
    best = calibration.recommended
    # The recommendation comes from the validation split, so it may fail the gate on the test split:
    # then more data is the only honest advice.
    if best is not None and best != name and passes(rows[best], reward.min_auc):
        remedy = f"set reward.weights to {{{best}: 1}}, with {_told(rows[best])}, and run calibrate again"
    else:
        remedy = "ingest more posts or train BoigLLM longer, and run calibrate again"
    rule = f"the 95 % interval must lie above {reward.min_auc:g} (reward.min_auc) before ddpo may optimize the reward"
    raise InputError(f"reward {name}: {_told(rows[name])}", rule, remedy)


def _told(row: Mapping[str, Any]) -> str:
    """A test AUC in words."""
    images = f"on {row['n']} test images"
    if row["auc_high_vs_low"] is None:
        return f"no AUC {images} ({row['undefined']['auc_high_vs_low']})"
    if row["auc_interval"] is None:
        return f"AUC {row['auc_high_vs_low']:.3f} without an interval {images} ({row['undefined']['auc_interval']})"
    low, high = row["auc_interval"]
    return f"AUC {row['auc_high_vs_low']:.3f} [{low:.3f}, {high:.3f}] {images}"


def read_calibration(folder: Path) -> Calibration:
    """Calibration of a fetched ``calibration`` output.

    Raises:
        CorruptError: the file is missing, is none, or is one of an older version of boig.
    """
    path = folder / CALIBRATION_FILE
    # One error for a file that is missing, no JSON or of another shape: the remedy is the same.
    broken = CorruptError(path, "is not a calibration", "run the stage calibrate again")
    try:
        tree = json.loads(path.read_bytes())
    except (OSError, ValueError) as exc:
        raise broken from exc
    # Before validation: an older file lacks fields, and would be told as broken where it is only
    # old.
    version = tree.get("schema_version") if isinstance(tree, dict) else None
    if isinstance(version, int) and version != _VERSION:
        raise CorruptError(
            f"{path} of schema version {version}",
            f"must be of version {_VERSION}",
            "run the stage calibrate again",
        )
    try:
        return Calibration.model_validate(tree)
    except ValidationError as exc:
        raise broken from exc


def write_calibration(calibration: Calibration, folder: Path) -> Path:
    """Write ``calibration.json`` into a folder; returns its path."""
    path = folder / CALIBRATION_FILE
    path.write_text(calibration.model_dump_json(indent=1), encoding="utf-8")
    return path
