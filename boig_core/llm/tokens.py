"""Tokens: the tokenizer of a model trained from scratch, and a post as the token ids that training
and scoring share.

A scratch tokenizer is byte-level BPE, built from the training text alone. Three things keep an
answer at some fifty tokens: the answer's fixed pieces are one token each, numbers fall into pairs
of digits, and every word of the palette is learnt whole. Any text survives encoding and decoding.

A prompt is encoded the same way wherever it is needed, in training, scoring and generation: within
the same room, and as the user's turn where the tokenizer has a chat template (see `chat`). What a
post says is text: a special token's name in it is no special token (see `control_tokens`). Leaves
out: wording (see `boig_core.verbalization`) and batching (see `batches`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from boig_core.errors import InputError, RecipeError
from boig_core.llm.architecture import positions_of
from boig_core.llm.chat import chat_of
from boig_core.llm.control_tokens import as_text
from boig_core.verbalization.templates import Prompt
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
# What a learned token may hold: two digits, a word with its underscores, or one other character. So
# none is spent on a year, or on a word with what follows it.
_SPLIT: Final = r"[0-9]{1,2}| ?[A-Za-z_]+|[^A-Za-z0-9_]"

_SHOWN: Final = 24
"""Characters that a message shows of an answer around what is wrong with it."""

Tokens = NDArray[np.int32]


def build_tokenizer(texts: Iterable[str], vocab_size: int) -> Any:
    """A byte-level BPE tokenizer (transformers' fast tokenizer) of at most ``vocab_size`` tokens;
    the same texts give the same one.

    Args:
        texts: prompts of the training split; answers are covered by the fixed pieces, the palette,
            pairs of digits and the prompts' words.
        vocab_size: bytes, fixed pieces, palette and pairs of digits take 414 of it and are there in
            any case.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    added = [
        AddedToken(piece, normalized=False)
        for piece in (*_PIECES, *(f"{n:02d}" for n in range(100)))
    ]
    # Whole words alone: else the Red of Reduced would be cut out of it.
    added += [AddedToken(name, normalized=False, single_word=True) for name in PALETTE]
    trainer = trainers.BpeTrainer(
        # What is added afterwards counts as well: the recipe's size is that of the whole.
        vocab_size=vocab_size - len(added),
        special_tokens=[PAD, BOS, EOS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    # Sorted, so that the order of the samples cannot change what is learned.
    tokenizer.train_from_iterator(sorted(texts), trainer)
    tokenizer.add_tokens(added)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        clean_up_tokenization_spaces=False,
    )


@dataclass(frozen=True)
class Example:
    """One prompt with its answer as token ids.

    Attributes:
        prompt_T: opens with BOS where the tokenizer has one, or as the chat template has it.
        answer_T: ends with EOS, or with the chat template's end of turn.
        cut_keywords: keywords that the prompt lost because it was too long.
        cut_text: characters of the post's text that it lost.
        rating: what a regression head should say of it, 0 to 1; none but for the engagement
            predictor.
    """

    prompt_T: Tokens
    answer_T: Tokens
    cut_keywords: int = 0
    cut_text: int = 0
    rating: float | None = None

    @property
    def length(self) -> int:
        """Tokens in all."""
        return len(self.prompt_T) + len(self.answer_T)


def set_limits(model: Any, tokenizer: Any, context: int, max_new_tokens: int) -> None:
    """Write into a model and its tokenizer what they are trained for, so that the saved folder
    tells `limits_of` and whoever opens it: the limits, the pinned chat template, and answers that
    are the likeliest ones, whatever ways of decoding a base asks for.

    Args:
        context: longest sequence, in tokens.
        max_new_tokens: longest answer, in tokens.

    Raises:
        InputError: the chat template cannot be used, or nothing ends an answer.
    """
    from transformers import GenerationConfig

    end = end_of_turn(tokenizer)
    if (chat := chat_of(tokenizer)) is not None:
        tokenizer.chat_template = chat.template
    tokenizer.model_max_length = context
    # Generation stops at EOS, and this is the token that trained answers end with.
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(end)
    # Nothing of the base's: its temperature and penalties are for chats, and may not be valid.
    model.generation_config = GenerationConfig(
        max_new_tokens=max_new_tokens,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def limits_of(model: Any, tokenizer: Any) -> tuple[int, int]:
    """Longest sequence and longest answer of a model, in tokens; a model that names no longest
    answer has a quarter of the context."""
    # It may be trained in a shorter context than its positions allow: `set_limits` wrote which.
    context = min(positions_of(model), tokenizer.model_max_length)
    return context, model.generation_config.max_new_tokens or context // 4


def prompt_room(context: int, max_new_tokens: int) -> int:
    """Tokens that a prompt may have: what the longest answer leaves of the context, and half of it
    at least."""
    return context - min(max_new_tokens, context // 2)


def encode_prompts(tokenizer: Any, prompts: Sequence[str], room: int) -> list[Tokens]:
    """Prompts as token ids, each at most ``room`` long: a longer one is cut as `Prompt` says.

    Raises:
        InputError: a prompt is longer, and has nothing that can be cut.
    """
    return [ids_T for ids_T, _ in _fit(tokenizer, prompts, [room] * len(prompts))]


def encode_examples(
    tokenizer: Any,
    prompts: Sequence[str],
    answers: Sequence[str],
    context: int,
    max_new_tokens: int | None = None,
) -> list[Example]:
    """Prompts with their answers, each pair within ``context`` tokens. Answers are never cut.

    A prompt loses no more and no less than in `encode_prompts` with the `prompt_room` of the same
    limits, unless its own answer is longer than ``max_new_tokens`` (None: a quarter of the
    context).

    Raises:
        InputError: an answer leaves less than a quarter of the context to its prompt, or a prompt
            has nothing more that can be cut.
    """
    answers_NT = encode_answers(tokenizer, answers)
    longest = max((len(ids) for ids in answers_NT), default=0)
    if longest > 0.75 * context:
        raise InputError(
            f"an answer of {longest} tokens",
            f"does not fit into a context of {context}",
            "raise llm.context",
        )
    room = prompt_room(context, max_new_tokens or context // 4)
    fitted = _fit(
        tokenizer, prompts, [min(room, context - len(answer_T)) for answer_T in answers_NT]
    )
    examples = []
    for whole, (ids_T, prompt), answer_T in zip(prompts, fitted, answers_NT, strict=True):
        lost = (0, 0)
        if isinstance(whole, Prompt) and isinstance(prompt, Prompt):
            lost = len(whole.keywords) - len(prompt.keywords), len(whole.text) - len(prompt.text)
        examples.append(Example(ids_T, answer_T, *lost))
    return examples


def encode_answers(tokenizer: Any, answers: Sequence[str]) -> list[Tokens]:
    """Answers as token ids, each with the end of its turn."""
    end = end_of_turn(tokenizer)
    return [np.array([*ids, end], np.int32) for ids in _plain(tokenizer, answers)]


def end_of_turn(tokenizer: Any) -> int:
    """Id of the token that ends an answer: the special token that a chat template writes after it,
    else EOS.

    Raises:
        InputError: there is neither.
    """
    chat = chat_of(tokenizer)
    end = tokenizer.eos_token_id if chat is None or chat.end is None else chat.end
    if end is None:
        raise InputError(
            f"the tokenizer of {tokenizer.name_or_path or type(tokenizer).__name__}",
            "names no token that ends an answer",
            "set its eos_token",
        )
    return int(end)


def decode_answers(tokenizer: Any, ids_NT: Any) -> list[str]:
    """Token ids as the texts that they spell, special tokens left out."""
    # Never tidied up: some tokenizers would else close the gap before a comma in an object's name.
    texts: list[str] = tokenizer.batch_decode(
        ids_NT, skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    return texts


def check_answers(tokenizer: Any, answers: Sequence[str], base: str | None) -> None:
    """Make sure that a base's tokenizer can write the answers that it is to be trained on.

    A space before the first character is let pass: some tokenizers begin every text with one, and
    a reader of JSON skips it.

    Raises:
        RecipeError: an answer comes back changed: in other case, without some of its spaces.
    """
    distinct = list(dict.fromkeys(answers))
    if base is None or not distinct:
        return
    written = decode_answers(tokenizer, _plain(tokenizer, distinct))
    for answer, text in zip(as_text(tokenizer, distinct), written, strict=True):
        if text != answer and text.removeprefix(" ") != answer:
            text = text.removeprefix(" ")
            start = next(
                (i for i, pair in enumerate(zip(answer, text, strict=False)) if len(set(pair)) > 1),
                min(len(answer), len(text)),
            )
            raise RecipeError(
                f"llm.base = {base!r}",
                f"its tokenizer changes answers: {answer[start : start + _SHOWN]!r} comes back as {text[start : start + _SHOWN]!r}",
                "take a base whose tokenizer keeps text as it is",
            )


def _fit(tokenizer: Any, prompts: Sequence[str], rooms: Sequence[int]) -> list[tuple[Tokens, str]]:
    """Token ids of each prompt within its room, and the prompt that they encode. Only what may be
    too long is encoded again."""
    fitted, ids_NT = list(prompts), _encode(tokenizer, prompts)
    # A token is one byte at least: where the widest line of KPIs fits byte by byte, it fits.
    near = [
        i
        for i, prompt in enumerate(prompts)
        if len(ids_NT[i]) + getattr(prompt, "spare", 0) > rooms[i]
    ]
    over = {
        i: prompts[i]
        for i, length in _lengths(tokenizer, {i: prompts[i] for i in near}).items()
        if length > rooms[i]
    }
    long = {i: prompt for i, prompt in over.items() if isinstance(prompt, Prompt)}
    # The fewest cuts that fit, by halving: `most` of them fit, `few` do not. All prompts at a time,
    # since a tokenizer is fast on many.
    few, most = dict.fromkeys(long, 0), {i: prompt.cuts for i, prompt in long.items()}
    while halved := {i: (few[i] + most[i]) // 2 for i in long if most[i] - few[i] > 1}:
        for i, length in _lengths(
            tokenizer, {i: long[i].shortened(cuts) for i, cuts in halved.items()}
        ).items():
            (most if length <= rooms[i] else few)[i] = halved[i]
    for i, prompt in long.items():
        fitted[i] = prompt.shortened(most[i])
    for i, ids_T in zip(long, _encode(tokenizer, [fitted[i] for i in long]), strict=True):
        ids_NT[i] = ids_T
    # That all cuts together fit was taken for granted: a frame alone may be too long.
    for i in near:
        if len(ids_NT[i]) > rooms[i]:
            remedy = "raise llm.context, or lower llm.max_new_tokens"
            raise InputError(
                f"a prompt of {len(ids_NT[i])} tokens",
                f"must fit into {rooms[i]}, and holds no more that can be cut",
                remedy,
            )
    return list(zip(ids_NT, fitted, strict=True))


def _lengths(tokenizer: Any, prompts: Mapping[int, str]) -> dict[int, int]:
    """Tokens of each prompt with KPIs as long as any, so that what is cut does not depend on the
    KPIs."""
    widest = [
        prompt.widest if isinstance(prompt, Prompt) else prompt for prompt in prompts.values()
    ]
    return {i: len(ids_T) for i, ids_T in zip(prompts, _encode(tokenizer, widest), strict=True)}


def _encode(tokenizer: Any, prompts: Sequence[str]) -> list[Tokens]:
    if not prompts:
        return []
    chat = chat_of(tokenizer)
    if chat is None:
        bos = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
        return [np.array([*bos, *ids], np.int32) for ids in _plain(tokenizer, prompts)]
    # The template writes BOS itself where the model wants one.
    encoded = chat.encode(tokenizer, as_text(tokenizer, prompts))
    return [np.array(ids, np.int32) for ids in encoded]


def _plain(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    if not texts:
        return []
    # BOS is put where it belongs by `_encode`: the tokenizer would open answers with one, too.
    encoded: list[list[int]] = tokenizer(
        as_text(tokenizer, texts), add_special_tokens=False, split_special_tokens=True
    )["input_ids"]
    return encoded
