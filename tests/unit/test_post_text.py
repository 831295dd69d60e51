"""Text of a post becomes no token that steers a model, whichever tokenizer reads it, and ordinary
text has the ids that it always had."""

from __future__ import annotations

import ast
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boig_core.diffusion.pipeline import _embed
from boig_core.llm.control_tokens import as_text, as_text_anywhere
from boig_core.llm.tokens import build_tokenizer, encode_answers, encode_prompts
from boig_core.models import MODELS_FOLDER

ROOT = Path(__file__).parents[2]
ORDINARY = [
    "Our new summer ball, 50 % off until 26.07.2024!",
    "日本語 ✓ — مرحبا 👩‍👩‍👧 #red @acme <3 [sic] {a: 1} a|b 1 < 2 > 0 </3",
    "  two\n\ttabs  ",
    "",
]
FRAMES = ["", "a", " ", "buy ", "\n", "é", "<", "|>", "x</"]


@cache
def scratch() -> Any:
    return build_tokenizer(ORDINARY, 500)


@cache
def chatting() -> Any:
    """With turns of a chat, and a call of a tool that is no special token."""
    from tokenizers import AddedToken

    tokenizer = build_tokenizer(ORDINARY, 500)
    tokenizer.add_special_tokens(
        {"additional_special_tokens": ["<|im_start|>", "<|im_end|>", "<|endoftext|>", "[INST]"]}
    )
    tokenizer.add_tokens([AddedToken("<tool_call>"), AddedToken("<|fim_prefix|>")])
    tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    )
    return tokenizer


@cache
def completing() -> Any:
    """The same without a template."""
    tokenizer = build_tokenizer(ORDINARY, 500)
    from tokenizers import AddedToken

    tokenizer.add_tokens([AddedToken("<tool_call>"), AddedToken("<|fim_prefix|>")])
    return tokenizer


@cache
def unigram() -> Any:
    """A unigram model, whose vocabulary holds its special tokens as pieces."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    pieces += [
        (sign, -5.0) for sign in sorted({*"".join(ORDINARY), *map(chr, range(33, 127)), "▁"})
    ]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=2, byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )


@cache
def slow() -> Any:
    """Written in Python, without the tokenizers library."""
    from transformers import ByT5Tokenizer

    return ByT5Tokenizer()


LLMS = {each.__name__: each for each in (scratch, chatting, completing, unigram, slow)}
EXACT = {"scratch", "completing", "slow"}


@cache
def steering(make: Callable[[], Any]) -> dict[str, int]:
    """Id of each token that steers, by its name."""
    tokenizer = make()
    names = set(tokenizer.all_special_tokens) | {
        token.content
        for token in tokenizer.added_tokens_decoder.values()
        if token.special or token.content in ("<tool_call>", "<|fim_prefix|>")
    }
    ids: dict[str, int] = {name: tokenizer.convert_tokens_to_ids(name) for name in sorted(names)}
    return ids


def told(make: Callable[[], Any], text: str) -> list[int]:
    """Ids of a post's text within its prompt: what the prompt of an empty text holds is cut off."""
    tokenizer = make()
    (ids_T,) = encode_prompts(tokenizer, [text], 10**6)
    if tokenizer.chat_template is None:
        first = 0 if tokenizer.bos_token_id is None else 1
        return [int(i) for i in ids_T[first:]]
    (empty_T,) = encode_prompts(tokenizer, ["?"], 10**6)
    # Two marks of the turn stand in any prompt.
    marks = [int(i) for i in empty_T if int(i) in steering(make).values()]
    rest = [int(i) for i in ids_T]
    for mark in marks:
        rest.remove(mark)
    return rest


@pytest.mark.parametrize("name", LLMS)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_no_text_of_a_post_steers_the_language_model(name: str, data: st.DataObject) -> None:
    make = LLMS[name]
    tokens = steering(make)
    parts = st.one_of(
        st.sampled_from([*tokens, "<|im_start|>", "</s>", "[INST]", "<|endoftext|>", *FRAMES]),
        st.text(st.characters(exclude_categories=["Cs", "Co"]), max_size=6),
    )
    text = "".join(data.draw(st.lists(parts, min_size=1, max_size=6)))
    tokenizer = make()
    unknown = tokenizer.unk_token_id if name == "unigram" else None
    allowed = set() if unknown is None else {unknown}
    ids = told(make, text)
    assert not set(ids) & (set(tokens.values()) - allowed)
    (answer_T,) = encode_answers(tokenizer, [text])
    assert not set(map(int, answer_T[:-1])) & (set(tokens.values()) - allowed)
    if name in EXACT:
        # What the tokenizer would still read as a token is parted, and nothing else changes.
        expected = as_text(tokenizer, [text])[0]
        assert tokenizer.decode(ids, skip_special_tokens=False) == expected
        assert name == "completing" or expected == text


@pytest.mark.parametrize("name", LLMS)
def test_each_name_of_a_token_is_text(name: str) -> None:
    make = LLMS[name]
    for token, own in steering(make).items():
        for frame in FRAMES:
            assert own not in told(make, f"{frame}{token}{frame}") or token == "<unk>"


@pytest.mark.parametrize("name", LLMS)
def test_ordinary_text_keeps_its_ids(name: str) -> None:
    tokenizer = LLMS[name]()
    assert as_text(tokenizer, ORDINARY) == ORDINARY
    for text in ORDINARY:
        plain = tokenizer(text, add_special_tokens=False)["input_ids"]
        (answer_T,) = encode_answers(tokenizer, [text])
        assert [int(i) for i in answer_T[:-1]] == plain


def test_what_is_added_later_is_seen() -> None:
    tokenizer = build_tokenizer(ORDINARY, 500)
    assert as_text(tokenizer, ["<think>"]) == ["<think>"]
    tokenizer.add_tokens(["<think>"])
    assert as_text(tokenizer, ["<think>"]) == ["< think>"]


@pytest.mark.parametrize(
    "mark",
    [
        *("<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|start_header_id|>"),
        *("</s>", "<s>", "[INST]", "[/INST]", "<<SYS>>", "<start_of_turn>", "<bos>"),
        "<｜end▁of▁sentence｜>",
    ],
)
def test_an_endpoint_is_sent_no_mark_of_a_template(mark: str) -> None:
    for frame in FRAMES:
        sent = as_text_anywhere(f"{frame}{mark}{frame}")
        assert mark not in sent
        assert sent.replace(" ", "") == f"{frame}{mark}{frame}".replace(" ", "")
    assert [as_text_anywhere(text) for text in ORDINARY] == ORDINARY


def clip_tokenizers() -> list[Any]:
    from transformers import CLIPTokenizer, CLIPTokenizerFast

    return [
        CLIPTokenizer.from_pretrained(MODELS_FOLDER / "tiny-sd" / "tokenizer"),
        CLIPTokenizerFast.from_pretrained(MODELS_FOLDER / "clip"),
    ]


@pytest.mark.parametrize("mark", ["<|endoftext|>", "<|startoftext|>"])
def test_a_prompt_of_a_clip_does_not_end_early(mark: str) -> None:
    for tokenizer in clip_tokenizers():
        seen: list[list[int]] = []

        class Encoder:
            device = "cpu"

            def __call__(self, ids: Any, **_: Any) -> None:
                seen.extend(ids.tolist())  # noqa: B023

        _embed(tokenizer, Encoder(), [f"a ball {mark} a moon", "a ball a moon"])
        hostile, plain = seen
        begin, end = tokenizer.bos_token_id, tokenizer.eos_token_id
        assert hostile.count(begin) == plain.count(begin) == 1
        text = hostile[1 : hostile.index(end)]
        assert set(hostile[hostile.index(end) :]) <= {end, tokenizer.pad_token_id}
        assert len(text) > len(plain[1 : plain.index(end)])
        usual = tokenizer("a ball a moon", padding="max_length", truncation=True)["input_ids"]
        assert plain == usual, "ordinary text keeps its ids"


def test_a_berts_names_are_text() -> None:
    from transformers import BertTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[", "]", "sep", "cls", "mask", "pad"]
    tokenizer = BertTokenizerFast(vocab={word: i for i, word in enumerate([*words, "unk", "red"])})
    for name in ("[SEP]", "[CLS]", "[MASK]", "[PAD]"):
        ids = tokenizer(f"red {name}", add_special_tokens=False, split_special_tokens=True)
        assert not set(ids["input_ids"]) & set(tokenizer.all_special_ids)


def test_every_call_of_a_tokenizer_splits_special_tokens_or_reads_no_text_of_a_post() -> None:
    own = {
        # Words of our own: a probe, an example answer, the tail of a template, a recipe's prompt.
        "boig_core/llm/opening.py": 1,
        "boig_core/llm/constraint.py": 1,
        "boig_core/llm/chat.py": 1,
        "boig_core/perception/captions.py": 1,
        "boig_core/adworld/tiny_models/data.py": 1,
    }
    calls: dict[str, int] = {}
    for path in sorted((ROOT / "boig_core").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Call)
                and ast.unparse(node.func).rpartition(".")[2] in {"tokenizer", "_tokenizer"}
                and "split_special_tokens" not in {word.arg for word in node.keywords}
            ):
                name = path.relative_to(ROOT).as_posix()
                calls[name] = calls.get(name, 0) + 1
    assert calls == own
