"""The generators by KPI bucket and by account of the posts that the prompts come from: is a gain
everywhere, or made by a few?

Leaves out: measuring (see `generation`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from boig_core.config import Recipe
from boig_core.evaluation.measure.generation import PAIRED, ImageMeasures, paired
from boig_core.evaluation.measure.sampling_plan import Plan
from boig_core.vocabulary import BUCKETS, Sample

_LEAST: Final = 5
"""Prompts below which an interval over prompts would say more than is known."""


def by_bucket_and_account(
    measured: Mapping[str, ImageMeasures], plan: Plan, recipe: Recipe
) -> dict[str, dict[str, Any]]:
    """Means of each row, and BoigSD's paired gain over the base, within each bucket and each
    account.

    Args:
        measured: the sampled rows.
        plan: whose samples say bucket and account.
        recipe: resamples and seed of the intervals.

    Returns:
        By ``bucket`` and ``account``, then by its name: ``prompts``, ``n`` images per row, ``rows``
        (means of `PAIRED` by row, as far as measured) and ``gain`` (differences with 95 % intervals
        clustered by prompt; empty for fewer than 5 prompts).
    """
    owners = plan.owners
    buckets = [
        bucket for bucket in BUCKETS if any(sample.bucket == bucket for sample in plan.samples)
    ]
    accounts = sorted({sample.account for sample in plan.samples})
    by_bucket = {
        bucket: [i for i, owner in enumerate(owners) if owner.bucket == bucket]
        for bucket in buckets
    }
    by_account = {
        account: [i for i, owner in enumerate(owners) if owner.account == account]
        for account in accounts
    }
    return {
        name: {
            part: _slice(measured, np.array(index), owners, recipe) for part, index in parts.items()
        }
        for name, parts in (("bucket", by_bucket), ("account", by_account))
    }


def _slice(
    measured: Mapping[str, ImageMeasures],
    index: NDArray[np.intp],
    owners: Sequence[Sample],
    recipe: Recipe,
) -> dict[str, Any]:
    prompts = [owners[i].id for i in index]
    taken = {model: measures.take(index) for model, measures in measured.items()}
    # Clustered by prompt within the part alone: other parts' prompts say nothing of its spread.
    gain = (
        paired(taken["boigsd"].values, taken["base"].values, prompts, recipe)
        if len(set(prompts)) >= _LEAST
        else {}
    )
    return {
        "prompts": len(set(prompts)),
        "n": len(index),
        "rows": {
            model: {
                name: float(values_N.mean())
                for name in PAIRED
                if (values_N := measures.values(name)) is not None
            }
            for model, measures in taken.items()
        },
        "gain": {name: row for name, row in gain.items() if row is not None},
    }
