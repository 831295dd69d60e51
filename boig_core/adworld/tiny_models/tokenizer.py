"""The tiny models' tokenizer: an ordinary CLIP tokenizer in which every word of the ad world is one
token.

Anything else (names, digits, emoji) falls back to bytes, so no text is refused. One token per word
keeps prompts short and lets models of a few layers learn a color word from a few thousand captions.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTokenizer

from boig_core.adworld.scene import MAX_WORDS, VOCABULARY

BOS: Final = "<|startoftext|>"
EOS: Final = "<|endoftext|>"
MAX_LENGTH: Final = MAX_WORDS + 5
"""Tokens of a prompt, with its two marks and room for some punctuation."""


def build_tokenizer(words: Sequence[str] = VOCABULARY) -> Any:
    """A `CLIPTokenizer` that holds each of ``words`` (lower-case ASCII letters) as one token and
    every byte besides.

    Byte-pair merges are learnt from the words themselves until nothing is left to merge: then, by
    construction, each word is one token.
    """
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.pre_tokenizer = pre_tokenizers.Whitespace()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    letters = sorted({letter for word in words for letter in word})
    trainer = trainers.BpeTrainer(
        vocab_size=100_000,
        min_frequency=0,
        end_of_word_suffix="</w>",
        show_progress=False,
        # Ids given beforehand: the trainer breaks ties by id, and numbers what it meets in a random
        # order.
        special_tokens=[*letters, *(letter + "</w>" for letter in letters)],
    )
    learner.train_from_iterator(sorted(words), trainer)
    # The trainer's own JSON is the one place that lists its merges.
    learnt = json.loads(learner.to_str())["model"]
    ordered = [BOS, EOS, *alphabet, *(letter + "</w>" for letter in alphabet)]
    known = set(ordered)
    ordered += [
        token
        for token in sorted(learnt["vocab"], key=learnt["vocab"].__getitem__)
        if token not in known
    ]
    vocab = {token: index for index, token in enumerate(ordered)}
    merges = [tuple(pair) for pair in learnt["merges"]]
    # CLIPTextModel takes an end-of-text id of 2 to mean "the highest id of the row": ours must
    # differ, and is 1.
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=MAX_LENGTH)
