"""Prompts that are read once for all their answers give what prompts that are read anew give, on
real models with random weights."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from boig_core.errors import InputError
from boig_core.llm import score
from boig_core.llm.score import answer_logprobs
from boig_core.llm.tokens import build_tokenizer
from boig_core.verbalization.templates import KpiCondition, build_prompt
from boig_core.vocabulary import Sample

POSTS = [
    "Acme 2021-07-01\na ball for a summer day, number one\nball 64x64",
    "Acme 2021-07-01\na ball for a winter day\nball 64x64",
    "Bolt",
]
PROMPTS = [f"{post}\nkpi: {kpi}\nanswer: " for post in POSTS for kpi in ("900 high", "50 low")]
ANSWERS = [
    '{"color and tones":{"colors":{"Red":{"coverage":0.50}}}',
    "a",
    "summer ball, number 12 of 30",
    "",
]
PAIRS = [(prompt, answer) for answer in ANSWERS for prompt in PROMPTS]
"""Equal prompts stand apart, so that finding them is part of the test."""


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return build_tokenizer(PROMPTS, 512)


def llama(vocab: int, **more: Any) -> Any:
    sizes = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 128,
    }
    kind, config = more.pop("kind", (LlamaForCausalLM, LlamaConfig))
    torch.manual_seed(0)
    return kind(config(**{"vocab_size": vocab, "num_key_value_heads": 2, **sizes, **more})).eval()


def gpt2(vocab: int) -> Any:
    torch.manual_seed(0)
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=vocab, n_embd=32, n_layer=2, n_head=2, n_positions=128)
    ).eval()


MODELS = {
    "llama": llama,
    "qwen2": lambda vocab: llama(vocab, kind=(Qwen2ForCausalLM, Qwen2Config)),
    "gpt2": gpt2,
}


@pytest.fixture(scope="module", params=list(MODELS))
def model(request: pytest.FixtureRequest, tokenizer: Any) -> Any:
    created = MODELS[request.param](len(tokenizer))
    # weights of this size hardly look at other tokens; sharper ones show a wrong mask or position
    with torch.no_grad():
        for parameter in created.parameters():
            parameter.mul_(4)
    return created


def test_batched_single_and_shared_agree(model: Any, tokenizer: Any) -> None:
    prompts, answers = zip(*PAIRS, strict=True)
    assert score._can_share(model, tokenizer.pad_token_id)
    shared = answer_logprobs(model, tokenizer, prompts, answers)
    plain = answer_logprobs(model, tokenizer, prompts, answers, share=False)
    single = [answer_logprobs(model, tokenizer, [prompt], [answer])[0] for prompt, answer in PAIRS]
    for i, (prompt, answer) in enumerate(PAIRS):
        ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        answered = [
            *tokenizer(answer, add_special_tokens=False)["input_ids"],
            tokenizer.eos_token_id,
        ]
        with torch.inference_mode():
            logits = (
                model(torch.tensor([[tokenizer.bos_token_id, *ids, *answered]]))
                .logits[0]
                .log_softmax(-1)
            )
        by_hand = [float(logits[len(ids) + k, token]) for k, token in enumerate(answered)]
        for result in (shared[i], plain[i], single[i]):
            np.testing.assert_allclose(result, by_hand, atol=1e-5, rtol=1e-5)


def test_a_chunk_that_is_redone_gives_the_same_bits(model: Any, tokenizer: Any) -> None:
    prompts, answers = zip(*PAIRS, strict=True)
    for chunk in (64, 5):
        first, again = (
            answer_logprobs(model, tokenizer, prompts, answers, chunk=chunk) for _ in range(2)
        )
        for a, b in zip(first, again, strict=True):
            np.testing.assert_array_equal(a, b)


def test_what_prompts_have_in_common_is_read_once(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = llama(len(tokenizer))
    score._can_share(model, tokenizer.pad_token_id)
    shapes: list[tuple[int, ...]] = []
    real = score._batch

    def noted(model: Any, pad: int, texts: Sequence[Any]) -> Any:
        shapes.append(tuple(map(len, texts)))
        return real(model, pad, texts)

    monkeypatch.setattr(score, "_batch", noted)
    prompts = PROMPTS[:2] * 16
    answer_logprobs(model, tokenizer, prompts, ["ball"] * 32)
    (stem,), rests, answers = shapes
    ids = [tokenizer(prompt, add_special_tokens=False)["input_ids"] for prompt in PROMPTS[:2]]
    assert len(rests) == 2  # HIGH and LOW
    # BOS stands in, the last token is the answer's.
    assert sorted(stem + rest for rest in rests) == sorted(len(item) for item in ids)
    assert stem > 0.8 * len(ids[0])
    assert len(answers) == 32
    assert len(set(answers)) == 1


@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=12), min_size=1, max_size=8))
def test_stems_and_rests_make_up_the_texts(texts: list[list[int]]) -> None:
    heads = [np.array(text, np.int32) for text in sorted(texts)]
    stems, owners = score._stems(heads)
    assert owners == sorted(owners)
    assert set(owners) == set(range(len(stems)))
    for head, owner in zip(heads, owners, strict=True):
        np.testing.assert_array_equal(head[: len(stems[owner])], stems[owner])


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (
            {"kind": (MistralForCausalLM, MistralConfig), "sliding_window": 8},
            "other than plain keys and values",
        ),
        (
            {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}},
            "depend on the length",
        ),
    ],
)
def test_a_model_that_cannot_share_is_read_plainly_and_says_so(
    more: dict[str, Any], says: str, tokenizer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    model = llama(len(tokenizer), **more)
    with caplog.at_level(logging.WARNING):
        result, again = (
            answer_logprobs(model, tokenizer, PROMPTS[:2], ["ball"] * 2) for _ in range(2)
        )
    assert [record.getMessage() for record in caplog.records if says in record.getMessage()] != []
    assert len(caplog.records) == 1
    for a, b in zip(
        result,
        answer_logprobs(model, tokenizer, PROMPTS[:2], ["ball"] * 2, share=False),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(result[0], again[0])


def test_a_model_that_passes_positions_over_is_found_out(
    model: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = model.forward
    assert score._why_not(model, tokenizer.pad_token_id) == ""
    monkeypatch.setattr(
        model, "forward", lambda *args, position_ids=None, **kwargs: real(*args, **kwargs)
    )
    assert "nats when it reads on" in score._why_not(model, tokenizer.pad_token_id)


def test_a_long_prompt_fills_the_context_to_its_last_place(model: Any, tokenizer: Any) -> None:
    post = Sample(
        "1",
        "1",
        "a",
        "Acme",
        "2021-07-01T10:00:00Z",
        "x y " * 200,
        (),
        9,
        50,
        "high",
        "test",
        "0",
        64,
        64,
    )
    prompts = [
        build_prompt(post, KpiCondition(value, label))
        for value, label in ((900, "high"), (5, "low"))
    ]
    answers = ["ball 12 of the day"] * 2
    shared, plain = (
        answer_logprobs(model, tokenizer, prompts, answers, share=share) for share in (True, False)
    )
    for a, b in zip(shared, plain, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5, rtol=1e-5)
    with pytest.raises(InputError, match=r"raise llm\.context"):
        answer_logprobs(model, tokenizer, prompts, ["day " * 300] * 2)
