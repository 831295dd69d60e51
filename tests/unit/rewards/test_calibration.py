from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from boig_core.errors import CorruptError, InputError
from boig_core.rewards.calibration import (
    Calibration,
    clip_range,
    conditions,
    read_calibration,
    write_calibration,
)
from boig_core.vocabulary import Sample


def sample(account: str, bucket: Any, kpi: float, split: Any = "train") -> Sample:
    return Sample(
        "1",
        "1",
        account,
        "acme",
        "2021-07-01T10:00:00Z",
        "a text",
        (),
        kpi,
        50.0,
        bucket,
        split,
        "0" * 64,
        64,
        64,
    )


POSTS = [
    sample("a", "high", 100),
    sample("a", "high", 200),
    sample("a", "high", 900),
    sample("a", "medium", 50),
    sample("a", "low", 10),
    sample("b", "high", 40),
    sample("b", "low", 4),
    sample("b", "low", 6),
    sample("c", "low", 1),
    sample("a", "high", 10**6, "test"),
    sample("d", "high", 10**6, "validation"),
]


def test_conditions_are_account_medians_of_the_training_split() -> None:
    result = conditions(POSTS)
    assert (result.of("a").high, result.of("a").low) == (200, 10)
    assert (result.of("b").high, result.of("b").low) == (40, 5)
    assert result.of("a").high_condition.label == "high"
    assert result.of("b").low_condition.value == 5


def test_a_bucket_or_account_that_is_missing_takes_the_median_over_all() -> None:
    result = conditions(POSTS)
    assert result.of("c").high == 150  # of 40, 100, 200, 900
    assert result.of("d") == result.of("never seen") == result.fallback
    assert result.fallback.low == 5  # of 1, 4, 6, 10


def test_without_high_posts_there_is_no_reward() -> None:
    with pytest.raises(InputError, match="high training samples: 0"):
        conditions([post for post in POSTS if post.bucket == "low"])


def test_clip_range_is_percentiles_and_never_empty() -> None:
    assert clip_range(range(101), (1, 99)) == (1.0, 99.0)
    for alike in ([], [3.0, 3.0, 3.0]):
        with pytest.raises(InputError, match="must not be empty"):
            clip_range(alike, (1, 99))


def test_calibration_survives_its_file_and_a_torn_one_is_refused(tmp_path: Path) -> None:
    written = Calibration(
        reward="contrast",
        clip=(-1, 2),
        conditions=conditions(POSTS),
        recommended="dsg",
        splits={"test": {}},
    )
    path = write_calibration(written, tmp_path)
    assert read_calibration(tmp_path) == written
    path.write_text(path.read_text()[:-20])
    with pytest.raises(CorruptError, match="calibrate again"):
        read_calibration(tmp_path)
