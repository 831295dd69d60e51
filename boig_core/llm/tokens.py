"""Tokens: the tokenizer of a model trained from scratch, and a post as the token ids that training and scoring share.

A scratch tokenizer is byte-level BPE, built from the training text alone. Three things keep an answer at some fifty tokens: the
answer's fixed pieces are one token each, numbers fall into pairs of digits, and every word of the palette is learnt whole. Any text
survives encoding and decoding. Leaves out: wording (see `boig_core.verbalization`) and batching (see `batches`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from boig_core.errors import InputError
from boig_core.vocabulary import PALETTE

BOS: Final = "<s>"
EOS: Final = "</s>"
PAD: Final = "<pad>"

# What `print_answer` writes between names and numbers. Longer pieces are matched first.
_PIECES: Final = (
    '{"color and tones":{"colors":{"',
    '":{"coverage":0.',
    '":{"coverage":1.',
    '},"',
    '}},"tones":{"warm":0.',
    '}},"tones":{"warm":1.',
    ',"neutral":0.',
    ',"neutral":1.',
    ',"cool":0.',
    ',"cool":1.',
    '}},"objects":{"',
    '}},"objects":{}}',
    '":[',
    '],"',
    "]}}",
)
_SPLIT: Final = r"[0-9]{1,2}| ?[A-Za-z_]+|[^A-Za-z0-9_]"

Tokens = NDArray[np.int32]


def build_tokenizer(texts: Iterable[str], vocab_size: int) -> Any:
    """A byte-level BPE tokenizer (transformers' fast tokenizer) of at most ``vocab_size`` tokens; the same texts give the same one.

    Args:
        texts: prompts of the training split; answers are covered by the fixed pieces, the palette, pairs of digits and the prompts' words.
        vocab_size: bytes, fixed pieces, palette and pairs of digits take 414 of it and are there in any case.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(_SPLIT), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    added = [AddedToken(piece, normalized=False) for piece in (*_PIECES, *(f"{n:02d}" for n in range(100)))]
    added += [AddedToken(name, normalized=False, single_word=True) for name in PALETTE]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(added),
        special_tokens=[PAD, BOS, EOS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(sorted(texts), trainer)
    tokenizer.add_tokens(added)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=BOS, eos_token=EOS, pad_token=PAD, clean_up_tokenization_spaces=False
    )


@dataclass(frozen=True)
class Example:
    """One prompt with its answer as token ids: ``prompt_T`` opens with BOS where the tokenizer has one, ``answer_T`` ends with EOS."""

    prompt_T: Tokens
    answer_T: Tokens

    @property
    def length(self) -> int:
        """Tokens in all."""
        return len(self.prompt_T) + len(self.answer_T)


def encode_prompts(tokenizer: Any, prompts: Sequence[str], room: int) -> list[Tokens]:
    """Prompts as token ids, each at most ``room`` long: of a longer one the beginning is cut, because the KPI stands at its end."""
    bos = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    encoded = tokenizer(list(prompts), add_special_tokens=False)["input_ids"] if prompts else []
    return [np.array([*bos, *ids[-(room - len(bos)) :]], np.int32) for ids in encoded]


def encode_examples(tokenizer: Any, prompts: Sequence[str], answers: Sequence[str], context: int) -> list[Example]:
    """Prompts with their answers, each pair within ``context`` tokens.

    Raises:
        InputError: an answer leaves less than a quarter of the context to its prompt.
    """
    encoded = tokenizer(list(answers), add_special_tokens=False)["input_ids"] if answers else []
    answers_NT = [np.array([*ids, tokenizer.eos_token_id], np.int32) for ids in encoded]
    longest = max((len(ids) for ids in answers_NT), default=0)
    if longest > 0.75 * context:
        raise InputError(f"an answer of {longest} tokens", f"does not fit into a context of {context}", "raise llm.context")
    prompts_NT = encode_prompts(tokenizer, prompts, context - longest)
    return [Example(prompt_T, answer_T) for prompt_T, answer_T in zip(prompts_NT, answers_NT, strict=True)]
