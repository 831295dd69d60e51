from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from boig_core.config import load_recipe
from boig_core.errors import InputError
from boig_core.llm.finetune import make_model
from boig_core.llm.generate import generate_answers, load_llm, parse_or_none, sample_answers
from boig_core.verbalization.answer import print_answer
from boig_core.vocabulary import Description

LOOK = Description({"Red": 0.6, "White": 0.4}, {"warm": 0.6, "neutral": 0.4, "cool": 0.0}, {"ball": (1.0, 2.0, 30.0, 40.0)})


def test_an_answer_is_read_back_and_a_broken_one_is_none() -> None:
    text = print_answer(LOOK)
    assert parse_or_none(text) == LOOK
    for broken in (text[:-1], "", text.replace("Red", "Reddish"), text.replace("[1,2,30,40]", "[30,2,1,40]"), "[1]"):
        assert parse_or_none(broken) is None


def test_of_a_name_written_twice_the_first_counts() -> None:
    text = print_answer(LOOK).replace("[1,2,30,40]", '[1,2,30,40],"ball":[9,9,10,10]')
    assert parse_or_none(text) == LOOK


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be opened"):
        load_llm(tmp_path)


PROMPTS = ["acme shows a ball\nanswer:", "a much longer prompt about rings and moons\nanswer:", "moon\nanswer:"]


@pytest.fixture
def untrained() -> tuple[Any, Any]:
    llm = load_recipe("tiny", ["llm.hidden=32", "llm.heads=2", "llm.vocab_size=300", "llm.context=128"]).llm
    tokenizer, model = make_model(llm, PROMPTS * 20, seed=0)
    return model.eval(), tokenizer


def test_samples_follow_the_models_own_distribution(untrained: tuple[Any, Any]) -> None:
    model, tokenizer = untrained
    with torch.no_grad():
        model.lm_head.weight.mul_(20)  # peaked enough to be told from uniform
        ids_1T = torch.tensor([[tokenizer.bos_token_id, *tokenizer(PROMPTS[0], add_special_tokens=False)["input_ids"]]])
        expected_V = model(input_ids=ids_1T).logits[0, -1].softmax(dim=-1).numpy()
    drawn = sample_answers(model, tokenizer, PROMPTS[:1], samples=4000, seed=0, max_new_tokens=1)[0]
    text = tokenizer.decode([int(expected_V.argmax())], skip_special_tokens=True)
    share = float(sum(expected_V[i] for i in range(len(expected_V)) if tokenizer.decode([i], skip_special_tokens=True) == text))
    assert np.mean([answer == text for answer in drawn]) == pytest.approx(share, abs=4 * (share * (1 - share) / 4000) ** 0.5 + 1e-3)


def test_samples_depend_on_seed_and_prompt_but_not_on_company(untrained: tuple[Any, Any]) -> None:
    model, tokenizer = untrained
    together = sample_answers(model, tokenizer, PROMPTS, samples=3, seed=1, max_new_tokens=12)
    assert [len(answers) for answers in together] == [3, 3, 3]
    assert len({answer for answers in together for answer in answers}) > 3
    assert sample_answers(model, tokenizer, PROMPTS[::-1], samples=3, seed=1, max_new_tokens=12, batch=2)[::-1] == together
    assert sample_answers(model, tokenizer, PROMPTS, samples=3, seed=2, max_new_tokens=12) != together


def test_a_very_peaked_model_samples_what_it_would_answer_greedily(untrained: tuple[Any, Any]) -> None:
    model, tokenizer = untrained
    with torch.no_grad():
        model.lm_head.weight.mul_(1e4)
    greedy = generate_answers(model, tokenizer, PROMPTS, max_new_tokens=12)
    drawn = sample_answers(model, tokenizer, PROMPTS, samples=2, seed=0, max_new_tokens=12)
    assert drawn == [[answer] * 2 for answer in greedy]
