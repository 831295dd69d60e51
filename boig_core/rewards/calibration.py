"""What a reward needs to know of the real posts: the HIGH and LOW conditions of each account, and the range that it is clipped to.

A condition is what a prompt ends with: the label with the likes that this account's posts of that bucket have, by the median over the
training split. The stage ``calibrate`` writes it all into ``calibration.json``, with how well each formulation tells high from low on
held-out images (`boig_core.evaluation.validity`). Leaves out: scoring (see `scorer`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike
from pydantic import BaseModel, ConfigDict, ValidationError

from boig_core.errors import CorruptError, InputError
from boig_core.rewards.weighted import Scale
from boig_core.verbalization.templates import KpiCondition
from boig_core.vocabulary import Sample

CALIBRATION_FILE: Final = "calibration.json"


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Pair(_Model):
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


class Conditions(_Model):
    """HIGH and LOW by account.

    Attributes:
        accounts: pair of each account of the training split.
        fallback: pair of an account that the training split does not hold.
    """

    accounts: dict[str, Pair]
    fallback: Pair

    def of(self, account: str) -> Pair:
        """HIGH and LOW of an account."""
        return self.accounts.get(account, self.fallback)


def conditions(samples: Iterable[Sample]) -> Conditions:
    """Median KPI of each account's HIGH and LOW training posts; a bucket that an account lacks takes the median over all accounts.

    Args:
        samples: of any split; only the training split is looked at.

    Raises:
        InputError: no training sample at all in one of the two buckets.
    """
    by_bucket: dict[str, dict[str, list[float]]] = {"high": defaultdict(list), "low": defaultdict(list)}
    for sample in samples:
        if sample.split == "train" and sample.bucket in by_bucket:
            by_bucket[sample.bucket][sample.account].append(sample.kpi)
    overall: dict[str, float] = {}
    for bucket, found in by_bucket.items():
        if not found:
            raise InputError(
                f"{bucket} training samples: 0", "the reward needs both HIGH and LOW posts", "ingest more posts or lower data.floors"
            )
        overall[bucket] = float(np.median(np.concatenate([np.asarray(values) for values in found.values()])))
    accounts = sorted({account for found in by_bucket.values() for account in found})
    medians = {
        account: {bucket: float(np.median(found[account])) if account in found else overall[bucket] for bucket, found in by_bucket.items()}
        for account in accounts
    }
    return Conditions(accounts={account: Pair(**pair) for account, pair in medians.items()}, fallback=Pair(**overall))


def clip_range(rewards: ArrayLike, percentiles: tuple[float, float]) -> tuple[float, float]:
    """Range that rewards are clipped to: percentiles of the reward on real validation images.

    Raises:
        InputError: fewer than two rewards, or all alike, so that the range would be empty.
    """
    low, high = (float(edge) for edge in np.percentile(np.asarray(rewards, np.float64), percentiles)) if np.size(rewards) else (0.0, 0.0)
    if not low < high:
        raise InputError(f"reward range [{low:g}, {high:g}] of {np.size(rewards)} images", "must not be empty", "calibrate on more posts")
    return low, high


class Calibration(_Model):
    """Content of ``calibration.json``.

    Attributes:
        reward: name of what the recipe maximizes (`boig_core.config.Reward.name`).
        clip: range that it is clipped to.
        scales: mean and spread of each formulation on the validation split, for weighted sums.
        conditions: HIGH and LOW by account.
        best_on_validation: formulation with the highest AUC on the validation split.
        splits: validity of each formulation on ``validation`` and ``test`` (`boig_core.evaluation.validity.Validity`).
    """

    schema_version: int = 1
    reward: str
    clip: tuple[float, float]
    scales: dict[str, Scale] = {}
    conditions: Conditions
    best_on_validation: str
    splits: dict[str, dict[str, dict[str, Any]]]


def read_calibration(folder: Path) -> Calibration:
    """Calibration of a fetched ``calibration`` output.

    Raises:
        CorruptError: the file is missing or is none.
    """
    path = folder / CALIBRATION_FILE
    try:
        return Calibration.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as exc:
        raise CorruptError(path, "is not a calibration", "run the stage calibrate again") from exc


def write_calibration(calibration: Calibration, folder: Path) -> Path:
    """Write ``calibration.json`` into a folder; returns its path."""
    path = folder / CALIBRATION_FILE
    path.write_text(calibration.model_dump_json(indent=1), encoding="utf-8")
    return path
