"""What a post says is text, even where it spells a token by which a model is steered: an end of
text, a turn of a chat, a call of a tool.

A tokenizer that is told to split special tokens reads most of them as text. Some are read as tokens
even then: pieces of a unigram vocabulary, and added tokens that are not called special. A space
after the first character parts these. Leaves out: encoding (see `tokens`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final
from weakref import WeakKeyDictionary

# Added tokens that are not special are words as a rule: those of this tokenizer are numbers and
# names of colors. Tokens that steer look like markup.
_MARKUP: Final = re.compile(r"<.+>|\[.+\]", re.DOTALL)
_TEMPLATES: Final = re.compile(
    r"<[|\uff5c][^<>]{0,64}[|\uff5c]>|</?s>|<</?SYS>>|\[/?INST\]"
    r"|<(?:bos|eos|pad|unk|start_of_turn|end_of_turn)>"
)
"""What chat templates of common models write."""

_patterns: WeakKeyDictionary[Any, tuple[int, re.Pattern[str]]] = WeakKeyDictionary()


def as_text(tokenizer: Any, texts: Sequence[str]) -> list[str]:
    """Texts that the tokenizer reads as nothing but text, if it splits special tokens. Ordinary
    texts are unchanged."""
    size, pattern = _patterns.get(tokenizer, (-1, re.compile("")))
    if size != len(tokenizer):
        pattern = _read_as_tokens(tokenizer)
        _patterns[tokenizer] = len(tokenizer), pattern
    return [_parted(pattern, str(text)) for text in texts]


def as_text_anywhere(text: str) -> str:
    """As `as_text`, for an endpoint whose tokenizer nobody knows: what chat templates of common
    models write is parted."""
    return _parted(_TEMPLATES, text)


def _parted(pattern: re.Pattern[str], text: str) -> str:
    # Again, since two names may overlap; each round parts one more, so this ends.
    while pattern.search(text):
        text = pattern.sub(lambda match: f"{match[0][0]} {match[0][1:]}", text)
    return text


def _read_as_tokens(tokenizer: Any) -> re.Pattern[str]:
    """Matches each token that steers and that the tokenizer makes of its name."""
    names = {
        token.content
        for token in tokenizer.added_tokens_decoder.values()
        if token.special or _MARKUP.fullmatch(token.content)
    }
    # A single character cannot be parted.
    steering = sorted(
        (name for name in names | set(tokenizer.all_special_tokens) if len(name) > 1),
        key=len,
        reverse=True,
    )
    if not steering:
        return re.compile("(?!)")
    ids = tokenizer(steering, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    of_name = tokenizer.convert_tokens_to_ids(steering)
    read = [name for name, own, row in zip(steering, of_name, ids, strict=True) if own in row]
    return re.compile("|".join(map(re.escape, read)) or "(?!)")
