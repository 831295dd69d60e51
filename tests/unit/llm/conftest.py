"""A made-up brand whose images depend on the KPI: bright when liked, dark when not."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from boig_core.vocabulary import BUCKETS, Description, Sample

MakeSamples = Callable[[int], list[Sample]]
LOOKS = {"high": ("Yellow", "White"), "medium": ("Gray", "Blue"), "low": ("Black", "Brown")}


def _make(count: int) -> list[Sample]:
    rng = np.random.default_rng(7)
    samples = []
    for i in range(count):
        bucket, kind = BUCKETS[i % 3], ("ball", "ring", "moon")[int(rng.integers(3))]
        share = float(rng.integers(55, 75)) / 100
        colors = dict(zip(LOOKS[bucket], (share, round(1 - share, 2)), strict=True))
        samples.append(
            Sample(
                id=f"p{i:04d}",
                post=f"p{i:04d}",
                account="acme",
                company="Acme",
                timestamp=f"2020-{1 + i % 12:02d}-06T10:00:00Z",
                text=f"Acme shows you a {kind} for the day, number {i}",
                keywords=(kind,),
                kpi=float({"high": 900, "medium": 200, "low": 50}[bucket] + rng.integers(40)),
                kpi_normalized=50.0,
                bucket=bucket,
                split="validation" if i % 10 == 8 else "test" if i % 10 == 9 else "train",
                image=f"{i:064x}",
                width=128,
                height=128,
                description=Description(
                    colors,
                    {"warm": 0.25, "neutral": 0.5, "cool": 0.25},
                    {kind: (8.0, 8.0, 40.0, 40.0)},
                ),
            )
        )
    return samples


@pytest.fixture(scope="session")
def make_samples() -> MakeSamples:
    return _make
