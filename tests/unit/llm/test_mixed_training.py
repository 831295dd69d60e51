"""A training that mixes all patterns: resumed where it stopped, and saying what it cut."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from boig_core.config import parse_recipe
from boig_core.llm.finetune import Trained, finetune
from boig_core.training.checkpoint import Checkpoints
from boig_core.vocabulary import KpiValue, Sample

MakeSamples = Callable[[int], list[Sample]]
SIZES = {
    "hidden": 32,
    "layers": 1,
    "heads": 2,
    "vocab_size": 512,
    "context": 160,
    "batch": 12,
    "micro_batch": 6,
    "max_new_tokens": 64,
}
RECIPE = parse_recipe(
    {
        "data": {"more_kpis": ["shares"]},
        "llm": {
            **SIZES,
            "steps": 16,
            "checkpoint_every": 8,
            "patterns": {1: 2, 2: 1, 3: 1, 4: 1},
            "more_kpis": ["shares"],
        },
    }
)


@pytest.fixture(scope="module")
def samples(make_samples: MakeSamples) -> list[Sample]:
    more = {"shares": KpiValue(7.0, 50.0, "medium")}
    messages = [replace(s, more_kpis=more) for s in make_samples(60)]
    return [replace(messages[0], keywords=tuple(f"word{i}" for i in range(40))), *messages[1:]]


def train(samples: list[Sample], **kwargs: Any) -> Trained:
    return finetune(samples, RECIPE, with_kpi=True, **kwargs)


def test_it_goes_on_where_it_stopped_in_a_later_pass_and_counts_what_was_cut(
    samples: list[Sample], tmp_path: Path
) -> None:
    whole = train(samples)

    def stop(step: int, values: dict[str, float]) -> None:
        if step == 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(samples, checkpoints=Checkpoints(str(tmp_path), 1), report=stop)
    resumed = train(samples, checkpoints=Checkpoints(str(tmp_path), 2))
    for trained in (whole, resumed):
        assert trained.metrics["cut_samples"] == 1
        assert 10 < trained.metrics["cut_keywords"] < 40
    weights, again = whole.engine.state_dict(), resumed.engine.state_dict()
    assert all(torch.equal(weights[name], again[name]) for name in weights)
