"""Examples of each pass: the mix of patterns, resumed and for the twin, and what is cut."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from boig_core.config import Pattern, Recipe, parse_recipe
from boig_core.llm import examples as module
from boig_core.llm.batches import Order, SampleDraw, by_bucket
from boig_core.llm.examples import TokenExamples, make_examples
from boig_core.llm.tokens import Example, build_tokenizer
from boig_core.verbalization.patterns import PATTERNS, Mix
from boig_core.verbalization.templates import build_prompt, condition_of
from boig_core.vocabulary import Sample

MakeSamples = Callable[[int], list[Sample]]
EVEN = {"patterns": dict.fromkeys(range(1, 5), 1)}


def recipe(**llm: Any) -> Recipe:
    return parse_recipe({"llm": {"context": 160, "max_new_tokens": 64, "batch": 12, **llm}})


def texts(examples: list[Example]) -> list[tuple[bytes, bytes]]:
    return [(example.prompt_T.tobytes(), example.answer_T.tobytes()) for example in examples]


@pytest.fixture(scope="module")
def samples(make_samples: MakeSamples) -> list[Sample]:
    return make_samples(24)


@pytest.fixture(scope="module")
def tokenizer(samples: list[Sample]) -> Any:
    return build_tokenizer([build_prompt(s, condition_of(s)) for s in samples], 600)


def test_by_default_every_pass_is_alike_and_encoded_once(
    samples: list[Sample], tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    created = make_examples(tokenizer, samples, recipe(), with_kpi=True)
    monkeypatch.setattr(
        module, "encode_examples", lambda *args: [] if not args[1] else pytest.fail("encoded again")
    )
    assert created.drawn([SampleDraw(3, 0), SampleDraw(3, 1), SampleDraw(5, 9)]) == [
        created[3],
        created[3],
        created[5],
    ]
    prompt = build_prompt(samples[3], condition_of(samples[3]))
    assert tokenizer.decode(created[3].prompt_T, skip_special_tokens=True) == prompt


def test_the_twin_differs_in_the_kpi_line_alone(samples: list[Sample], tokenizer: Any) -> None:
    messages, blind = (
        make_examples(tokenizer, samples, recipe(**EVEN), with_kpi=flag) for flag in (True, False)
    )
    draws = [SampleDraw(row, turn) for turn in range(4) for row in range(len(samples))]
    shorter = 0
    for item, other in zip(messages.drawn(draws), blind.drawn(draws), strict=True):
        assert item.answer_T.tolist() == other.answer_T.tolist()
        lines = tokenizer.decode(item.prompt_T).split("\n")
        if len(item.prompt_T) != len(other.prompt_T):
            shorter += 1
            lines.pop(-2)
        assert tokenizer.decode(other.prompt_T).split("\n") == lines
    assert shorter / len(draws) == pytest.approx(3 / 4, abs=0.15)


def test_a_training_that_goes_on_draws_what_an_uninterrupted_one_does(
    samples: list[Sample], tokenizer: Any
) -> None:
    def walk(start: int) -> list[list[tuple[bytes, bytes]]]:
        created = make_examples(tokenizer, samples, recipe(**EVEN), with_kpi=True)
        order = Order(by_bucket(samples), 12, seed=0)
        return [texts(created.drawn(order.draws(step))) for step in range(start, 10)]

    whole = walk(0)
    assert whole[6:] == walk(6)
    assert len({text for step in whole for text in step}) > 60  # noise differs from pass to pass


def test_answers_follow_the_pattern(samples: list[Sample], tokenizer: Any) -> None:
    mix = Mix.of(recipe(**EVEN), with_kpi=True)
    created = TokenExamples(tokenizer, samples, recipe().llm, mix)
    draws = [SampleDraw(row, turn) for turn in (0, 5) for row in range(len(samples))]
    met: set[Pattern] = set()
    for draw, example in zip(draws, created.drawn(draws), strict=True):
        sample, pattern = samples[draw.row], mix.pattern(samples[draw.row], draw.turn)
        met.add(pattern)
        answer, kpis = (
            tokenizer.decode(example.answer_T, skip_special_tokens=True),
            f'"kpis":{{"likes":{sample.kpi:.0f}}}}}',
        )
        assert ("colors" in answer) == (pattern in ("describe", "aim_describe"))
        assert answer.endswith(kpis) == (pattern != "describe")
        assert (f"kpi: {sample.kpi:.0f} {sample.bucket}" in tokenizer.decode(example.prompt_T)) == (
            pattern == "describe"
        )
    assert met == set(PATTERNS)


def test_what_was_cut_is_counted_over_the_samples(samples: list[Sample], tokenizer: Any) -> None:
    wordy = [
        replace(s, keywords=tuple(f"word{n}" for n in range(20))) if i % 3 == 0 else s
        for i, s in enumerate(samples)
    ]
    created = make_examples(tokenizer, wordy, recipe(), with_kpi=True)
    assert created.cut["cut_samples"] == 8
    assert created.cut["cut_keywords"] == sum(example.cut_keywords for example in created) >= 8
    assert make_examples(tokenizer, samples, recipe(), with_kpi=True).cut == {
        "cut_samples": 0,
        "cut_keywords": 0,
    }
    assert max(example.length for example in created) <= 160
    assert np.max([len(example.prompt_T) for example in created]) > 80
