from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from boig_core.config import load_recipe
from boig_core.errors import InputError
from boig_core.evaluation.measure.rewriting import (
    high_prompts,
    in_words,
    rewrite_by_description,
    rewrite_by_retrieval,
)
from boig_core.rewards.calibration import Conditions, KpiPair
from boig_core.vocabulary import Description, Sample


def sample(index: int, **changes: Any) -> Sample:
    created = Sample(
        f"{index:03d}",
        str(index),
        "a",
        "acme",
        "2021-07-01T10:00:00Z",
        f"text {index}",
        (),
        9,
        99,
        "high",
        "test",
        "0" * 64,
        32,
        32,
    )
    return replace(created, **changes)


def test_retrieval_takes_the_nearest_high_training_post_of_the_account() -> None:
    train = {"split": "train", "keywords": ()}
    posts = [
        sample(1, text="ball in the sun", account="b", **train),
        sample(2, text="a ball by the sea", caption="a red ball", **train),
        sample(3, text="star at night", **train),
        sample(4, text="ball in the sun", bucket="low", **train),
        sample(5, text="ball in the sun", split="validation"),
        sample(6, text="star in the sun", **train),
    ]
    asked = [
        sample(10, text="ball in the sun", account="a"),
        sample(11, text="star in the sun"),
        sample(12, text="ball", account="c"),
    ]
    expected = [
        "ball in the sun star in the sun",
        "star in the sun star at night",
        "ball ball in the sun",
    ]
    assert rewrite_by_retrieval(posts[:1] + posts[2:], asked) == expected
    assert rewrite_by_retrieval(posts, [sample(10, text="a ball by a sea")]) == [
        "a ball by a sea a red ball"
    ]
    with pytest.raises(InputError, match="leave retrieval out"):
        rewrite_by_retrieval(posts[3:5], asked)


def test_boigllm_is_asked_for_a_high_image_of_the_account() -> None:
    known = Conditions(accounts={"a": KpiPair(high=812, low=3)}, fallback=KpiPair(high=77, low=5))
    ours, other = high_prompts(
        [sample(0), sample(1, account="new", bucket="low", kpi=1)], known, load_recipe("tiny")
    )
    assert "812" in ours
    assert "high" in ours
    assert "77" in other
    assert "high" in other
    assert "low" not in other


def test_a_description_follows_the_prompt_in_words() -> None:
    seen = Description(
        colors={"White": 0.2, "Dark_Blue": 0.7, "Red": 0.1},
        tones={"warm": 0.1, "neutral": 0.2, "cool": 0.7},
        objects={
            "star": (0.0, 0.0, 8.0, 8.0),
            "ball": (20.0, 50.0, 44.0, 64.0),
            "unknown": (0.0, 0.0, 64.0, 64.0),
        },
    )
    asked = sample(0, width=64, height=64)
    words = "in dark blue, white and red, cool tones, with a ball at the bottom and a star at the top left"
    assert in_words(seen, asked) == words
    assert (
        in_words(Description(objects={"owl": (24.0, 24.0, 40.0, 40.0)}), asked)
        == "with an owl at the center"
    )
    assert rewrite_by_description([asked, sample(1), sample(2)], [seen, None, Description()]) == [
        f"text 0 {words}",
        "text 1",
        "text 2",
    ]
