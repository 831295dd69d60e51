"""Patterns and approximate KPIs: shares and sizes as asked, a function of seed, sample and pass."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from boig_core.config import Pattern, load_recipe
from boig_core.verbalization.patterns import PATTERNS, Mix
from boig_core.verbalization.templates import COMPACT, Wording, condition_of
from boig_core.vocabulary import Description, KpiValue, Sample

SAMPLE = Sample(
    "1", "1", "a", "acme", "2021-07-01T10:00:00Z", "a summer text of acme", ("ball",), 90, 99, "high", "test", "0" * 64, 128, 64,
    Description({"Red": 1.0}), more_kpis={"shares": KpiValue(40.0, 50.0, "medium")},
)  # fmt: skip
EVEN: dict[Pattern, float] = dict.fromkeys(PATTERNS, 1.0)


def mix(**changes: Any) -> Mix:
    return replace(Mix(Wording(more=("shares",)), EVEN, 0.2, 7, with_kpi=True), **changes)


def test_patterns_come_in_the_shares_of_their_weights() -> None:
    weights: dict[Pattern, float] = {
        "describe": 3.0,
        "aim_describe": 1.0,
        "aim_predict": 0.0,
        "predict": 1.0,
    }
    for_weights = mix(weights=weights)
    counts = Counter(
        for_weights.pattern(replace(SAMPLE, id=f"s{i}"), turn)
        for i in range(1000)
        for turn in range(4)
    )
    assert counts.keys() == {"describe", "aim_describe", "predict"}
    for pattern, weight in weights.items():
        assert counts[pattern] / 4000 == pytest.approx(weight / 5, abs=0.03)
    assert len({for_weights.pattern(SAMPLE, turn) for turn in range(40)}) == 3
    turned = mix(weights=dict(reversed(weights.items())))
    assert all(
        turned.pattern(SAMPLE, turn) == for_weights.pattern(SAMPLE, turn) for turn in range(40)
    )


def test_errors_are_even_and_of_no_more_than_their_size() -> None:
    drawn = [
        mix().approximate(condition_of(SAMPLE, mix().wording), SAMPLE, turn) for turn in range(2000)
    ]
    off = np.array([[kpi.value / 90 - 1, kpi.more[0][1].value / 40 - 1] for kpi in drawn])
    assert np.abs(off).max() <= 0.2 + 1e-12
    np.testing.assert_allclose(
        np.quantile(off, (0.25, 0.5, 0.75), axis=0), [[-0.1] * 2, [0.0] * 2, [0.1] * 2], atol=0.015
    )
    assert abs(np.corrcoef(off.T)[0, 1]) < 0.1
    assert {kpi.label for kpi in drawn} == {None}


@given(
    st.text(), st.integers(0, 2**40), st.integers(0, 10**6), st.floats(0, 1e11), st.floats(0, 0.99)
)
def test_what_is_drawn_is_a_function_of_seed_sample_and_pass(
    name: str, seed: int, turn: int, value: float, noise: float
) -> None:
    sample, drawing = replace(SAMPLE, id=name, kpi=value), mix(seed=seed, noise=noise)
    assert drawing.worded(sample, turn) == drawing.worded(sample, turn)
    near = drawing.approximate(condition_of(sample), sample, turn)
    assert abs(near.value - value) <= noise * value + 1e-9 * max(1.0, value)


def test_seed_sample_and_pass_each_change_what_is_drawn() -> None:
    def walk(drawing: Mix, name: str, start: int) -> list[str]:
        return [
            drawing.worded(replace(SAMPLE, id=name), turn)[0] for turn in range(start, start + 20)
        ]

    assert (
        len(
            {
                tuple(walk(*of))
                for of in (
                    (mix(), "1", 0),
                    (mix(seed=8), "1", 0),
                    (mix(), "2", 0),
                    (mix(), "1", 20),
                )
            }
        )
        == 4
    )


def test_the_twin_meets_the_same_patterns_and_no_kpi() -> None:
    messages, blind = mix(), mix(with_kpi=False)
    met = set()
    for turn in range(40):
        (prompt, answer), (unaware, same) = (
            messages.worded(SAMPLE, turn),
            blind.worded(SAMPLE, turn),
        )
        met.add(messages.pattern(SAMPLE, turn))
        assert blind.pattern(SAMPLE, turn) == messages.pattern(SAMPLE, turn)
        assert same == answer
        lines = prompt.split("\n")
        assert unaware.split("\n") == (
            lines if messages.pattern(SAMPLE, turn) == "predict" else [*lines[:-2], lines[-1]]
        )
    assert met == set(EVEN)


def test_only_the_exact_pattern_states_exact_kpis() -> None:
    for pattern, says in {
        "describe": "\nkpi: 90 high\n",
        "aim_predict": "\naim: ",
        "aim_describe": "\naim: ",
    }.items():
        drawing = mix(weights={pattern: 1.0}, wording=COMPACT)
        prompts = [drawing.worded(SAMPLE, turn)[0] for turn in range(5)]
        assert all(says in prompt for prompt in prompts)
        assert (
            len(set(prompts))
            == (5 if drawing.varies(pattern) else 1)
            == (1 if pattern == "describe" else 5)
        )


def test_further_kpis_are_told_in_about_half_of_the_passes_and_always_answered() -> None:
    drawing = mix(weights={"describe": 1.0})
    assert drawing.varies("describe")
    lines = Counter(drawing.worded(SAMPLE, turn)[0].split("\n")[-2] for turn in range(400))
    assert lines.keys() == {"kpi: 90 high", "kpi: 90 high, shares 40 medium"}
    assert min(lines.values()) > 150
    answers = {mix(weights={"predict": 1.0}).worded(SAMPLE, turn)[1] for turn in range(5)}
    assert answers == {'{"kpis":{"likes":90,"shares":40}}'}


def test_the_mix_is_the_recipes() -> None:
    recipe = load_recipe("tiny", ["llm.patterns={2: 1, predict: 3}", "llm.kpi_noise=0.1", "seed=4"])
    assert Mix.of(recipe, with_kpi=False) == Mix(
        COMPACT, {"aim_describe": 1.0, "predict": 3.0}, 0.1, 4, with_kpi=False
    )
