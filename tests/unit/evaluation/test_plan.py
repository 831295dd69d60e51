from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from boig_core.config import Recipe, load_recipe
from boig_core.errors import InputError, RecipeError
from boig_core.evaluation.measure.sampling_plan import ROWS, make_plan, without_boigsd
from boig_core.vocabulary import Sample


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


def recipe(*overrides: str) -> Recipe:
    rows = ["evaluation.images_per_prompt=4", "evaluation.unguided=true"]
    return load_recipe("tiny", [*rows, *overrides])


def test_prompts_are_distinct_texts_of_test_posts_evenly_out_of_the_buckets() -> None:
    stored = (
        [sample(i) for i in range(10)]
        + [sample(i, bucket="low") for i in range(10, 20)]
        + [sample(20, bucket="medium")]
    )
    others = [
        sample(30, split="train"),
        sample(31, bucket=None),
        sample(32, text="text 3", bucket="low"),
    ]
    plan = make_plan([*stored, *others], recipe("evaluation.prompts=7"))
    assert [s.bucket for s in plan.samples] == ["high"] * 3 + ["low"] * 3 + ["medium"]
    assert len({s.text for s in plan.samples}) == 7
    assert {s.split for s in plan.samples} == {"test"}
    assert len(set(plan.seeds)) == 28
    assert plan.prompts(ROWS["base"])[:4] == [plan.samples[0].text] * 4
    assert make_plan([*others, *stored[::-1]], recipe("evaluation.prompts=7")) == plan
    assert make_plan(stored, recipe("evaluation.prompts=7", "seed=1")) != plan
    assert len(make_plan(stored, recipe("evaluation.prompts=50")).samples) == 21
    with pytest.raises(InputError, match="at least 2"):
        make_plan(stored[:1], recipe())


def test_every_row_takes_its_own_prompts_and_guidance() -> None:
    settings = recipe(
        "evaluation.prompts=2",
        "evaluation.rewrite=boigllm",
        "evaluation.guidance=3",
        "evaluation.sampling_steps=10",
    )
    plan = replace(
        make_plan([sample(0), sample(1)], settings), rewritten={"boigllm": ("one", "two")}
    )
    rows = plan.rows(settings.evaluation)
    assert list(rows) == [
        "base", "high_kpi", "boigsd", "description_rewrite", "boigsd_description_rewrite", "base_unguided", "boigsd_unguided",
    ]  # fmt: skip
    assert plan.prompts(rows["boigsd_description_rewrite"]) == ["one"] * 4 + ["two"] * 4
    assert plan.prompts(rows["boigsd_unguided"]) == plan.prompts(rows["base"])
    guided, plain = rows["boigsd"], rows["boigsd_unguided"]
    assert [
        (row.guidance(settings.evaluation), row.forwards(settings.evaluation))
        for row in (guided, plain)
    ] == [(3.0, 20), (1.0, 10)]
    for without in ("evaluation.guidance=1", "evaluation.unguided=false"):
        assert "base_unguided" not in plan.rows(recipe(without).evaluation)


def test_each_row_of_boigsd_has_its_counterpart() -> None:
    pairs = {name: without_boigsd(name) for name, row in ROWS.items() if row.model == "boigsd"}
    assert pairs == {
        "boigsd": "base",
        "boigsd_prompt_rewrite": "prompt_rewrite",
        "boigsd_description_rewrite": "description_rewrite",
        "boigsd_unguided": "base_unguided",
    }


def test_ways_of_rewriting_are_one_word_or_several() -> None:
    assert recipe("evaluation.rewrite=retrieval").evaluation.rewrite == ("retrieval",)
    assert recipe("evaluation.rewrite=[retrieval, boigllm]").evaluation.rewrite == (
        "retrieval",
        "boigllm",
    )
    with pytest.raises(RecipeError, match="'retrieval' or 'boigllm'"):
        recipe("evaluation.rewrite=both")
