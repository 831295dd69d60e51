"""Gates: limits are strict, shares are of the base, and a number that is missing never passes, but
where there is nothing to compare."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boig_core.config import Policy, Promotion, Recipe, Reward, load_recipe
from boig_core.config.policy import Gates
from boig_core.orchestration.promotion.gates import (
    Gate,
    PromotionEvidence,
    evaluate_gates,
    in_words,
    raise_to_floors,
    table,
)

NEW, OLD = "s3://b/models/boigsd/new", "s3://b/models/boigsd/old"
FIRST = PromotionEvidence(champion=None, compared=None, candidate=NEW, monitors={})
SECOND = replace(FIRST, champion=OLD, compared=OLD)


def report(**changes: Any) -> dict[str, Any]:
    tree: dict[str, Any] = {
        "generation": {
            "base": {"clip_margin": 0.5, "diversity": 0.4, "fid": 20.0},
            "boigsd": {"clip_margin": 0.45, "diversity": 0.3, "fid": 30.0},
        },
        "paired": {
            "boigsd-base": {
                "reward": {"mean": 0.3, "low": 0.1, "high": 0.5},
                "judge": {"mean": 0.2, "low": 0.05, "high": 0.3},
            },
            "boigsd-champion": {"judge": {"mean": 0.1, "low": 0.02, "high": 0.2}},
        },
        "reward": {"name": "contrast"},
        "reward_validity": {"contrast": {"auc_interval": [0.6, 0.8]}},
        "absent": {
            "generation.boigsd.fid": "fewer than 1000 images",
            "generation.boigsd.judge": "evaluation.judge is not set",
        },
    }
    tree = json.loads(json.dumps(tree))
    for path, value in changes.items():
        *parents, leaf = path.split("__")
        node = tree
        for parent in parents:
            node = node[
                {"boigsd_base": "boigsd-base", "boigsd_champion": "boigsd-champion"}.get(
                    parent, parent
                )
            ]
        node[{"boigsd_champion": "boigsd-champion"}.get(leaf, leaf)] = value
    return tree


def gates(
    tree: dict[str, Any], *overrides: str, evidence: PromotionEvidence = SECOND
) -> dict[str, Gate]:
    return {
        gate.name: gate for gate in evaluate_gates(tree, load_recipe("tiny", overrides), evidence)
    }


def failing(found: Mapping[str, Gate]) -> list[str]:
    return [name for name, gate in found.items() if not gate.passed]


def test_a_good_candidate_passes_every_gate() -> None:
    result = gates(report())
    assert failing(result) == []
    values = {name: gate.value for name, gate in result.items()}
    assert values == pytest.approx(
        {
            "reward over base": 0.1,
            "judge over base": 0.05,
            "judge over champion": 0.02,
            "CLIP margin kept": 0.9,
            "diversity kept": 0.75,
            "FID": 1.5,
            "reward's AUC": 0.6,
            "monitors tripped": 0.0,
        }
    )


@pytest.mark.parametrize(
    ("changes", "failed"),
    [
        ({"paired__boigsd_base__reward": {"low": 0.0}}, "reward over base"),
        ({"paired__boigsd_base__judge": {"low": -0.01}}, "judge over base"),
        ({"paired__boigsd_base__judge": None}, "judge over base"),
        ({"paired__boigsd_champion__judge": {"low": 0.0}}, "judge over champion"),
        ({"paired__boigsd_champion": None}, "judge over champion"),
        ({"generation__boigsd__clip_margin": 0.44}, "CLIP margin kept"),
        ({"generation__base__clip_margin": 0.0}, "CLIP margin kept"),
        ({"generation__boigsd__clip_margin": float("nan")}, "CLIP margin kept"),
        ({"generation__boigsd__diversity": 0.1}, "diversity kept"),
        ({"generation__boigsd__fid": 41.0}, "FID"),
        ({"reward_validity__contrast": {"auc_interval": [0.5, 0.7]}}, "reward's AUC"),
        ({"reward_validity__contrast": {"auc_interval": None}}, "reward's AUC"),
    ],
)
def test_one_bad_or_missing_number_fails_its_gate_alone(
    changes: dict[str, Any], failed: str
) -> None:
    assert failing(gates(report(**changes))) == [failed]


def test_a_report_without_the_numbers_fails_all_but_what_cannot_be_compared() -> None:
    empty: dict[str, Any] = {"generation": {"boigsd": None}, "paired": {}}
    assert failing(gates(empty, evidence=replace(FIRST, monitors=None))) == [
        "reward over base",
        "judge over base",
        "CLIP margin kept",
        "diversity kept",
        "reward's AUC",
        "monitors tripped",
    ]


def test_the_first_model_and_the_champion_itself_have_no_champion_to_beat() -> None:
    tree = report(paired__boigsd_champion=None)
    first, again = (
        gates(tree, evidence=evidence)["judge over champion"]
        for evidence in (FIRST, replace(FIRST, champion=NEW))
    )
    assert (first.passed, first.value, first.note) == (
        True,
        None,
        "not applicable: this is the first model",
    )
    assert (again.passed, again.value) == (True, None)


@pytest.mark.parametrize("compared", [None, "s3://b/models/boigsd/older"])
def test_a_comparison_with_another_champion_does_not_count(compared: str | None) -> None:
    gate = gates(report(), evidence=replace(SECOND, compared=compared))["judge over champion"]
    assert (gate.passed, gate.value) == (False, None)
    assert gate.note.startswith(
        f"not measured: evaluated beside {compared or 'no champion'}, the champion is {OLD}"
    )


def test_fid_is_asked_only_where_it_was_measured_and_says_why_not() -> None:
    gate = gates(report(generation__boigsd__fid=None))["FID"]
    assert (gate.passed, gate.value, gate.note) == (True, None, "not asked: fewer than 1000 images")


def test_the_named_monitors_must_be_silent() -> None:
    tripped = replace(SECOND, monitors={"plateau": "flat since 3", "collapse": "alike since 5"})
    gate = gates(report(), "promotion.silent=[fall, collapse]", evidence=tripped)[
        "monitors tripped"
    ]
    assert (gate.passed, gate.value, gate.note) == (False, 1.0, "alike since 5")
    drifted = replace(SECOND, monitors={"drift": "shows other things since 5"})
    assert not gates(report(), evidence=drifted)["monitors tripped"].passed
    assert gates(report(), "promotion.silent=[]", evidence=tripped)["monitors tripped"].passed


def test_a_gate_that_nobody_asks_is_listed_and_marked() -> None:
    names = ("min_judge_gain", "min_champion_gain", "max_fid")
    shares = ("promotion.min_clip_margin=0", "promotion.min_diversity=0", "promotion.silent=[]")
    nulls = (f"promotion.{name}=null" for name in names)
    result = gates({}, *nulls, *shares, "reward.min_auc=null")
    assert failing(result) == ["reward over base"]
    less = {name: gate for name, gate in result.items() if name != "reward over base"}
    assert len(less) == 7
    assert all(
        (gate.limit, gate.note, gate.loosened) == (None, "not asked", True)
        for gate in less.values()
    )
    text = table(list(result.values()))
    assert "| FID | – | – **loosened** | – | not asked |" in text
    assert in_words(result["FID"]) == "FID: not asked (loosened)"


@pytest.mark.parametrize(
    ("override", "name"),
    [
        ("promotion.min_reward_gain=-0.1", "reward over base"),
        ("promotion.min_judge_gain=-0.1", "judge over base"),
        ("promotion.min_champion_gain=-0.1", "judge over champion"),
        ("promotion.min_clip_margin=0.8", "CLIP margin kept"),
        ("promotion.min_diversity=0.4", "diversity kept"),
        ("promotion.max_fid=3", "FID"),
        ("reward.min_auc=0.4", "reward's AUC"),
        ("promotion.silent=[fall]", "monitors tripped"),
    ],
)
def test_a_gate_that_asks_for_less_than_usual_is_marked(override: str, name: str) -> None:
    usual = "promotion.silent=[fall, collapse, drift, overoptimization]"
    assert not [gate.name for gate in gates(report(), usual).values() if gate.loosened]
    loosened = [gate.name for gate in gates(report(), usual, override).values() if gate.loosened]
    assert loosened == [name]


LEAST = (
    "min_reward_gain",
    "min_judge_gain",
    "min_champion_gain",
    "min_clip_margin",
    "min_diversity",
)
share = st.floats(0, 1)
gain = st.none() | st.floats(-1, 1)
silent = st.lists(st.sampled_from(("fall", "collapse", "drift")), unique=True)


@given(
    st.builds(dict, min_reward_gain=st.floats(-1, 1), min_judge_gain=gain, min_champion_gain=gain,
              min_clip_margin=share, min_diversity=share, max_fid=st.none() | st.floats(0.1, 9), silent=silent),
    st.builds(dict, min_reward_gain=gain, min_judge_gain=gain, min_champion_gain=gain,
              min_clip_margin=share, min_diversity=share, max_fid=st.none() | st.floats(0.1, 9), silent=silent,
              min_auc=st.none() | st.floats(0, 0.9)),
    st.none() | st.floats(0, 0.9),
)  # fmt: skip
def test_gates_ask_for_no_less_than_recipe_and_policy_each(
    own: dict[str, Any], floors: dict[str, Any], min_auc: float | None
) -> None:
    recipe = Recipe(promotion=Promotion(**own), reward=Reward(min_auc=min_auc))
    raised = raise_to_floors(recipe, Gates(**floors))
    pairs = [(getattr(raised.promotion, name), own[name], floors[name]) for name in LEAST]
    for value, *limits in [*pairs, (raised.reward.min_auc, min_auc, floors["min_auc"])]:
        assert value == max((limit for limit in limits if limit is not None), default=None)
    fids = [limit for limit in (own["max_fid"], floors["max_fid"]) if limit is not None]
    assert raised.promotion.max_fid == min(fids, default=None)
    assert set(raised.promotion.silent) == {*own["silent"], *floors["silent"]}
    assert not list(Policy(gates=Gates(**floors))._low_gates(raised))


def test_the_table_shows_values_limits_verdicts_and_reasons() -> None:
    text = table(evaluate_gates(report(paired__boigsd_base__judge=None), Recipe(), SECOND))
    assert (
        "| reward over base | 0.1 | >\u00a00 | yes | lower end of the 95 % interval over prompts, same prompts and noise |"
        in text
    )
    assert (
        "| judge over base | – | >\u00a00 | **no** | not measured: evaluation.judge is not set |"
        in text
    )
    assert "| FID | 1.5 | ≤\u00a02 | yes | share of the base's |" in text
    first = table(evaluate_gates(report(), Recipe(), FIRST))
    assert (
        "| judge over champion | – | >\u00a00 | – | not applicable: this is the first model |"
        in first
    )
    assert len({line.count("|") for line in text.splitlines()}) == 1
