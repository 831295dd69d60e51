from __future__ import annotations

import zlib
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from boig_core.config import load_recipe
from boig_core.llm.base import make_model
from boig_core.llm.generate import generate_answers
from boig_core.llm.sampling import sample_answers

PROMPTS = [
    "acme shows a ball\nanswer:",
    "a much longer prompt about rings and moons\nanswer:",
    "moon\nanswer:",
]


@pytest.fixture
def untrained() -> tuple[Any, Any]:
    llm = load_recipe(
        "tiny", ["llm.hidden=32", "llm.heads=2", "llm.vocab_size=300", "llm.context=128"]
    ).llm
    tokenizer, model = make_model(llm, PROMPTS * 20, seed=0)
    return model.eval(), tokenizer


def test_samples_follow_the_models_own_distribution(untrained: tuple[Any, Any]) -> None:
    model, tokenizer = untrained
    with torch.no_grad():
        model.lm_head.weight.mul_(20)  # peaked enough to be told from uniform
        ids_1T = torch.tensor(
            [
                [
                    tokenizer.bos_token_id,
                    *tokenizer(PROMPTS[0], add_special_tokens=False)["input_ids"],
                ]
            ]
        )
        expected_V = model(input_ids=ids_1T).logits[0, -1].softmax(dim=-1).numpy()
    drawn = sample_answers(model, tokenizer, PROMPTS[:1], samples=4000, seed=0, max_new_tokens=1)[0]
    text = tokenizer.decode([int(expected_V.argmax())], skip_special_tokens=True)
    share = float(
        sum(
            expected_V[i]
            for i in range(len(expected_V))
            if tokenizer.decode([i], skip_special_tokens=True) == text
        )
    )
    assert np.mean([answer == text for answer in drawn]) == pytest.approx(
        share, abs=4 * (share * (1 - share) / 4000) ** 0.5 + 1e-3
    )


def test_samples_depend_on_seed_and_prompt_but_not_on_company(untrained: tuple[Any, Any]) -> None:
    model, tokenizer = untrained
    together = sample_answers(model, tokenizer, PROMPTS, samples=3, seed=1, max_new_tokens=12)
    assert [len(answers) for answers in together] == [3, 3, 3]
    assert len({answer for answers in together for answer in answers}) > 3
    assert (
        sample_answers(
            model, tokenizer, PROMPTS[::-1], samples=3, seed=1, max_new_tokens=12, batch=2
        )[::-1]
        == together
    )
    assert (
        sample_answers(model, tokenizer, PROMPTS, samples=3, seed=2, max_new_tokens=12) != together
    )


def test_answers_are_those_of_a_model_that_reads_everything_anew_for_each_token(
    untrained: tuple[Any, Any],
) -> None:
    model, tokenizer = untrained
    with torch.no_grad():
        model.lm_head.weight.mul_(5)
    long = {"samples": 4, "seed": 3, "max_new_tokens": 24}
    common = Counter(
        i
        for text in sample_answers(model, tokenizer, PROMPTS[:1], **long)[0]
        for i in tokenizer(text)["input_ids"][1:]
    )
    # So that answers end, at different lengths.
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(common.most_common(1)[0][0])

    def write(prompt: str, chance_T: NDArray[np.float64]) -> list[int]:
        ids = [tokenizer.bos_token_id, *tokenizer(prompt, add_special_tokens=False)["input_ids"]]
        start = len(ids)
        for chance in chance_T:
            with torch.inference_mode():
                cumulated_V = (
                    model(input_ids=torch.tensor([ids]))
                    .logits[0, -1]
                    .softmax(dim=-1)
                    .cumsum(dim=-1)
                )
            ids.append(int((cumulated_V < float(chance) * cumulated_V[-1]).sum()))
            if ids[-1] == tokenizer.eos_token_id:
                break
        return ids[start:]

    chances = [
        np.random.default_rng([3, zlib.crc32(prompt.encode())]).random((4, 24))
        for prompt in PROMPTS[:2]
    ]
    expected = [
        [write(prompt, chance_T) for chance_T in chance_NT]
        for prompt, chance_NT in zip(PROMPTS[:2], chances, strict=True)
    ]
    lengths = {len(ids) for answers in expected for ids in answers}
    assert len(lengths) > 2
    texts = [
        [tokenizer.decode(ids, skip_special_tokens=True) for ids in answers] for answers in expected
    ]
    assert sample_answers(model, tokenizer, PROMPTS[:2], **long, batch=8) == texts


def test_a_very_peaked_model_samples_what_it_would_answer_greedily(
    untrained: tuple[Any, Any],
) -> None:
    model, tokenizer = untrained
    with torch.no_grad():
        model.lm_head.weight.mul_(1e4)
    greedy = generate_answers(model, tokenizer, PROMPTS, max_new_tokens=12)
    drawn = sample_answers(model, tokenizer, PROMPTS, samples=2, seed=0, max_new_tokens=12)
    assert drawn == [[answer] * 2 for answer in greedy]
