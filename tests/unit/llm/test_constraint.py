"""Whatever ends under the grammar can be parsed, and nothing that training writes is refused."""

from __future__ import annotations

import itertools
import json
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from boig_core.errors import InputError
from boig_core.llm.constraint import MAX_COLORS, MAX_OBJECTS, NAME_LENGTH, AnswerConstraint
from boig_core.llm.generate import generate_answers, parse_or_none
from boig_core.llm.sampling import sample_answers
from boig_core.llm.tokens import build_tokenizer
from boig_core.verbalization.answer import print_answer
from boig_core.vocabulary import PALETTE, TONES, Description

PROMPTS = [
    "acme shows a ball\nanswer:",
    "a much longer prompt about rings and moons 128x128\nanswer:",
    "moon\nanswer:",
]
LOOK = print_answer(
    Description(
        {"Red": 0.6, "Off_White": 0.4},
        {"warm": 0.6, "neutral": 0.4, "cool": 0.0},
        {"ball": (5.0, 20.0, 30.0, 400.0)},
    )
)


def scratch() -> Any:
    return build_tokenizer(PROMPTS * 20, 500)


def byte_level() -> Any:
    """Byte-level BPE without added pieces, as GPT-2's and Llama 3's."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator([*PROMPTS, LOOK] * 20, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )


def sentence_piece() -> Any:
    """BPE with byte fall-back that writes a space in front of every text, as Llama 2's."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    alphabet = [chr(code) for code in range(33, 127)]
    trainer = trainers.BpeTrainer(
        vocab_size=700, special_tokens=special[:3], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([*PROMPTS, LOOK] * 20, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="</s>",
        unk_token="<unk>",
    )


TOKENIZERS = {"scratch": scratch(), "byte_level": byte_level(), "sentence_piece": sentence_piece()}
CONSTRAINTS = {name: AnswerConstraint(tokenizer) for name, tokenizer in TOKENIZERS.items()}


def accepts(name: str, text: str) -> bool:
    """Whether the grammar lets a text pass and end, token by token as a tokenizer cuts it."""
    mask, end = CONSTRAINTS[name].begin(1), TOKENIZERS[name].eos_token_id
    for token in [*TOKENIZERS[name](text, add_special_tokens=False)["input_ids"], end]:
        if mask.apply(torch.zeros(1, len(TOKENIZERS[name])))[0, token].isneginf():
            return False
        mask.advance([token])
    return True


edges = st.integers(0, 99_999)
boxes = st.tuples(edges, edges, edges, edges).map(
    lambda b: (
        float(min(b[0], b[2])),
        float(min(b[1], b[3])),
        float(max(b[0], b[2])),
        float(max(b[1], b[3])),
    )
)
shares = st.integers(0, 100).map(lambda percent: percent / 100)
names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=NAME_LENGTH // 2)
descriptions = st.builds(
    Description,
    st.dictionaries(st.sampled_from(sorted(PALETTE)), shares, min_size=1, max_size=MAX_COLORS),
    st.fixed_dictionaries(dict.fromkeys(TONES, shares)),
    st.dictionaries(names, boxes, max_size=4),
)


@settings(max_examples=40)
@given(descriptions, st.sampled_from(sorted(TOKENIZERS)))
def test_every_answer_that_is_printed_is_accepted(description: Description, tokenizer: str) -> None:
    assert accepts(tokenizer, print_answer(description))


near = edges.flatmap(
    lambda edge: st.tuples(
        st.just(edge), edges | st.integers(max(0, edge - 9), min(99_999, edge + 9))
    )
)


@settings(max_examples=60)
@given(near, near)
def test_a_box_must_not_be_turned_around(first: tuple[int, int], second: tuple[int, int]) -> None:
    (x1, x2), (y1, y2) = first, second
    assert accepts("scratch", LOOK.replace("[5,20,30,400]", f"[{x1},{y1},{x2},{y2}]")) == (
        x1 <= x2 and y1 <= y2
    )


def test_edges_are_compared_across_all_lengths() -> None:
    values = (0, 1, 9, 10, 11, 90, 100, 109, 190, 1000, 9999, 10_000, 99_999)
    for x1, x2 in itertools.product(values, values):
        assert accepts("scratch", LOOK.replace("[5,20,30,400]", f"[{x1},{x2},{x2},{x1}]")) == (
            x1 == x2
        ), (x1, x2)
        assert accepts("scratch", LOOK.replace("[5,20,30,400]", f"[{x1},0,{x2},0]")) == (
            x1 <= x2
        ), (x1, x2)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("Off_White", "Red"),  # named already
        ("Off_White", "Offwhite"),
        ("0.60", "1.01"),
        ("0.60", "0.6"),
        ('"neutral":0.40,', ""),
        ("[5,", "[05,"),
        ("[5,", "[5.0,"),
        ("[5,", "[-5,"),
        ('"ball"', '""'),
        ('"ball"', '"' + "b" * (NAME_LENGTH + 1) + '"'),
        (',"objects"', ', "objects"'),
        ("}}", "}} "),
    ],
)
def test_what_is_no_answer_in_its_canonical_form_is_refused(old: str, new: str) -> None:
    assert accepts("scratch", LOOK)
    assert not accepts("scratch", LOOK.replace(old, new, 1))


@pytest.mark.parametrize("tokenizer", sorted(TOKENIZERS))
def test_random_tokens_under_the_mask_end_in_an_answer(tokenizer: str) -> None:
    rng = np.random.default_rng(0)
    tokens, mask = TOKENIZERS[tokenizer], CONSTRAINTS[tokenizer].begin(24)
    # Of random tokens a name would hardly ever end, so those with a quote are likelier.
    quotes_V = torch.tensor([4.0 if '"' in tokens.decode([i]) else 0.0 for i in range(len(tokens))])
    written: list[list[int]] = [[] for _ in range(24)]
    for _ in range(700):
        masked_NV = mask.apply(
            torch.from_numpy(rng.gumbel(size=(24, len(tokens)))).float() + quotes_V
        )
        drawn = masked_NV.argmax(dim=-1).tolist()
        mask.advance(drawn)
        for row, token in zip(written, drawn, strict=True):
            row.append(token)
    ended = [row[: row.index(tokens.eos_token_id)] for row in written if tokens.eos_token_id in row]
    assert len(ended) > 6
    answers = [parse_or_none(tokens.decode(row)) for row in ended]
    assert all(description is not None for description in answers)
    assert max(len(d.colors) for d in answers if d) <= MAX_COLORS
    assert max(len(d.objects) for d in answers if d) <= MAX_OBJECTS


def untrained(tokenizer: Any, vocabulary: int) -> Any:
    torch.manual_seed(0)
    sizes = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": 600,
    }
    ends = {
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
    }
    return LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary, **sizes, **ends)).eval()


@pytest.mark.parametrize("tokenizer", sorted(TOKENIZERS))
def test_an_untrained_model_writes_answers_or_runs_out_of_tokens(tokenizer: str) -> None:
    tokens, constraint = TOKENIZERS[tokenizer], CONSTRAINTS[tokenizer]
    model = untrained(tokens, len(tokens) + 37)  # embeddings are often padded
    greedy = generate_answers(model, tokens, PROMPTS, constraint=constraint, max_new_tokens=300)
    drawn = sample_answers(
        model, tokens, PROMPTS, samples=6, seed=0, constraint=constraint, max_new_tokens=400
    )
    texts = [*greedy, *(text for texts in drawn for text in texts)]
    ended = [text.endswith(("]}}", '"objects":{}}')) for text in texts]
    assert [parse_or_none(text) is not None for text in texts] == ended
    assert any(ended)
    assert all(text.strip().startswith('{"color and tones":{"colors":{"') for text in texts)
    assert all(
        parse_or_none(text) is None
        for text in generate_answers(model, tokens, PROMPTS, max_new_tokens=64)
    )


def test_constrained_answers_do_not_depend_on_the_batch() -> None:
    tokens, constraint = TOKENIZERS["scratch"], CONSTRAINTS["scratch"]
    model = untrained(tokens, len(tokens))
    limits: dict[str, Any] = {"constraint": constraint, "max_new_tokens": 40}
    together = sample_answers(model, tokens, PROMPTS, samples=3, seed=1, **limits)
    assert (
        sample_answers(model, tokens, PROMPTS[::-1], samples=3, seed=1, batch=2, **limits)[::-1]
        == together
    )
    assert generate_answers(model, tokens, PROMPTS, batch=2, **limits) == [
        generate_answers(model, tokens, [prompt], **limits)[0] for prompt in PROMPTS
    ]


def test_the_fixed_pieces_of_the_scratch_tokenizer_stay_whole() -> None:
    tokens, mask = TOKENIZERS["scratch"], CONSTRAINTS["scratch"].begin(1)
    ids = tokens(LOOK, add_special_tokens=False)["input_ids"]
    assert tokens.decode(ids[:1]) == '{"color and tones":{"colors":{"'
    for token in ids:
        assert not mask.apply(torch.zeros(1, len(tokens)))[0, token].isneginf(), tokens.decode(
            [token]
        )
        mask.advance([token])


def test_a_token_that_was_not_allowed_is_an_error() -> None:
    with pytest.raises(InputError, match="leaves the grammar"):
        CONSTRAINTS["scratch"].begin(1).advance([TOKENIZERS["scratch"].convert_tokens_to_ids("77")])


def test_a_tokenizer_that_cannot_spell_an_answer_is_one_clear_error() -> None:
    words = Tokenizer(
        models.WordLevel({"<unk>": 0, "</s>": 1, json.dumps("ball"): 2}, unk_token="<unk>")
    )
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    for tokenizer in (
        PreTrainedTokenizerFast(tokenizer_object=words, eos_token="</s>", unk_token="<unk>"),
        lambda *_, **__: {"input_ids": []},
    ):
        with pytest.raises(InputError, match=r"llm\.constrained: false"):
            AnswerConstraint(tokenizer)


def test_what_a_model_has_learnt_to_write_it_writes_under_the_mask_as_well() -> None:
    tokens = TOKENIZERS["scratch"]
    model = untrained(tokens, len(tokens)).train()
    answers = [LOOK, LOOK.replace("Red", "Olive"), LOOK.replace("ball", "moon")]
    rows = [
        [
            tokens.bos_token_id,
            *tokens(prompt + answer, add_special_tokens=False)["input_ids"],
            tokens.eos_token_id,
        ]
        for prompt, answer in zip(PROMPTS, answers, strict=True)
    ]
    ids_BT = torch.tensor(
        [row + [tokens.pad_token_id] * (max(map(len, rows)) - len(row)) for row in rows]
    )
    labels_BT = ids_BT.masked_fill(ids_BT == tokens.pad_token_id, -100)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-2)
    for _ in range(60):
        model(input_ids=ids_BT, labels=labels_BT).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    constraint = CONSTRAINTS["scratch"]
    assert generate_answers(model, tokens, PROMPTS, max_new_tokens=80) == answers
    assert (
        generate_answers(model, tokens, PROMPTS, constraint=constraint, max_new_tokens=80)
        == answers
    )
    drawn = sample_answers(
        model, tokens, PROMPTS, samples=4, seed=0, constraint=constraint, max_new_tokens=80
    )
    assert (
        sum(text == answer for texts, answer in zip(drawn, answers, strict=True) for text in texts)
        >= 10
    )
