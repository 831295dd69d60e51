"""What counts as the same work, by which a training goes on from a checkpoint."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel

from boig_core.config import Recipe, load_recipe
from boig_core.storage.job import Stage
from boig_core.training.work import PLACEMENT, READS, differences, digest, work_of

TRAININGS = list(READS)


def fields(stage: Stage, *overrides: str, recipe: str = "tiny") -> dict[str, Any]:
    return work_of(stage, load_recipe(recipe, overrides), lambda: "").of({"dataset": "0" * 64})


def test_the_fields_that_are_named_exist() -> None:
    for path in [*PLACEMENT, *(path for paths in READS.values() for path in paths)]:
        section, _, field = path.partition(".")
        info = Recipe.model_fields[section]
        if field:
            assert isinstance(info.annotation, type)
            assert issubclass(info.annotation, BaseModel)
            assert field in info.annotation.model_fields, path


@pytest.mark.parametrize("stage", TRAININGS)
def test_how_and_where_a_training_runs_is_no_part_of_its_work(stage: Stage) -> None:
    for how in (
        "name=other",
        "llm.micro_batch=4",
        "llm.zero_stage=3",
        "llm.offload=optimizer",
        "sd.zero_stage=1",
        "ddpo.rollout_actors=7",
        "ddpo.checkpoint_every=1",
        "resources.cpus=3",
        "reward.actors=4",
        "evaluation.prompts=7",
        "promotion.max_days=1",
        "data.fetch_concurrency=3",
    ):
        assert fields(stage, how) == fields(stage), how


@pytest.mark.parametrize(
    ("change", "stages", "told"),
    [
        ("seed=1", {*TRAININGS}, "seed was 0 and is 1"),
        ("llm.lr=1", {Stage.FINETUNE_LLM}, "llm.lr was 0.006 and is 1.0"),
        ("llm.checkpoint_every=50", {Stage.FINETUNE_LLM}, "llm.checkpoint_every was"),
        ("llm.zero_stage=0", {Stage.FINETUNE_LLM}, "llm.zero_stage above 0 was true and is false"),
        ("llm.context=256", {Stage.FINETUNE_LLM, Stage.DDPO}, "llm.context was"),
        ("data.kpi=shares", {Stage.FINETUNE_LLM, Stage.DDPO}, "data.kpi was likes and is shares"),
        ("sd.steps=7", {Stage.FINETUNE_SD}, "sd.steps was"),
        ("sd.dtype=bfloat16", {Stage.FINETUNE_SD, Stage.DDPO}, "sd.dtype was float32 and is"),
        ("sd.zero_stage=0", {Stage.FINETUNE_SD}, "sd.zero_stage above 0 was true"),
        ("ddpo.lr=1", {Stage.DDPO}, "ddpo.lr was"),
        ("ddpo.ema=0.9", {Stage.DDPO}, "ddpo.ema was none and is 0.9"),
        ("ddpo.monitors.fall.action=keep_best", {Stage.DDPO}, "ddpo.monitors.fall.action was"),
        ("reward.weights={dsg: 1}", {Stage.DDPO}, "reward.weights was"),
        ("reward.resources={gpus: 1}", {Stage.DDPO}, "reward.resources.gpus above 0 was false"),
        ("perception.side=16", {Stage.DDPO}, "perception.side was"),
    ],
)
def test_what_decides_the_weights_is_told_of_those_that_read_it(
    change: str, stages: set[Stage], told: str
) -> None:
    lines = {stage: differences(fields(stage), fields(stage, change), {}) for stage in TRAININGS}
    assert {stage for stage, line in lines.items() if line} == stages
    assert all(line[0].startswith(told) for line in lines.values() if line), lines


def test_a_section_at_its_defaults_counts_too() -> None:
    assert load_recipe("stock").sd == Recipe().sd, "else this shows nothing"
    before, now = (
        fields(Stage.FINETUNE_SD, *change, recipe="stock") for change in ((), ("sd.zero_stage=0",))
    )
    assert differences(before, now, {})


def test_inputs_count_and_else_the_data_that_a_loop_sees() -> None:
    work = work_of(Stage.DDPO, load_recipe("tiny"), lambda: digest(["a", "b"]))
    other = work_of(Stage.DDPO, load_recipe("tiny"), lambda: digest(["ab"]))
    [line] = differences(work.of({"dataset": "0"}), work.of({"dataset": "1"}), {})
    assert line == "input dataset was 0 and is 1"
    [line] = differences(work.of(None), other.of(None), {})
    assert line == f"data was {digest(['a', 'b'])[:12]} and is {digest(['ab'])[:12]}"
    assert not differences(work.of({"dataset": "0"}), other.of({"dataset": "0"}), {}), (
        "a job's inputs say it: the same image may be decoded to other bits on another machine"
    )


def test_a_field_that_came_later_was_at_its_default() -> None:
    """So whoever asks for it goes on with what an older version has begun."""
    now = fields(Stage.DDPO)
    defaults = work_of(Stage.DDPO, load_recipe("tiny"), lambda: "").defaults
    older = {name: value for name, value in now.items() if name != "ddpo.eta"}
    assert now["ddpo.eta"] == defaults["ddpo.eta"], "else this shows nothing"
    assert differences(older, now, defaults) == []
    changed = fields(Stage.DDPO, "ddpo.eta=0.5")
    assert differences(older, changed, defaults) == [
        f"ddpo.eta was {defaults['ddpo.eta']} and is 0.5"
    ]
    assert differences(older, now, {}), "the same version knows all of its fields"


def test_a_section_that_was_left_out_is_no_field_that_came_later() -> None:
    defaults = {"ddpo.part.size": 3, "ddpo.part.kind": "a"}
    assert differences({"ddpo.part": None}, defaults, defaults)


def test_a_line_of_many_differences_stays_short() -> None:
    before = {f"sd.field{number}": "x" * 500 for number in range(40)}
    lines = differences(before, {}, {})
    assert len(lines) == 6
    assert lines[-1] == "35 more"
    assert max(map(len, lines)) < 120
