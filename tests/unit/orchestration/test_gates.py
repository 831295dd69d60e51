"""Gates: limits are strict, shares are of the base, and a number that is missing never passes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from boig_core.config import Promotion
from boig_core.orchestration.gates import evaluate_gates, table


def report(**changes: Any) -> dict[str, Any]:
    tree: dict[str, Any] = {
        "generation": {"base": {"clip_margin": 0.5, "diversity": 0.4}, "boigsd": {"clip_margin": 0.45, "diversity": 0.3}},
        "paired": {"boigsd-base": {"reward": {"mean": 0.3, "low": 0.1, "high": 0.5}, "judge": {"mean": 0.2, "low": 0.05, "high": 0.3}}},
    }
    tree = json.loads(json.dumps(tree))
    for path, value in changes.items():
        *parents, leaf = path.split("__")
        node = tree
        for parent in parents:
            node = node[{"boigsd_base": "boigsd-base"}.get(parent, parent)]
        node[leaf] = value
    return tree


def verdicts(tree: dict[str, Any], promotion: Promotion | None = None) -> dict[str, bool]:
    return {gate.name: gate.passed for gate in evaluate_gates(tree, promotion or Promotion())}


def test_a_good_candidate_passes_every_gate() -> None:
    gates = evaluate_gates(report(), Promotion())
    assert all(gate.passed for gate in gates)
    assert [gate.value for gate in gates] == pytest.approx([0.1, 0.05, 0.9, 0.75])


@pytest.mark.parametrize(
    ("changes", "failing"),
    [
        ({"paired__boigsd_base__reward": {"low": 0.0}}, "reward gain, lower end"),
        ({"paired__boigsd_base__judge": {"low": -0.01}}, "judge gain, lower end"),
        ({"paired__boigsd_base__judge": None}, "judge gain, lower end"),
        ({"generation__boigsd__clip_margin": 0.44}, "CLIP margin kept"),
        ({"generation__base__clip_margin": 0.0}, "CLIP margin kept"),
        ({"generation__boigsd__clip_margin": float("nan")}, "CLIP margin kept"),
        ({"generation__boigsd": None}, "diversity kept"),
        ({"generation__boigsd__diversity": 0.1}, "diversity kept"),
        ({"paired": {}}, "reward gain, lower end"),
    ],
)
def test_one_bad_or_missing_number_fails_its_gate(changes: dict[str, Any], failing: str) -> None:
    assert verdicts(report(**changes))[failing] is False


def test_the_judge_is_asked_only_when_the_recipe_names_a_limit() -> None:
    assert "judge gain, lower end" not in verdicts(report(paired__boigsd_base__judge=None), Promotion(min_judge_gain=None))


def test_the_table_shows_values_limits_and_verdicts() -> None:
    text = table(evaluate_gates(report(paired__boigsd_base__judge=None), Promotion()))
    assert "| reward gain, lower end | 0.1 | 0 | yes |" in text
    assert "| judge gain, lower end | absent | 0 | **no** |" in text
