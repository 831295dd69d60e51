"""Gates: limits are strict, shares are of the base, and a number that is missing never passes, but
where there is nothing to compare."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from boig_core.config import Recipe, load_recipe
from boig_core.orchestration.promotion.gates import Gate, PromotionEvidence, evaluate_gates, table

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
    assert gates(report(), "promotion.silent=[]", evidence=tripped).get("monitors tripped") is None


def test_a_gate_that_the_recipe_takes_away_is_not_shown() -> None:
    names = ("min_judge_gain", "min_champion_gain", "max_fid")
    result = gates({}, *(f"promotion.{name}=null" for name in names), "reward.min_auc=null")
    assert set(result) == {
        "reward over base",
        "CLIP margin kept",
        "diversity kept",
        "monitors tripped",
    }


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
