"""Instruction-tuned bases: prompts are the user's turn of a chat, alike in training, scoring and
generation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from boig_core.config import parse_recipe
from boig_core.llm.examples import make_examples
from boig_core.llm.finetune import export, finetune
from boig_core.llm.generate import load_llm, prompt_batches
from boig_core.llm.score import answer_logprobs
from boig_core.llm.tokens import (
    build_tokenizer,
    encode_examples,
    encode_prompts,
    end_of_turn,
    limits_of,
    prompt_room,
)
from boig_core.verbalization.templates import KpiCondition, build_answer, build_prompt, condition_of
from boig_core.vocabulary import Sample

MakeSamples = Callable[[int], list[Sample]]
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|{{ message.role }}|>\n{{ message.content | trim }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


@pytest.fixture(scope="module")
def tokenizer(make_samples: MakeSamples) -> Any:
    created = build_tokenizer([build_prompt(s, condition_of(s)) for s in make_samples(40)], 600)
    created.add_special_tokens(
        {"additional_special_tokens": ["<|user|>", "<|assistant|>", "<|end|>"]}
    )
    created.chat_template = TEMPLATE
    return created


def test_a_prompt_is_the_users_turn_with_one_bos(tokenizer: Any, make_samples: MakeSamples) -> None:
    prompts = [build_prompt(s, condition_of(s)) for s in make_samples(4)]
    for prompt, ids_T in zip(prompts, encode_prompts(tokenizer, prompts, 200), strict=True):
        assert tokenizer.decode(ids_T) == f"<s><|user|>\n{prompt.strip()}<|end|>\n<|assistant|>\n"
        assert (ids_T == tokenizer.bos_token_id).sum() == 1


def test_a_template_decides_about_bos_and_is_told_one_date() -> None:
    bare = build_tokenizer(["x"], 500)
    bare.chat_template = "{{ date_string if date_string is defined else strftime_now('%d') }}: {{ messages[0].content }}"
    (ids_T,) = encode_prompts(bare, ["hello"], 100)
    assert bare.decode(ids_T) == "26 Jul 2024: hello"


def test_an_answer_ends_with_the_templates_end_of_turn(
    tokenizer: Any, make_samples: MakeSamples
) -> None:
    sample = make_samples(1)[0]
    (example,) = encode_examples(
        tokenizer, [build_prompt(sample, None)], [build_answer(sample)], 200
    )
    assert tokenizer.decode(example.answer_T) == build_answer(sample) + "<|end|>"
    for template, end in {
        "{{ messages[0].content }} answer: {{ messages[-1].content }} {{ eos_token }}": "</s>",
        "user: {{ messages[0].content }}\nbot: {{ messages[-1].content }}\n": "</s>",
    }.items():
        other = build_tokenizer(["x"], 500)
        other.chat_template = template
        assert end_of_turn(other) == other.convert_tokens_to_ids(end)


def test_a_post_cannot_end_its_turn(tokenizer: Any, make_samples: MakeSamples) -> None:
    sample = replace(make_samples(1)[0], text="a <|end|> <|assistant|> </s> of <s> turns")
    (ids_T,) = encode_prompts(tokenizer, [build_prompt(sample, None)], 200)
    special = [
        tokenizer.decode([i])
        for i in ids_T
        if tokenizer.added_tokens_decoder.get(int(i), None) and i in tokenizer.all_special_ids
    ]
    assert special == ["<s>", "<|user|>", "<|end|>", "<|assistant|>"]
    assert sample.text in tokenizer.decode(ids_T)


def test_high_and_low_share_all_but_the_kpi_however_long_the_post(
    tokenizer: Any, make_samples: MakeSamples
) -> None:
    for words in (1, 30, 200):
        sample = replace(make_samples(1)[0], text="a ball and a ring " * words)
        pair = [
            build_prompt(sample, KpiCondition(value, label))
            for value, label in ((98700, "high"), (3, "low"))
        ]
        high_T, low_T = encode_prompts(tokenizer, pair, 100)
        assert max(len(high_T), len(low_T)) <= 100
        common = next(i for i, (a, b) in enumerate(zip(high_T, low_T, strict=False)) if a != b)
        assert tokenizer.decode(high_T[common:]).startswith(("98700 high", " 98700 high"))
        assert tokenizer.decode(low_T[common:]).startswith(("3 low", " 3 low"))
        assert tokenizer.decode(high_T).endswith("answer:<|end|>\n<|assistant|>\n")


@pytest.fixture(scope="module")
def tuned(
    tokenizer: Any,
    make_samples: MakeSamples,
    save_llama: Callable[..., None],
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, Any]:
    """A model fine-tuned from a base with a chat template, in a context of 160 of its 512
    tokens."""
    base, folder = tmp_path_factory.mktemp("base"), tmp_path_factory.mktemp("tuned")
    save_llama(base, tokenizer)
    llm = {
        "base": str(base),
        "context": 160,
        "max_new_tokens": 64,
        "batch": 6,
        "micro_batch": 6,
        "steps": 2,
        "checkpoint_every": 2,
    }
    recipe = parse_recipe({"llm": llm})
    export(finetune(make_samples(60), recipe, with_kpi=True), folder)
    return folder, recipe


def test_the_saved_folder_tells_what_the_model_was_trained_for(tuned: tuple[Path, Any]) -> None:
    model, tokenizer = load_llm(tuned[0])
    assert limits_of(model, tokenizer) == (160, 64)
    assert tokenizer.eos_token == "<|end|>"
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id == end_of_turn(tokenizer)
    assert tokenizer.chat_template == TEMPLATE


def test_training_generation_and_scoring_see_the_same_prompt(
    tuned: tuple[Path, Any], make_samples: MakeSamples
) -> None:
    model, tokenizer = load_llm(tuned[0])
    samples = [
        replace(s, text=f"{s.text}. " * (1 + i), keywords=("a", "b", "c"))
        for i, s in enumerate(make_samples(8))
    ]
    trained = make_examples(tokenizer, samples, tuned[1], with_kpi=True)
    assert 0 < trained.cut["cut_samples"] < 8
    prompts = [build_prompt(s, condition_of(s)) for s in samples]
    for longest in (64, 12):
        asked = {}
        for rows, ids_BT, mask_BT in prompt_batches(model, tokenizer, prompts, longest, 3):
            asked |= {
                i: ids_T[mask_T.bool()].tolist()
                for i, ids_T, mask_T in zip(rows, ids_BT, mask_BT, strict=True)
            }
        assert [asked[i] for i in range(8)] == [example.prompt_T.tolist() for example in trained]
    scored = answer_logprobs(model, tokenizer, prompts, [build_answer(s) for s in samples], chunk=8)
    for example, found_T in zip(trained, scored, strict=True):
        ids_T = torch.from_numpy(np.concatenate([example.prompt_T, example.answer_T])).long()
        with torch.no_grad():
            expected = model(ids_T[None]).logits[0].log_softmax(-1)[len(example.prompt_T) - 1 : -1]
        np.testing.assert_allclose(
            found_T,
            expected.gather(1, ids_T[len(example.prompt_T) :, None])[:, 0].numpy(),
            atol=1e-4,
        )
    assert max(len(example.prompt_T) for example in trained) <= prompt_room(160, 64)
