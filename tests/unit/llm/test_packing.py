"""Packing: rows hold every sample once, and no sample can tell that it shares a row."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    Qwen2Config,
)

from boig_core.errors import RecipeError
from boig_core.llm.packing import Layout, cheapest_rows, check_packing, first_fit
from boig_core.llm.tokens import Example

VOCAB = 90
SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
MODELS = {
    "llama": LlamaConfig(**SIZES),
    "qwen2, grouped keys": Qwen2Config(**SIZES, num_key_value_heads=2),
    "mistral, sliding window": MistralConfig(**SIZES, num_key_value_heads=2, sliding_window=4),
    "gpt-neox": GPTNeoXConfig(**SIZES),
    "gpt2, learned positions": GPT2Config(
        vocab_size=VOCAB,
        n_positions=64,
        n_embd=32,
        n_layer=2,
        n_head=4,
        bos_token_id=1,
        eos_token_id=2,
    ),
}
CPU = torch.device("cpu")


def make_model(config: Any) -> Any:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).eval()


def example(prompt: int, answer: int, seed: int = 0) -> Example:
    ids = (
        np.random.default_rng([seed, prompt, answer])
        .integers(3, VOCAB, prompt + answer)
        .astype(np.int32)
    )
    return Example(ids[:prompt], ids[prompt:])


lengths = st.lists(st.integers(1, 12), min_size=1, max_size=20)


@given(lengths, st.integers(1, 30))
def test_first_fit_places_every_sample_once_in_the_first_row_with_room(
    sizes: list[int], room: int
) -> None:
    rows = first_fit(sizes, room)
    assert sorted(i for row in rows for i in row) == list(range(len(sizes)))
    for number, row in enumerate(rows):
        assert row == sorted(row)
        assert len(row) == 1 or sum(sizes[i] for i in row) <= room
        for i in row:
            for before in rows[:number]:
                assert sum(sizes[j] for j in before if j < i) + sizes[i] > room, (
                    "an earlier row had room"
                )


@given(
    st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=9),
    st.sampled_from([0, 16, math.inf]),
)
def test_rows_hold_the_samples_and_ask_for_the_answers(
    sizes: list[tuple[int, int]], room: float
) -> None:
    examples = [example(*size, seed) for seed, size in enumerate(sizes)]
    rows = Layout(pad=0, room=room, hidden=99)(examples)
    order = [i for row in cheapest_rows([e.length for e in examples], room, 99) for i in row]
    assert rows.targets_N.tolist() == [token for i in order for token in examples[i].answer_T]
    following = torch.roll(rows.ids_BT, -1, dims=1)
    assert following[rows.keep_BT].tolist() == rows.targets_N.tolist()
    if rows.positions_BT is None:
        assert len(rows.ids_BT) == len(examples)
    else:
        used = sum(e.length for e in examples)
        assert int((rows.ids_BT != 0).sum()) == used
        starts = torch.cat([torch.arange(e.length) for e in (examples[i] for i in order)])
        assert rows.positions_BT[rows.ids_BT != 0].tolist() == starts.tolist()
    assert len(rows.ids_BT) == 1 or room != math.inf


@given(lengths, st.integers(12, 60), st.sampled_from([1, 64, 5000]))
def test_rows_stay_within_the_context_and_never_hold_more_padding_than_a_sample_each(
    sizes: list[int], room: int, hidden: int
) -> None:
    rows = cheapest_rows(sizes, room, hidden)
    width = max(sum(sizes[i] for i in row) for row in rows)
    assert sorted(i for row in rows for i in row) == list(range(len(sizes)))
    assert width <= room
    assert len(rows) * width <= len(sizes) * max(sizes)


def test_a_wide_model_packs_tightly_and_a_narrow_one_keeps_rows_short() -> None:
    sizes = [8, 120, 8, 8, 96, 40, 120, 8]
    assert len(cheapest_rows(sizes, 512, 5120)) == 1
    assert max(sum(sizes[i] for i in row) for row in cheapest_rows(sizes, 512, 1)) == 120
    assert cheapest_rows([50] * 6, 512, 5120) == [[i] for i in range(6)], (
        "without padding there is nothing to gain"
    )


def logits_of(model: Callable[..., Any], examples: list[Example], room: float) -> list[Tensor]:
    """Logits of each sample's answer (samples of equal length keep their order)."""
    rows = Layout(pad=0, room=room)(examples)
    with torch.no_grad():
        logits_NV: Tensor = model(**rows.inputs(CPU)).logits
    return list(logits_NV.split([len(e.answer_T) for e in examples]))


@pytest.mark.parametrize("name", MODELS)
def test_a_packed_sample_is_computed_as_it_is_alone_and_sees_no_other(name: str) -> None:
    model = make_model(MODELS[name])
    samples = [example(5, 6, seed) for seed in range(5)]
    packed = logits_of(model, samples, math.inf)
    for sample, logits in zip(samples, packed, strict=True):
        torch.testing.assert_close(logits, logits_of(model, [sample], 0)[0], rtol=0, atol=1e-5)
    changed = logits_of(model, [example(5, 6, 9), *samples[1:]], math.inf)
    assert not torch.equal(changed[0], packed[0])
    assert all(torch.equal(a, b) for a, b in zip(changed[1:], packed[1:], strict=True))
    check_packing(model, VOCAB, name, CPU)


def test_padding_at_the_end_of_a_row_changes_nothing() -> None:
    model = make_model(MODELS["llama"])
    samples = [example(3, 9), example(2, 2), example(2, 5), example(1, 2)]
    rows = Layout(pad=0, room=12, hidden=10**6)(samples)
    assert rows.ids_BT.shape == (3, 12)
    with torch.no_grad():
        packed = model(**rows.inputs(CPU)).logits
    order = [i for row in cheapest_rows([e.length for e in samples], 12, 10**6) for i in row]
    alone = torch.cat([logits_of(model, [samples[i]], 0)[0] for i in order])
    torch.testing.assert_close(packed, alone, rtol=0, atol=1e-5)


def test_a_mask_of_ones_or_a_cache_would_leak_and_is_noticed() -> None:
    model = make_model(MODELS["llama"])

    def masked(input_ids: Tensor, **kwargs: Any) -> Any:
        return model(input_ids=input_ids, attention_mask=torch.ones_like(input_ids), **kwargs)

    def cached(**kwargs: Any) -> Any:
        return model(**{**kwargs, "use_cache": True})

    samples = [example(5, 6, seed) for seed in range(2)]
    for leaky in (masked, cached):
        item, other = (
            logits_of(leaky, [first, samples[1]], math.inf)[1]
            for first in (samples[0], example(5, 6, 9))
        )
        assert not torch.allclose(item, other, atol=1e-3)
        with pytest.raises(RecipeError, match="sees other samples of a row"):
            check_packing(leaky, VOCAB, "a leaky model", CPU)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_recurrent_model_is_refused(dtype: torch.dtype) -> None:
    model = make_model(
        MambaConfig(vocab_size=VOCAB, hidden_size=32, num_hidden_layers=2, state_size=4)
    ).to(dtype)
    with pytest.raises(
        RecipeError,
        match=r"^llm\.packing = true: Mamba sees other samples.*; set llm\.packing=false$",
    ):
        check_packing(model, VOCAB, "Mamba", CPU)


def test_a_model_that_counts_positions_through_a_row_is_refused() -> None:
    model = make_model(MODELS["gpt2, learned positions"])

    def counting(position_ids: Tensor | None = None, **kwargs: Any) -> Any:
        if position_ids is None:
            return model(**kwargs)
        sample_BT = (position_ids == 0).cumsum(dim=-1)
        seen_BTT = (sample_BT[:, :, None] == sample_BT[:, None, :]).tril()
        return model(attention_mask=seen_BTT[:, None], **kwargs)

    with pytest.raises(RecipeError, match="does not start anew"):
        check_packing(counting, VOCAB, "a counting model", CPU)
