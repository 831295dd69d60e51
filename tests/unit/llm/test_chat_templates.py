"""Chat templates of the shapes that bases have: each asks for the same tokens on any day, with the
answer outside of a thought, and the folder that is published asks as training did."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from datetime import datetime
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer
from transformers.utils import chat_template_utils

from boig_core.errors import InputError
from boig_core.llm.chat import chat_of
from boig_core.llm.tokens import (
    build_tokenizer,
    encode_examples,
    encode_prompts,
    end_of_turn,
    set_limits,
)

SPECIAL = ["<|end|>", "<|im_start|>", "<|im_end|>", "[INST]", "[/INST]", "<|channel|>", "<|say|>"]
TURNS = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
HEADER = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
ASKED = "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"
DAY = "<|im_start|>system\nToday: {}<|im_end|>\n"
EMPTY = "<think>\n\n</think>\n\n"
# An answer that was given stands behind its thought, if the template keeps that.
THOUGHTFUL = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' and loop.last %}<think>\n"
    "{{ m.reasoning_content | default('') }}\n</think>\n\n{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}"
)
FORGETFUL = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST]{{ m.content }}[/INST]"
    "{% else %}{{ m.content.split('</think>')[-1] + eos_token }}{% endif %}{% endfor %}"
)

# By name: template, the prompt that "hello" becomes, and the token that ends an answer.
DATED = {
    "a date in the turn of a system": (
        DAY.format("{{ strftime_now('%d %B %Y') }}") + TURNS + HEADER,
        DAY.format("26 July 2024") + ASKED,
        "<|im_end|>",
    ),
    "a date in a variable, used in a loop": (
        "{%- set day = strftime_now('%Y-%m-%d') %}{% for m in messages %}{{ day + '>' + m.content }}{{ eos_token }}{% endfor %}",
        "2024-07-26>hello</s>2024-07-26>",
        "</s>",
    ),
    "a date that may be given": (
        "{%- if date_string is not defined %}{%- if strftime_now is defined %}{%- set date_string = strftime_now('%d %b %Y') %}"
        "{%- else %}{%- set date_string = 'none' %}{%- endif %}{%- endif %}\n{{- date_string + '\n' }}"
        + TURNS
        + HEADER,
        "26 Jul 2024\n" + ASKED,
        "<|im_end|>",
    ),
    "a date in a macro, with arithmetic": (
        "{%- macro age(since) %}{{ strftime_now('%Y') | int - since }}{% endmacro %}{{ age(2020) }} years\n"
        + TURNS
        + HEADER,
        "4 years\n" + ASKED,
        "<|im_end|>",
    ),
    "a date beside tags and loops of extensions": (
        "{% for m in messages %}{% if loop.first %}{{ strftime_now('%Y') }}>{% endif %}{{ m.role }}:"
        "{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}{% break %}{% endif %}"
        "{{ m.content }}{{ eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}{% set now = strftime_now %}{{ now('%B') }}{% endif %}",
        "2024>user:hello</s>July",
        "</s>",
    ),
    "a format that is put together": (
        "{%- set parts = ['%H:%M', ' on %-d.%-m.', '%y'] %}{{ strftime_now(parts | join) }}\n"
        + TURNS
        + HEADER,
        "00:00 on 26.7.24\n" + ASKED,
        "<|im_end|>",
    ),
}
THINKING = {
    "thinking that can be switched off": (
        TURNS
        + HEADER
        + "{% if add_generation_prompt and enable_thinking is defined and enable_thinking is false %}"
        "{{ '<think>\n\n</think>\n\n' }}{% endif %}",
        ASKED + EMPTY,
        "<|im_end|>",
    ),
    "thinking that is on unless it is off": (
        "{%- if enable_thinking is not defined %}{%- set enable_thinking = true %}{%- endif %}"
        "{%- if enable_thinking %}{{- 'Think!\n' }}{%- endif %}" + TURNS + HEADER,
        ASKED,
        "<|im_end|>",
    ),
    "thinking under another name": (
        TURNS
        + HEADER
        + "{% if add_generation_prompt %}{{ '<think>' if thinking | default(true) else '</think>' }}{% endif %}",
        ASKED + "</think>",
        "<|im_end|>",
    ),
    "a thought that is always opened, and closed in a given answer": (
        THOUGHTFUL
        + "{% if add_generation_prompt %}<|im_start|>assistant\n{{ '<think>\n' }}{% endif %}",
        ASKED + EMPTY,
        "<|im_end|>",
    ),
    "a thought that a given answer alone has": (THOUGHTFUL + HEADER, ASKED + EMPTY, "<|im_end|>"),
    "a thought that is opened, and dropped from history": (
        FORGETFUL + "{% if add_generation_prompt %}{{ '<think>\n' }}{% endif %}",
        "<s>[INST]hello[/INST]" + EMPTY,
        "</s>",
    ),
    "a thought between brackets on one line": (
        FORGETFUL + "{% if add_generation_prompt %}[THINK]{% endif %}",
        "<s>[INST]hello[/INST][THINK][/THINK]",
        "</s>",
    ),
    "thoughts that are spoken of, not opened": (
        "Put your thoughts between <think> and its end.\n" + TURNS + HEADER,
        "Put your thoughts between <think> and its end.\n" + ASKED,
        "<|im_end|>",
    ),
    "channels, of which the answer has one": (
        "{% for m in messages %}<|im_start|>{{ m.role }}{% if m.role == 'assistant' %}<|channel|>final{% endif %}"
        "<|say|>{{ m.content }}<|end|>{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant{% endif %}",
        "<|im_start|>user<|say|>hello<|end|><|im_start|>assistant<|channel|>final<|say|>",
        "<|end|>",
    ),
}
STRICT = {
    "no turn of a system, and turns that alternate": (
        "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('alternate') }}{% endif %}"
        "<|im_start|>{{ m.role }}\n{{ m.content | trim }}<|im_end|>\n{% endfor %}" + HEADER,
        "<s>" + ASKED,
        "<|im_end|>",
    ),
    "no turn of an assistant": (
        "{% for m in messages %}{% if m.role != 'user' %}{{ raise_exception('users') }}{% endif %}[INST]{{ m.content }}[/INST]{% endfor %}",
        "[INST]hello[/INST]",
        "</s>",
    ),
    "no generation prompt": (TURNS, ASKED, "<|im_end|>"),
    "no generation prompt, and a space before an answer": (
        "{% for m in messages %}{{ 'USER: ' + m.content if m.role == 'user' else ' BOT: ' + m.content + eos_token }}{% endfor %}",
        "USER: hello BOT: ",
        "</s>",
    ),
    "a space at the end": (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}",
        "user: hello\nassistant: ",
        "</s>",
    ),
    "a space before an answer, none in the prompt": (
        "{% for m in messages %}{{ '[INST] ' + m.content + ' [/INST]' if m.role == 'user' else ' ' + m.content + eos_token }}{% endfor %}",
        "[INST] hello [/INST]",
        "</s>",
    ),
    "spaces and a line break that end the template": (
        TURNS + "assistant  \n",
        "<|im_start|>user\nhello<|im_end|>\nassistant  ",
        "<|im_end|>",
    ),
    "an EOS that is not the end of a turn": (
        "{% for m in messages %}{{ m.content }}<|end|>{{ eos_token }}{% endfor %}",
        "hello<|end|></s>",
        "<|end|>",
    ),
}
ALL = {**DATED, **THINKING, **STRICT}
BROKEN = {
    "{% for m in messages %}{{ m.content }}": "cannot be rendered",
    "{{ messages[0].content.nothing.more }}": "cannot be rendered",
    "{{ raise_exception('I take no users') }}": r"cannot be rendered \(I take no users\)",
    "{{ messages[0].content + 1 }}": "cannot be rendered",
    "{{ messages | unknown }}": "cannot be rendered",
    "{% include 'file' %}": "cannot be rendered",
    "{{ 'x' * 3 // 0 }}": "cannot be rendered",
    "{{ [].__class__.__mro__ }}": "cannot be rendered",
    "{{ bos_token }}<|im_start|>assistant\n": "leaves out what a user says",
    "{% for m in messages[1:] %}{{ m.content }}{% endfor %}": "leaves out what a user says",
    "{% for part in messages[0].content %}{% if part.type == 'text' %}{{ part.text }}{% endif %}{% endfor %}": "leaves out",
}


@cache
def without_template() -> Any:
    tokenizer = build_tokenizer(["hello assistant user thoughts"], 500)
    tokenizer.add_special_tokens({"additional_special_tokens": SPECIAL})
    return tokenizer


def make_tokenizer(template: Any) -> Any:
    tokenizer = deepcopy(without_template())
    tokenizer.chat_template = template
    return tokenizer


@contextmanager
def on_day(day: datetime) -> Iterator[None]:
    """What transformers takes for now."""
    real, clock = chat_template_utils.datetime, SimpleNamespace(now=lambda: day)  # type: ignore[attr-defined]
    chat_template_utils.datetime = clock  # type: ignore[attr-defined]
    try:
        yield
    finally:
        chat_template_utils.datetime = real  # type: ignore[attr-defined]


def asked_of(tokenizer: Any, text: str = "hello") -> list[int]:
    (ids_T,) = encode_prompts(tokenizer, [text], 300)
    return [int(i) for i in ids_T]


@pytest.mark.parametrize("shape", ALL)
def test_the_prompt_and_the_end_of_an_answer(shape: str) -> None:
    template, prompt, end = ALL[shape]
    tokenizer = make_tokenizer(template)
    assert tokenizer.decode(asked_of(tokenizer)) == prompt
    assert tokenizer.convert_ids_to_tokens(end_of_turn(tokenizer)) == end


@pytest.mark.parametrize("shape", ALL)
def test_training_scoring_and_transformers_see_one_prompt_on_any_day(
    shape: str, tmp_path: Path
) -> None:
    tokenizer = make_tokenizer(ALL[shape][0])
    with on_day(datetime(2026, 1, 5, 9, 30)):
        before = asked_of(tokenizer)
        set_limits(SimpleNamespace(), tokenizer, 300, 64)
        (example,) = encode_examples(tokenizer, ["hello"], ['{"a":1}'], 300, 64)
    tokenizer.save_pretrained(tmp_path)
    with on_day(datetime(2027, 11, 23, 23, 59)):
        published = AutoTokenizer.from_pretrained(tmp_path)
        turn = [{"role": "user", "content": "hello"}]
        plain = published.apply_chat_template(turn, add_generation_prompt=True)["input_ids"]
        later = asked_of(published)
        end = end_of_turn(published)
    assert before == example.prompt_T.tolist() == later == plain
    assert example.answer_T[-1] == end == published.eos_token_id


@pytest.mark.parametrize(
    "shape",
    [
        "thoughts that are spoken of, not opened",
        "no turn of a system, and turns that alternate",
        "no turn of an assistant",
        "a space at the end",
        "a space before an answer, none in the prompt",
        "spaces and a line break that end the template",
    ],
)
def test_what_needs_no_pin_is_left_as_it_is(shape: str) -> None:
    chat = chat_of(make_tokenizer(ALL[shape][0]))
    assert chat is not None
    assert chat.template == ALL[shape][0]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            [
                "%a",
                "%A",
                "%b",
                "%B",
                "%d",
                "%-d",
                "%m",
                "%Y",
                "%y",
                "%j",
                "%H",
                "%I",
                "%p",
                "%%",
                ", ",
                " d",
                "Y",
                "%%Y",
            ]
        ),
        max_size=6,
    )
)
def test_any_format_of_a_date_is_that_of_the_pinned_day(parts: list[str]) -> None:
    form = "".join(parts)
    tokenizer = make_tokenizer(f"{{{{ strftime_now('{form}') }}}}|{{{{ messages[0].content }}}}")
    expected = datetime(2024, 7, 26).strftime(form)
    assert tokenizer.decode(asked_of(tokenizer)) == f"{expected}|hello"


@pytest.mark.parametrize("template", BROKEN)
def test_a_template_that_cannot_be_used_is_one_user_error(template: str) -> None:
    for use in (
        asked_of,
        end_of_turn,
        lambda tokenizer: set_limits(SimpleNamespace(), tokenizer, 300, 64),
    ):
        tokenizer = make_tokenizer(template)
        tokenizer.name_or_path = "acme/base"
        with pytest.raises(
            InputError, match=f"chat template of acme/base: {BROKEN[template]}"
        ) as caught:
            use(tokenizer)
        assert "\n" not in str(caught.value)


def test_of_named_templates_the_default_is_used_and_published(tmp_path: Path) -> None:
    named = {"tool_use": "tools: {{ messages[0].content }}", "default": TURNS + HEADER}
    for template in (named, [{"name": k, "template": v} for k, v in named.items()]):
        tokenizer = make_tokenizer(None)
        # As the folder of a base gives them.
        tokenizer = type(tokenizer)(
            tokenizer_object=tokenizer.backend_tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>",
            additional_special_tokens=SPECIAL, chat_template=template,
        )  # fmt: skip
        assert tokenizer.decode(asked_of(tokenizer)) == ASKED
        set_limits(SimpleNamespace(), tokenizer, 300, 64)
        tokenizer.save_pretrained(tmp_path)
        assert asked_of(AutoTokenizer.from_pretrained(tmp_path)) == asked_of(tokenizer)
    alone = make_tokenizer({"chat": TURNS + HEADER})
    assert alone.decode(asked_of(alone)) == ASKED
    with pytest.raises(
        InputError, match=r"chat templates rag, tool_use .* which one is the default"
    ):
        asked_of(make_tokenizer({"rag": TURNS, "tool_use": TURNS}))


@pytest.mark.parametrize("template", [None, "", " \n", {}])
def test_an_empty_template_is_none(template: Any) -> None:
    tokenizer = make_tokenizer(template)
    assert chat_of(tokenizer) is None
    assert tokenizer.decode(asked_of(tokenizer)) == "<s>hello"
    assert end_of_turn(tokenizer) == tokenizer.eos_token_id


def test_without_any_end_of_an_answer_there_is_one_user_error() -> None:
    tokenizer = make_tokenizer("{{ messages[0].content }}")
    tokenizer.eos_token = None
    with pytest.raises(InputError, match="names no token that ends an answer; set its eos_token"):
        set_limits(SimpleNamespace(), tokenizer, 300, 64)


Adds = Callable[[Any], None]


def adds_both(tokenizer: Any) -> None:
    from tokenizers.processors import TemplateProcessing

    marks = [(name, tokenizer.convert_tokens_to_ids(name)) for name in ("<s>", "</s>")]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A </s>", special_tokens=marks
    )


def cuts_and_fills(tokenizer: Any) -> None:
    tokenizer.backend_tokenizer.enable_truncation(4)
    tokenizer.backend_tokenizer.enable_padding(length=32)


def pads_left(tokenizer: Any) -> None:
    tokenizer.padding_side = tokenizer.truncation_side = "left"


def pads_right(tokenizer: Any) -> None:
    tokenizer.padding_side = tokenizer.truncation_side = "right"


@pytest.mark.parametrize("habit", [adds_both, cuts_and_fills, pads_left, pads_right])
@pytest.mark.parametrize("template", [None, "{{ bos_token }}" + TURNS + HEADER])
def test_what_a_tokenizer_does_by_itself_changes_nothing(habit: Adds, template: str | None) -> None:
    prompts, answers = ["hello", "hello assistant of all users"], ['{"a":1}', '{"abc":[1,2,3]}']
    expected = encode_examples(make_tokenizer(template), prompts, answers, 300, 64)
    tokenizer = make_tokenizer(template)
    habit(tokenizer)
    examples = encode_examples(tokenizer, prompts, answers, 300, 64)
    for example, other in zip(examples, expected, strict=True):
        assert example.prompt_T.tolist() == other.prompt_T.tolist()
        assert example.answer_T.tolist() == other.answer_T.tolist()
        assert (example.prompt_T == tokenizer.bos_token_id).sum() == 1
        assert example.answer_T.tolist().count(end_of_turn(tokenizer)) == 1
