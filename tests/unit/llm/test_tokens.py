from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from boig_core.config import parse_recipe
from boig_core.errors import InputError, RecipeError
from boig_core.llm.examples import make_examples
from boig_core.llm.predictor import Rating
from boig_core.llm.tokens import (
    build_tokenizer,
    check_answers,
    encode_examples,
    encode_prompts,
    prompt_room,
)
from boig_core.verbalization.answer import print_answer
from boig_core.verbalization.templates import (
    COMPACT,
    KpiCondition,
    Prompt,
    Wording,
    build_answer,
    build_prompt,
    condition_of,
)
from boig_core.vocabulary import PALETTE, Description, Sample

MakeSamples = Callable[[int], list[Sample]]


def prompts_of(samples: list[Sample]) -> list[str]:
    return [build_prompt(s, condition_of(s)) for s in samples]


def test_any_text_survives_and_the_tokenizer_does_not_depend_on_the_order(
    make_samples: MakeSamples, tmp_path: Path
) -> None:
    prompts = prompts_of(make_samples(60))
    tokenizer = build_tokenizer(prompts, 800)
    assert (
        build_tokenizer(reversed(prompts), 800).backend_tokenizer.to_str()
        == tokenizer.backend_tokenizer.to_str()
    )
    assert len(tokenizer) <= 800
    tokenizer.save_pretrained(tmp_path)
    reopened = AutoTokenizer.from_pretrained(tmp_path)
    for text in (
        prompts[0],
        'h\u00e9llo \u2713 \u65e5\u672c {"a":[1.5]}  two\n\ttabs 123 1234 Reduced Dark_Red_',
        "</s> 00",
    ):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(ids) == text
        assert reopened(text, add_special_tokens=False)["input_ids"] == ids


def test_an_answer_is_short(make_samples: MakeSamples) -> None:
    tokenizer = build_tokenizer(prompts_of(make_samples(60)), 800)
    whole = [*PALETTE, *(f"{n:02d}" for n in range(100))]
    assert [
        name for name in whole if len(tokenizer(name, add_special_tokens=False)["input_ids"]) != 1
    ] == []
    answer = print_answer(
        Description(
            dict.fromkeys(["Red", "Dark_Blue", "White", "Off_White"], 0.25),
            {"warm": 0.25, "neutral": 0.5, "cool": 0.25},
            {"ball": (8.0, 8.0, 40.0, 40.0), "ring": (8.0, 100.0, 40.0, 128.0)},
        )
    )
    assert len(tokenizer(answer, add_special_tokens=False)["input_ids"]) <= 50
    assert tokenizer.decode(tokenizer(answer, add_special_tokens=False)["input_ids"]) == answer


def long_samples(make_samples: MakeSamples) -> list[Sample]:
    """Posts of all lengths, some far too long."""
    samples = make_samples(40)
    return [
        replace(
            s,
            text=" ".join([s.text] * (1 + i % 7)),
            keywords=tuple(f"word{n} of {i}" for n in range(i % 13)),
        )
        for i, s in enumerate(samples)
    ]


def kept(whole: Prompt, tokenizer: Any, ids_T: Any) -> Prompt:
    """The shortened prompt that token ids encode."""
    text = tokenizer.decode(ids_T, skip_special_tokens=True)
    result = [short for cuts in range(whole.cuts + 1) if (short := whole.shortened(cuts)) == text]
    assert result, text
    return result[0]


@pytest.mark.parametrize("room", [44, 60, 90])
@pytest.mark.parametrize("wording", [COMPACT, Wording("full", "stock", "forwards")])
def test_a_long_prompt_loses_keywords_then_text_and_never_its_kpi(
    make_samples: MakeSamples, room: int, wording: Wording
) -> None:
    samples = long_samples(make_samples)
    tokenizer = build_tokenizer(prompts_of(samples), 800)
    fixed = (
        len(
            tokenizer(build_prompt(replace(samples[0], text="", keywords=()), None, wording))[
                "input_ids"
            ]
        )
        if wording != COMPACT
        else 0
    )
    room += fixed
    messages = [build_prompt(s, condition_of(s), wording) for s in samples]
    variants = [
        messages,
        *(
            [build_prompt(s, kpi, wording) for s in samples]
            for kpi in (KpiCondition(7, "low"), None)
        ),
    ]
    encoded = [encode_prompts(tokenizer, prompts, room) for prompts in variants]
    cut = 0
    for rows, ids in zip(zip(*variants, strict=True), zip(*encoded, strict=True), strict=True):
        assert all(len(ids_T) <= room and ids_T[0] == tokenizer.bos_token_id for ids_T in ids)
        shorts = [kept(prompt, tokenizer, ids_T) for prompt, ids_T in zip(rows, ids, strict=True)]
        # Whatever the KPI, and without it.
        assert len({(short.text, short.keywords) for short in shorts}) == 1
        whole, short = rows[0], shorts[0]
        assert short.split("\n")[-2:] == whole.split("\n")[-2:]
        if short != whole:
            cut += 1
            assert not short.keywords or short.text == whole.text
            assert len(tokenizer(short.widest, add_special_tokens=False)["input_ids"]) + 1 <= room
            assert len(tokenizer(whole.widest, add_special_tokens=False)["input_ids"]) + 1 > room
    assert cut > 5


def test_what_does_not_need_to_be_cut_is_not(make_samples: MakeSamples) -> None:
    prompts = prompts_of(long_samples(make_samples))
    tokenizer = build_tokenizer(prompts, 800)
    plain = tokenizer(prompts, add_special_tokens=False)["input_ids"]
    assert [ids_T.tolist() for ids_T in encode_prompts(tokenizer, prompts, 2000)] == [
        [tokenizer.bos_token_id, *ids] for ids in plain
    ]
    assert encode_prompts(tokenizer, [], 100) == []


def test_a_prompt_that_cannot_be_cut_enough_is_refused(make_samples: MakeSamples) -> None:
    prompts = prompts_of(make_samples(60))
    tokenizer = build_tokenizer(prompts, 800)
    with pytest.raises(
        InputError, match=r"must fit into 12, and holds no more that can be cut; raise llm\.context"
    ):
        encode_prompts(tokenizer, prompts[:1], 12)
    with pytest.raises(InputError, match="must fit into 12"):
        encode_prompts(tokenizer, ["a plain text that is no Prompt " * 5], 12)


def test_examples_count_what_they_lost_and_keep_their_answers(make_samples: MakeSamples) -> None:
    samples = long_samples(make_samples)
    prompts, answers = (
        [build_prompt(s, condition_of(s)) for s in samples],
        [build_answer(s) for s in samples],
    )
    tokenizer = build_tokenizer(prompts, 800)
    examples = encode_examples(tokenizer, prompts, answers, 128, 60)
    alone = [
        encode_examples(tokenizer, [prompt], [answer], 128, 60)[0]
        for prompt, answer in zip(prompts, answers, strict=True)
    ]
    scored = encode_prompts(tokenizer, prompts, prompt_room(128, 60))
    for sample, whole, answer, example, item, ids_T in zip(
        samples, prompts, answers, examples, alone, scored, strict=True
    ):
        short = kept(whole, tokenizer, example.prompt_T)
        assert example.cut_keywords == len(sample.keywords) - len(short.keywords)
        assert example.cut_text == len(whole.text) - len(short.text)
        assert tokenizer.decode(example.answer_T[:-1]) == answer
        assert example.answer_T[-1] == tokenizer.eos_token_id
        # Whatever stands beside it.
        assert example.prompt_T.tolist() == item.prompt_T.tolist() == ids_T.tolist()
        assert example.length <= 128
    assert any(e.cut_text for e in examples)
    assert any(e.cut_keywords and not e.cut_text for e in examples)
    assert any(not e.cut_keywords and not e.cut_text for e in examples)


def test_an_answer_that_leaves_no_room_is_refused(make_samples: MakeSamples) -> None:
    sample = make_samples(3)[0]
    assert sample.description is not None
    prompt, answer = build_prompt(sample, None), print_answer(sample.description)
    tokenizer = build_tokenizer([prompt], 800)
    assert encode_examples(tokenizer, [prompt], [answer], 80)[0].length <= 80
    with pytest.raises(InputError, match=r"llm\.context"):
        encode_examples(tokenizer, [prompt], [answer], 32)


def test_a_special_tokens_name_in_a_post_is_text(make_samples: MakeSamples) -> None:
    sample = replace(make_samples(1)[0], text="buy </s> now <s> or <pad>")
    tokenizer = build_tokenizer(prompts_of([sample]), 500)
    (ids_T,) = encode_prompts(tokenizer, prompts_of([sample]), 200)
    assert [i for i in ids_T if i in tokenizer.all_special_ids] == [tokenizer.bos_token_id]
    assert tokenizer.decode(ids_T, skip_special_tokens=True) == prompts_of([sample])[0]


def spelling(normalizer: Any, decoder: Any = None) -> Any:
    """A tokenizer of bytes that changes text before it reads it, or when it writes."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {text: place for place, text in enumerate(["<s>", "</s>", *alphabet])}
    backend = Tokenizer(models.BPE(vocabulary, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel() if decoder is None else decoder
    if normalizer is not None:
        backend.normalizer = normalizer
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )


CHANGES = {
    "lower case": (normalizers.Lowercase(), None),
    "spaces stripped": (normalizers.Replace(" ", ""), None),
    "double spaces joined": (normalizers.Replace(Regex(" {2,}"), " "), None),
    "digits of one kind": (normalizers.Replace(Regex("[0-9]"), "0"), None),
    "quotes curled": (normalizers.Replace('"', "\u201d"), None),
    "words apart": (None, decoders.WordPiece(cleanup=False)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_base_whose_tokenizer_changes_answers_is_refused_before_it_is_trained(
    make_samples: MakeSamples, change: str
) -> None:
    tokenizer = spelling(*CHANGES[change])
    named = Description({"Red": 1.0}, {"warm": 1.0}, {"a  Big ball": (1.0, 2.0, 3.0, 4.0)})
    samples = [replace(s, description=named) for s in make_samples(3)]
    recipe = parse_recipe({"llm": {"base": "acme/base", "context": 2048}})
    with pytest.raises(
        RecipeError,
        match=r"llm\.base = 'acme/base': its tokenizer changes answers: .* comes back as",
    ):
        make_examples(tokenizer, samples, recipe, with_kpi=True)
    # A number with the name of its KPI.
    if change in ("lower case", "digits of one kind", "quotes curled", "words apart"):
        samples = [replace(s, kpi_normalized=73.0) for s in samples]
        recipe = parse_recipe(
            {"llm": {"base": "acme/base", "context": 2048}, "data": {"kpi": "Likes"}}
        )
        with pytest.raises(RecipeError, match="its tokenizer changes answers"):
            Rating(recipe).examples(tokenizer, samples)


def test_the_message_shows_where_an_answer_changes() -> None:
    tokenizer = spelling(normalizers.Lowercase())
    with pytest.raises(RecipeError, match="""'Red"}' comes back as 'red"}'"""):
        check_answers(tokenizer, ['{"a":"b"}', '{"color":"Red"}'], "base")


def test_a_space_before_an_answer_is_let_pass_and_so_is_what_a_post_spells() -> None:
    tokenizer = spelling(normalizers.Prepend(" "))
    answer = print_answer(Description({"Red": 1.0}, {"warm": 1.0}, {"</s> <pad>": (1, 2, 3, 4)}))
    assert tokenizer.decode(tokenizer(answer, add_special_tokens=False)["input_ids"])[0] == " "
    check_answers(tokenizer, [answer], "base")
    # Nobody tidies up what was written, as a tokenizer may be told to.
    tokenizer.clean_up_tokenization_spaces = True
    tokenizer.clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output = True
    check_answers(tokenizer, ['{"a , b . c":1}'], "base")
