"""What counts as the same work, by which a training goes on from a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from pydantic import BaseModel

from boig_core.config import Recipe, load_recipe
from boig_core.storage.job import Stage
from boig_core.training.work import PLACEMENT, READS, digest

INPUTS: Mapping[str, str] = {"dataset": "0" * 64}
TRAININGS = list(READS)


def work(stage: Stage, *overrides: str) -> str:
    return digest(stage, load_recipe("tiny", overrides), INPUTS)


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
        assert work(stage, how) == work(stage), how


@pytest.mark.parametrize(
    ("change", "stages"),
    [
        ("seed=1", {Stage.FINETUNE_LLM, Stage.FINETUNE_SD, Stage.DDPO}),
        ("llm.lr=1", {Stage.FINETUNE_LLM}),
        ("llm.checkpoint_every=50", {Stage.FINETUNE_LLM}),
        ("llm.zero_stage=0", {Stage.FINETUNE_LLM}),
        ("llm.context=256", {Stage.FINETUNE_LLM, Stage.DDPO}),
        ("data.kpi=shares", {Stage.FINETUNE_LLM, Stage.DDPO}),
        ("sd.steps=7", {Stage.FINETUNE_SD}),
        ("sd.dtype=bfloat16", {Stage.FINETUNE_SD, Stage.DDPO}),
        ("sd.zero_stage=0", {Stage.FINETUNE_SD}),
        ("ddpo.lr=1", {Stage.DDPO}),
        ("ddpo.monitors.fall.action=keep_best", {Stage.DDPO}),
        ("reward.weights={dsg: 1}", {Stage.DDPO}),
        ("reward.resources={gpus: 1}", {Stage.DDPO}),
        ("perception.side=16", {Stage.DDPO}),
    ],
)
def test_what_decides_the_weights_is_part_of_the_work_of_those_that_read_it(
    change: str, stages: set[Stage]
) -> None:
    assert {stage for stage in TRAININGS if work(stage, change) != work(stage)} == stages


def test_a_field_that_is_given_its_default_changes_nothing() -> None:
    """So a version that adds a field goes on with what an older one has begun."""
    default = Recipe().ddpo.eta
    assert work(Stage.DDPO, f"ddpo.eta={default}") == work(Stage.DDPO)


def test_a_section_at_its_defaults_counts_too() -> None:
    plain, other = Recipe(), load_recipe("stock", ["sd.zero_stage=0"])
    assert load_recipe("stock").sd == plain.sd, "else this shows nothing"
    before = digest(Stage.FINETUNE_SD, load_recipe("stock"), INPUTS)
    assert digest(Stage.FINETUNE_SD, other, INPUTS) != before


def test_other_inputs_are_other_work() -> None:
    recipe = load_recipe("tiny")
    assert digest(Stage.DDPO, recipe, {"dataset": "1" * 64}) != work(Stage.DDPO)
