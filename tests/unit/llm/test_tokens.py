from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from boig_core.errors import InputError
from boig_core.llm.tokens import build_tokenizer, encode_examples, encode_prompts
from boig_core.verbalization.answer import print_answer
from boig_core.verbalization.templates import build_prompt, condition_of
from boig_core.vocabulary import PALETTE, Description, Sample

MakeSamples = Callable[[int], list[Sample]]


def prompts_of(samples: list[Sample]) -> list[str]:
    return [build_prompt(s, condition_of(s)) for s in samples]


def test_any_text_survives_and_the_tokenizer_does_not_depend_on_the_order(make_samples: MakeSamples, tmp_path: Path) -> None:
    prompts = prompts_of(make_samples(60))
    tokenizer = build_tokenizer(prompts, 800)
    assert build_tokenizer(reversed(prompts), 800).backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()
    assert len(tokenizer) <= 800
    tokenizer.save_pretrained(tmp_path)
    reopened = AutoTokenizer.from_pretrained(tmp_path)
    for text in (prompts[0], 'h\u00e9llo \u2713 \u65e5\u672c {"a":[1.5]}  two\n\ttabs 123 1234 Reduced Dark_Red_', "</s> 00"):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(ids) == text
        assert reopened(text, add_special_tokens=False)["input_ids"] == ids


def test_an_answer_is_short(make_samples: MakeSamples) -> None:
    tokenizer = build_tokenizer(prompts_of(make_samples(60)), 800)
    whole = [*PALETTE, *(f"{n:02d}" for n in range(100))]
    assert [name for name in whole if len(tokenizer(name, add_special_tokens=False)["input_ids"]) != 1] == []
    answer = print_answer(
        Description(
            dict.fromkeys(["Red", "Dark_Blue", "White", "Off_White"], 0.25),
            {"warm": 0.25, "neutral": 0.5, "cool": 0.25},
            {"ball": (8.0, 8.0, 40.0, 40.0), "ring": (8.0, 100.0, 40.0, 128.0)},
        )
    )
    assert len(tokenizer(answer, add_special_tokens=False)["input_ids"]) <= 50
    assert tokenizer.decode(tokenizer(answer, add_special_tokens=False)["input_ids"]) == answer


def test_a_long_prompt_loses_its_beginning_and_keeps_the_kpi(make_samples: MakeSamples) -> None:
    prompts = prompts_of(make_samples(60))
    tokenizer = build_tokenizer(prompts, 800)
    (whole,) = encode_prompts(tokenizer, prompts[:1], 500)
    (cut,) = encode_prompts(tokenizer, prompts[:1], 20)
    assert len(cut) == 20
    assert cut[0] == tokenizer.bos_token_id
    assert cut[1:].tolist() == whole[-19:].tolist()
    assert "kpi:" in tokenizer.decode(cut)


def test_an_answer_that_leaves_no_room_is_refused(make_samples: MakeSamples) -> None:
    sample = make_samples(3)[0]
    assert sample.description is not None
    prompt, answer = build_prompt(sample, None), print_answer(sample.description)
    tokenizer = build_tokenizer([prompt], 800)
    assert encode_examples(tokenizer, [prompt], [answer], 64)[0].length <= 64
    with pytest.raises(InputError, match=r"llm\.context"):
        encode_examples(tokenizer, [prompt], [answer], 32)
