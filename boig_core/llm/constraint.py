"""Constrained decoding: at each step only tokens that can still become an answer may be written.

The grammar is what `print_answer` prints: colors of the palette, each at most once, coverage as
0.NN or 1.00, all three tones, boxes in whole pixels with x1 <= x2 and y1 <= y2. So an answer that
ends can be parsed; one that its token limit cuts off cannot. Object names are free and may come
twice, of which `parse_or_none` keeps the first. The masks are llguidance's. Shape letters: N
answers written at a time, V tokens of the vocabulary, W words of 32 tokens each. Leaves out:
choosing among the allowed tokens (see `generate`, `sampling`).
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
# Two edges of five digits and their lengths take 48 of the 64 bits that a rule carries.
DIGITS: Final = 5
"""Of a box edge in pixels."""
# Holds something of all that answers are made of, so that a tokenizer that spells any of it
# otherwise is refused before a model is asked.
_EXAMPLE: Final = print_answer(
    Description(
        {"Red": 0.75, "Off_White": 0.25},
        dict.fromkeys(TONES, 0.5),
        {"ball": (1.0, 20.0, 300.0, 4000.0)},
    )
)
_REMEDY: Final = "set llm.constrained: false"


def answer_grammar(lead: str = "") -> str:
    """All answers as a grammar in llguidance's Lark dialect.

    A rule ``name::_`` carries 64 bits. Those of the colors tell which ones are named already; those
    of a box hold x1 and y1 in decimal digits of four bits each, which x2 and y2 are compared with
    digit by digit. At most one rule fits what has been read of a number: parsing stays cheap where
    nearly every token is tried.

    Args:
        lead: what stands before an answer: some tokenizers write a space in front of every text.
    """
    tones = " SHARE ".join(
        _text(("," if i else '},"tones":{') + f'"{tone}":') for i, tone in enumerate(TONES)
    )
    # The first color needs no condition: no bit is set yet.
    first = [
        f"{_text(_color(name))} SHARE {_text('}')} more::set_bit({bit})"
        for bit, name in enumerate(PALETTE)
    ]
    more = [
        f"{_text(',' + _color(name))} SHARE {_text('}')} more::set_bit({bit}) %if and(bit_clear({bit}), bit_count_lt(_, {MAX_COLORS}))"
        for bit, name in enumerate(PALETTE)
    ]
    opening, objects = _text(f'{lead}{{"{LOOK}":{{"colors":{{'), _text('}},"objects":{')
    return "\n".join(
        [
            # Text that is sure to come would else be cut into tokens without what follows it, so
            # never into pieces such as ":{"coverage":0.
            '%llguidance {"no_forcing": true}',
            f"start: {opening} color::0x0 {tones} SHARE {objects} objects? {_text('}}')}",
            _rule("color::_", first),
            _rule("more::_", ['""', *more]),
            f'objects: object ("," object){{0,{MAX_OBJECTS - 1}}}',
            'object: NAME ":[" x1::0x0',
            *_stored("x1", 0, "y1"),
            *_stored("y1", 1, "x2"),
            *_at_least("x2", 0, '"," y2::_'),
            *_at_least("y2", 1, '"]"'),
            "DIGIT: /[0-9]/",
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
            raise InputError(
                name, f"cannot be constrained ({' '.join(str(exc).split())[:200]})", _REMEDY
            ) from exc
        lead = written.removesuffix(_EXAMPLE)
        self._matcher = LLMatcher(
            self._tokens, LLMatcher.grammar_from_lark(answer_grammar(lead)), log_level=0
        )
        # Tried on a copy: a matcher that has read an answer cannot begin another.
        if lead.strip() or not self._matcher.deep_copy().consume_tokens(ids):
            raise InputError(
                name, f"cannot be constrained (it spells an answer as {written[:40]!r})", _REMEDY
            )
        # Masks are made beside the model, so they take as many threads as it does.
        self._executor = LLExecutor(torch.get_num_threads())

    def begin(self, answers: int) -> AnswerMask:
        """A mask for a batch of answers, none of which has begun."""
        return AnswerMask(
            self._tokens, self._executor, [self._matcher.deep_copy() for _ in range(answers)]
        )


class AnswerMask:
    """What a batch of answers may go on with."""

    def __init__(self, tokens: Any, executor: Any, matchers: list[Any]) -> None:
        from llguidance.numpy import allocate_token_bitmask

        self._executor, self._matchers = executor, matchers
        self._bits_NW = allocate_token_bitmask(len(matchers), tokens.vocab_size)

    def apply(self, logits_NV: Tensor) -> Tensor:
        """The logits, -inf where a token would leave the grammar; after the end of an answer only
        the end token is left."""
        from llguidance.numpy import fill_next_token_bitmask_par

        # Answers leave the batch (`select`), while the buffer stays as large as it was.
        bits_NW = self._bits_NW[: len(self._matchers)]
        fill_next_token_bitmask_par(
            self._executor, [(matcher, row) for row, matcher in enumerate(self._matchers)], bits_NW
        )
        places = torch.arange(32, dtype=torch.int32, device=logits_NV.device)
        allowed_NV = (
            ((torch.from_numpy(bits_NW).to(logits_NV.device)[:, :, None] >> places) & 1)
            .flatten(1)
            .bool()
        )
        # Embeddings are often padded beyond the vocabulary, and words of 32 reach beyond it as
        # well.
        size = min(allowed_NV.shape[1], logits_NV.shape[1])
        masked_NV = torch.full_like(logits_NV, -torch.inf)
        masked_NV[:, :size] = logits_NV[:, :size].masked_fill(~allowed_NV[:, :size], -torch.inf)
        return masked_NV

    def advance(self, tokens_N: Sequence[int]) -> None:
        """Take note of one more token per answer; what follows the end of an answer is passed over.

        Raises:
            InputError: a token that was not allowed.
        """
        for matcher, token in zip(self._matchers, tokens_N, strict=True):
            if not matcher.is_stopped() and not matcher.consume_token(token):
                raise InputError(
                    f"token {token}",
                    f"leaves the grammar of answers ({matcher.get_error()[:200]})",
                    _REMEDY,
                )

    def select(self, rows_M: Sequence[int]) -> None:
        """Keep these answers."""
        self._matchers = [self._matchers[row] for row in rows_M]


class MaskedLogits(LogitsProcessor):  # type: ignore[misc]  # transformers has no types
    """An `AnswerMask` as ``model.generate`` takes it: called with all tokens so far, from the end
    of the prompt on."""

    def __init__(self, mask: AnswerMask, prompt: int) -> None:
        self._mask, self._prompt = mask, prompt

    def __call__(self, ids_BT: Tensor, logits_BV: Tensor) -> Tensor:
        """The masked logits."""
        # The first call comes before there is any token of an answer.
        if ids_BT.shape[1] > self._prompt:
            self._mask.advance(ids_BT[:, -1].tolist())
        return self._mask.apply(logits_BV)


def _kept(edge: int, place: int) -> tuple[int, int]:
    """Bits of the digit at a place, from the left, of the first (x1) or second (y1) edge that a box
    keeps."""
    start = 4 * (DIGITS * edge + place)
    return start, start + 4


def _length(edge: int) -> tuple[int, int]:
    """Bits of the number of its digits."""
    start = 8 * DIGITS + 4 * edge
    return start, start + 4


def _stored(name: str, edge: int, then: str) -> list[str]:
    """Rules that read a whole number, keep its digits and their number, and go on with the rule
    ``then``; ``name_P`` has read P digits."""

    def read(digit: int, place: int) -> str:
        return f'"{digit}" {name}_{place + 1}::bit_or({digit << _kept(edge, place)[0]:#x})'

    def end(place: int) -> str:
        return f'"," {then}::bit_or({place << _length(edge)[0]:#x})'

    # A number has one spelling: nothing follows a leading 0, whose bits are 0 already.
    rules = [_rule(f"{name}::_", [f'"0" {end(1)}', *(read(digit, 0) for digit in range(1, 10))])]
    for place in range(1, DIGITS + 1):
        more = [read(digit, place) for digit in range(10)] if place < DIGITS else []
        rules.append(_rule(f"{name}_{place}::_", [end(place), *more]))
    return rules


def _at_least(name: str, edge: int, end: str) -> list[str]:
    """Rules that read a whole number not below the kept edge, and go on with ``end``.

    ``name_as_P`` has read P digits that equal the kept ones, ``name_above_P`` some of which the
    first that differs is greater, and ``name_below_P`` smaller: then only a number of more digits
    will do.
    """
    length = _bits(_length(edge))

    def read(digit: int, place: int) -> list[str]:
        kept = _bits(_kept(edge, place))
        return [
            f'"{digit}" {name}_as_{place + 1}::_ %if eq({kept}, {digit})',
            f'"{digit}" {name}_above_{place + 1}::_ %if lt({kept}, {digit})',
            # A smaller digit asks for a longer number, and beside five kept digits there is none.
            f'"{digit}" {name}_below_{place + 1}::_ %if and(gt({kept}, {digit}), lt({length}, {DIGITS}))',
        ]

    # 0 stands alone, and reaches the kept edge only where that is 0 as well.
    zero = f'"0" {end} %if and(eq({length}, 1), is_zeros({_bits(_kept(edge, 0))}))'
    rules = [
        _rule(f"{name}::_", [zero, *(way for digit in range(1, 10) for way in read(digit, 0))])
    ]
    for place in range(1, DIGITS + 1):
        last = place == DIGITS
        enough = f"{end} %if le({length}, {place})"
        rules += [
            _rule(
                f"{name}_as_{place}::_",
                [
                    enough,
                    *([] if last else [way for digit in range(10) for way in read(digit, place)]),
                ],
            ),
            _rule(
                f"{name}_above_{place}::_",
                [enough, *([] if last else [f"DIGIT {name}_above_{place + 1}::_"])],
            ),
            _rule(
                f"{name}_below_{place}::_",
                [
                    f"{end} %if lt({length}, {place})",
                    *([] if last else [f"DIGIT {name}_below_{place + 1}::_"]),
                ],
            ),
        ]
    return rules


def _bits(span: tuple[int, int]) -> str:
    return f"[{span[0]}:{span[1]}]"


def _color(name: str) -> str:
    return f'"{name}":{{"coverage":'


def _rule(name: str, ways: Sequence[str]) -> str:
    return f"{name} : " + "\n  | ".join(ways)


def _text(text: str) -> str:
    """A string literal of the grammar."""
    return json.dumps(text)
