"""Whatever a base's generation config asks for, an answer is the argmax path, under the grammar as
without it, and samples are the model's own distribution."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from boig_core.llm.constraint import AnswerConstraint
from boig_core.llm.generate import generate_answers, load_llm
from boig_core.llm.sampling import sample_answers
from boig_core.llm.score import example_logprobs
from boig_core.llm.tokens import Example, build_tokenizer, encode_prompts, set_limits

PROMPTS = ["acme shows a ball\nanswer:", "a longer prompt about rings and moons\nanswer:"]
LONGEST = 10
IDS = st.integers(10, 200)
CONFIGS = st.fixed_dictionaries(
    {},
    optional={
        "repetition_penalty": st.sampled_from([0.5, 1.05, 1.3, 5.0]),
        "no_repeat_ngram_size": st.integers(1, 4),
        "bad_words_ids": st.lists(st.lists(IDS, min_size=1, max_size=2), min_size=1, max_size=3),
        "sequence_bias": st.just([[[20], -50.0], [[30], 50.0]]),
        "suppress_tokens": st.lists(IDS, min_size=1, max_size=190, unique=True),
        "begin_suppress_tokens": st.lists(IDS, min_size=1, max_size=190, unique=True),
        "forced_bos_token_id": IDS,
        "forced_eos_token_id": IDS,
        "decoder_start_token_id": IDS,
        "exponential_decay_length_penalty": st.just((2, 5.0)),
        "min_new_tokens": st.integers(1, 30),
        "min_length": st.integers(1, 60),
        "max_new_tokens": st.integers(1, 30),
        "max_length": st.integers(1, 60),
        "max_time": st.just(1e-9),
        "eos_token_id": st.lists(IDS, min_size=1, max_size=100),
        "pad_token_id": IDS,
        "bos_token_id": IDS,
        "stop_strings": st.just(["a", "e", "0"]),
        "do_sample": st.booleans(),
        "temperature": st.sampled_from([0.01, 0.7, 3.0]),
        "top_k": st.integers(1, 50),
        "top_p": st.sampled_from([0.1, 0.9]),
        "min_p": st.just(0.2),
        "typical_p": st.just(0.5),
        "top_h": st.just(0.5),
        "epsilon_cutoff": st.just(0.1),
        "renormalize_logits": st.booleans(),
        "num_beams": st.integers(2, 4),
        "num_beam_groups": st.just(2),
        "diversity_penalty": st.just(0.5),
        "length_penalty": st.just(-3.0),
        "early_stopping": st.booleans(),
        "num_return_sequences": st.integers(2, 3),
        "penalty_alpha": st.just(0.6),
        "dola_layers": st.just("high"),
        "guidance_scale": st.just(2.0),
        "prompt_lookup_num_tokens": st.integers(1, 5),
        "assistant_early_exit": st.just(1),
        "use_mtp": st.just(False),
        "watermarking_config": st.just({"bias": 9.0, "greenlist_ratio": 0.5}),
        "token_healing": st.booleans(),
        "cache_implementation": st.sampled_from(["static", "offloaded", "quantized", "hybrid"]),
        "use_cache": st.booleans(),
        "return_dict_in_generate": st.booleans(),
        "output_scores": st.booleans(),
        "a_field_of_a_later_transformers": st.just({"anything": 1}),
    },
)


@pytest.fixture(scope="module")
def untrained() -> tuple[Any, Any]:
    """A model whose likeliest answers differ from prompt to prompt, repeat themselves and end."""
    tokenizer = build_tokenizer(PROMPTS * 20, 450)
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=128,
    )
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        model.lm_head.weight.mul_(8)
    set_limits(model, tokenizer, 128, LONGEST)
    return model, tokenizer


def by_hand(model: Any, tokenizer: Any, constraint: AnswerConstraint | None) -> list[str]:
    """The argmax path, each token from a reading of all before it."""
    texts = []
    for prompt_T in encode_prompts(tokenizer, PROMPTS, 100):
        ids, mask = prompt_T.tolist(), None if constraint is None else constraint.begin(1)
        start = len(ids)
        while len(ids) - start < LONGEST and ids[-1] != tokenizer.eos_token_id:
            with torch.inference_mode():
                logits_1V = model(input_ids=torch.tensor([ids])).logits[:, -1]
            if mask is not None:
                logits_1V = mask.apply(logits_1V)
            ids.append(int(logits_1V.argmax()))
            if mask is not None:
                mask.advance(ids[-1:])
        texts.append(tokenizer.decode(ids[start:], skip_special_tokens=True))
    return texts


@contextmanager
def asking_for(model: Any, values: dict[str, Any]) -> Iterator[None]:
    """A model whose own generation config has these values."""
    own, model.generation_config = model.generation_config, GenerationConfig()
    # Past any check, as a file on disk may be.
    vars(model.generation_config).update(values)
    changed = model.generation_config
    try:
        yield
        assert model.generation_config is changed, "a model's own is as it was"
    finally:
        model.generation_config = own


@pytest.fixture(scope="module")
def constraint(untrained: tuple[Any, Any]) -> AnswerConstraint:
    return AnswerConstraint(untrained[1])


@pytest.fixture(scope="module")
def paths(untrained: tuple[Any, Any], constraint: AnswerConstraint) -> tuple[list[str], list[str]]:
    """Free and under the grammar."""
    free, bound = by_hand(*untrained, None), by_hand(*untrained, constraint)
    assert free[0] != free[1]
    assert free != bound
    return free, bound


@settings(max_examples=10, deadline=None)
@given(values=CONFIGS)
@example(values={"num_beams": 3})
@example(values={"num_beams": 2, "do_sample": True, "num_return_sequences": 2})
@example(values={"repetition_penalty": 1.3, "no_repeat_ngram_size": 2, "min_new_tokens": 30})
def test_an_answer_is_the_argmax_path_under_any_generation_config(
    untrained: tuple[Any, Any],
    constraint: AnswerConstraint,
    paths: tuple[list[str], list[str]],
    values: dict[str, Any],
) -> None:
    with asking_for(untrained[0], values):
        for grammar, expected in zip((None, constraint), paths, strict=True):
            written = generate_answers(
                *untrained, PROMPTS, constraint=grammar, max_new_tokens=LONGEST
            )
            assert written == expected


@settings(max_examples=3, deadline=None)
@given(values=CONFIGS)
def test_samples_are_the_same_under_any_generation_config(
    untrained: tuple[Any, Any], constraint: AnswerConstraint, values: dict[str, Any]
) -> None:
    options = {"samples": 2, "seed": 1, "max_new_tokens": LONGEST}
    for grammar in (None, constraint):
        plain = sample_answers(*untrained, PROMPTS, constraint=grammar, **options)
        with asking_for(untrained[0], values):
            assert sample_answers(*untrained, PROMPTS, constraint=grammar, **options) == plain


def test_a_sample_is_drawn_with_the_probability_that_scoring_tells(
    untrained: tuple[Any, Any],
) -> None:
    model, tokenizer = untrained
    draws, vocabulary = 3000, len(tokenizer)
    (prompt_T,) = encode_prompts(tokenizer, PROMPTS[:1], 100)
    rows = [Example(prompt_T, np.array([i], np.int32)) for i in range(vocabulary)]
    scored = example_logprobs(model, tokenizer.pad_token_id, rows)
    expected_V = np.exp(np.concatenate(scored))
    assert expected_V.sum() == pytest.approx(1, abs=1e-4)
    texts = tokenizer.batch_decode([[i] for i in range(vocabulary)], skip_special_tokens=True)
    with asking_for(model, {"temperature": 0.1, "top_k": 1, "do_sample": True}):
        (drawn,) = sample_answers(
            model, tokenizer, PROMPTS[:1], samples=draws, seed=0, max_new_tokens=1
        )
    # Some tokens have no text of their own.
    share: dict[str, float] = {}
    for text, probability in zip(texts, expected_V, strict=True):
        share[text] = share.get(text, 0.0) + float(probability)
    counts = Counter(drawn)
    assert len(counts) > 10
    for text, probability in share.items():
        spread = (probability * (1 - probability) / draws) ** 0.5
        assert counts[text] / draws == pytest.approx(probability, abs=5 * spread + 1e-3)


def test_a_published_folder_asks_for_nothing_that_its_base_asked_for(
    untrained: tuple[Any, Any], tmp_path: Path
) -> None:
    model, tokenizer = untrained
    vars(model.generation_config).update(
        # Not even a config that transformers would refuse to save.
        {"repetition_penalty": 1.3, "num_beams": 4, "temperature": 0.1, "do_sample": False}
    )
    set_limits(model, tokenizer, 128, LONGEST)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    written = json.loads((tmp_path / "generation_config.json").read_text())
    ends = ("bos_token_id", "eos_token_id", "pad_token_id")
    expected = {name: getattr(tokenizer, name) for name in ends} | {"max_new_tokens": LONGEST}
    assert {k: v for k, v in written.items() if k != "transformers_version"} == expected
    reopened = load_llm(tmp_path)
    assert generate_answers(*reopened, PROMPTS, max_new_tokens=LONGEST) == by_hand(*untrained, None)
