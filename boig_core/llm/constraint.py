"""Constrained decoding: at each step only tokens that can still become an answer may be written.

The grammar is what `print_answer` prints: colors of the palette, each at most once, coverage as 0.NN or 1.00, all three tones, boxes in
whole pixels with x1 <= x2 and y1 <= y2. So an answer that ends can be parsed; one that its token limit cuts off cannot. Object names are
free and may come twice, of which `parse_or_none` keeps the first. The masks are llguidance's. Shape letters: N answers written at a
time, V tokens of the vocabulary, W words of 32 tokens each. Leaves out: choosing among the allowed tokens (see `generate`, `sampling`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import Tensor
from transformers import LogitsProcessor

from boig_core.errors import InputError
from boig_core.verbalization.answer import LOOK, print_answer
from boig_core.vocabulary import PALETTE, TONES, Description

MAX_COLORS: Final = 8
"""As many as a recipe's perception may find."""
MAX_OBJECTS: Final = 16
NAME_LENGTH: Final = 64
"""Longest object name, in characters, an escaped one counted once."""
DIGITS: Final = 5
"""Of a box edge in pixels."""
_EXAMPLE: Final = print_answer(
    Description({"Red": 0.75, "Off_White": 0.25}, dict.fromkeys(TONES, 0.5), {"ball": (1.0, 20.0, 300.0, 4000.0)})
)
_REMEDY: Final = "set llm.constrained: false"


def answer_grammar(lead: str = "") -> str:
    """All answers as a grammar in llguidance's Lark dialect.

    A rule ``name::_`` carries 64 bits. Those of the colors tell which ones are named already; those of a box hold x1 and y1 in decimal
    digits of four bits each, which x2 and y2 are compared with digit by digit.

    Args:
        lead: what stands before an answer: some tokenizers write a space in front of every text.
    """
    tones = " SHARE ".join(_text(("," if i else '},"tones":{') + f'"{tone}":') for i, tone in enumerate(TONES))
    first = [f"{_text(_color(name))} SHARE {_text('}')} more::set_bit({bit})" for bit, name in enumerate(PALETTE)]
    more = [
        f"{_text(',' + _color(name))} SHARE {_text('}')} more::set_bit({bit}) %if and(bit_clear({bit}), bit_count_lt(_, {MAX_COLORS}))"
        for bit, name in enumerate(PALETTE)
    ]
    opening, objects = _text(f'{lead}{{"{LOOK}":{{"colors":{{'), _text('}},"objects":{')
    return "\n".join(
        [
            # Text that is sure to come would else be cut into tokens without what follows it, so never into pieces such as ":{"coverage":0.
            '%llguidance {"no_forcing": true}',
            f"start: {opening} color::0x0 {tones} SHARE {objects} objects? {_text('}}')}",
            _rule("color::_", first),
            _rule("more::_", ['""', *more]),
            f'objects: object ("," object){{0,{MAX_OBJECTS - 1}}}',
            'object: NAME ":[" x1::0x0',
            *_stored("x1", 0, "y1"),
            *_stored("y1", 4 * DIGITS, "x2"),
            *_at_least("x2", 0, "y2"),
            *_at_least("y2", 4 * DIGITS, None),
            r"SHARE: /0\.[0-9][0-9]|1\.00/",
            rf'NAME: /"([\x20-\x21\x23-\x5b\x5d-\x7f]|\\["\\bfnrt]|\\u[0-9a-f]{{4}}){{1,{NAME_LENGTH}}}"/',
        ]
    )


class AnswerConstraint:
    """The grammar held against one tokenizer: made once, used for any number of batches.

    Raises:
        InputError: the tokenizer's tokens cannot be told apart as bytes, or do not spell an answer.
    """

    def __init__(self, tokenizer: Any) -> None:
        from llguidance import LLExecutor, LLMatcher
        from llguidance.hf import from_tokenizer

        name = f"tokenizer {getattr(tokenizer, 'name_or_path', '') or type(tokenizer).__name__}"
        ids = tokenizer(_EXAMPLE, add_special_tokens=False)["input_ids"]
        try:
            self._tokens = from_tokenizer(tokenizer)
            written = self._tokens.decode_bytes(ids).decode()
        except Exception as exc:  # llguidance names no error types of its own
            raise InputError(name, f"cannot be constrained ({' '.join(str(exc).split())[:200]})", _REMEDY) from exc
        lead = written.removesuffix(_EXAMPLE)
        self._matcher = LLMatcher(self._tokens, LLMatcher.grammar_from_lark(answer_grammar(lead)), log_level=0)
        if lead.strip() or not self._matcher.deep_copy().consume_tokens(ids):
            raise InputError(name, f"cannot be constrained (it spells an answer as {written[:40]!r})", _REMEDY)
        # Masks are made beside the model, so they take as many threads as it does.
        self._executor = LLExecutor(torch.get_num_threads())

    def begin(self, answers: int) -> AnswerMask:
        """A mask for a batch of answers, none of which has begun."""
        return AnswerMask(self._tokens, self._executor, [self._matcher.deep_copy() for _ in range(answers)])


class AnswerMask:
    """What a batch of answers may go on with."""

    def __init__(self, tokens: Any, executor: Any, matchers: list[Any]) -> None:
        from llguidance.numpy import allocate_token_bitmask

        self._executor, self._matchers = executor, matchers
        self._bits_NW = allocate_token_bitmask(len(matchers), tokens.vocab_size)

    def apply(self, logits_NV: Tensor) -> Tensor:
        """The logits, -inf where a token would leave the grammar; after the end of an answer only the end token is left."""
        from llguidance.numpy import fill_next_token_bitmask_par

        bits_NW = self._bits_NW[: len(self._matchers)]
        fill_next_token_bitmask_par(self._executor, [(matcher, row) for row, matcher in enumerate(self._matchers)], bits_NW)
        places = torch.arange(32, dtype=torch.int32, device=logits_NV.device)
        allowed_NV = ((torch.from_numpy(bits_NW).to(logits_NV.device)[:, :, None] >> places) & 1).flatten(1).bool()
        # Embeddings are often padded beyond the vocabulary, and words of 32 reach beyond it as well.
        size = min(allowed_NV.shape[1], logits_NV.shape[1])
        masked_NV = torch.full_like(logits_NV, -torch.inf)
        masked_NV[:, :size] = logits_NV[:, :size].masked_fill(~allowed_NV[:, :size], -torch.inf)
        return masked_NV

    def advance(self, tokens_N: Sequence[int]) -> None:
        """Take note of one more token an answer; what follows the end of an answer is passed over.

        Raises:
            InputError: a token that was not allowed.
        """
        for matcher, token in zip(self._matchers, tokens_N, strict=True):
            if not matcher.is_stopped() and not matcher.consume_token(token):
                raise InputError(f"token {token}", f"leaves the grammar of answers ({matcher.get_error()[:200]})", _REMEDY)

    def select(self, rows_M: Sequence[int]) -> None:
        """Keep these answers."""
        self._matchers = [self._matchers[row] for row in rows_M]


class MaskedLogits(LogitsProcessor):  # type: ignore[misc]  # transformers has no types
    """An `AnswerMask` as ``model.generate`` takes it: called with all tokens so far, from the end of the prompt on."""

    def __init__(self, mask: AnswerMask, prompt: int) -> None:
        self._mask, self._prompt = mask, prompt

    def __call__(self, ids_BT: Tensor, logits_BV: Tensor) -> Tensor:
        """The masked logits."""
        if ids_BT.shape[1] > self._prompt:
            self._mask.advance(ids_BT[:, -1].tolist())
        return self._mask.apply(logits_BV)


def _stored(name: str, offset: int, then: str) -> list[str]:
    """Rules that read a whole number, keep its digits from bit ``offset`` on and go on with the rule ``then``."""

    def read(digit: int, place: int) -> str:
        rule = f"{name}_{place}" if place else f'"," {then}'
        return f'"{digit}" {rule}::bit_or({digit << (4 * place + offset):#x})'

    opening = [read(0, 0), *(read(digit, place) for place in range(DIGITS) for digit in range(1, 10))]
    later = [_rule(f"{name}_{place + 1}::_", [read(digit, place) for digit in range(10)]) for place in range(DIGITS - 1)]
    return [_rule(f"{name}::_", opening), *later]


def _at_least(name: str, offset: int, then: str | None) -> list[str]:
    """Rules that read a whole number not below the one kept from bit ``offset`` on, and go on with ``then`` or end the box.

    As long as its digits equal the kept ones it is at ``name_PLACE``, and once one is greater at ``name_free_PLACE``.
    """
    end, carry = (f'"," {then}::_', "::_") if then else ('"]"', "")

    def read(digit: int, place: int, also: str = "") -> list[str]:
        kept = f"[{4 * place + offset}:{4 * place + offset + 4}]"
        ways = [(f"{name}_{place}::_", f"eq({kept}, {digit})")]
        if digit:
            ways.append((f"{name}_free_{place}{carry}", f"lt({kept}, {digit})"))
        return [f'"{digit}" {rule if place else end} %if ' + (f"and({test}, {also})" if also else test) for rule, test in ways]

    opening = [f'"0" {end} %if is_zeros([{offset}:{offset + 4 * DIGITS}])']
    for place in range(DIGITS):
        # A number of fewer digits is smaller: none of the kept ones may stand before the first.
        also = f"is_zeros([{offset + 4 * (place + 1)}:{offset + 4 * DIGITS}])" if place < DIGITS - 1 else ""
        opening += [way for digit in range(1, 10) for way in read(digit, place, also)]
    rules = [_rule(f"{name}::_", opening)]
    for place in range(DIGITS - 1):
        free = f"{name}_free_{place}{carry}" if place else end
        rules.append(_rule(f"{name}_{place + 1}::_", [way for digit in range(10) for way in read(digit, place)]))
        rules.append(_rule(f"{name}_free_{place + 1}{carry}", [f'"{digit}" {free}' for digit in range(10)]))
    return rules


def _color(name: str) -> str:
    return f'"{name}":{{"coverage":'


def _rule(name: str, ways: Sequence[str]) -> str:
    return f"{name} : " + "\n  | ".join(ways)


def _text(text: str) -> str:
    """A string literal of the grammar."""
    return json.dumps(text)
