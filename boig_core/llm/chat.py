"""Chat templates: how a base frames a prompt as the user's turn, the same wherever and whenever it
is asked.

A template as its authors wrote it may tell today's date, may open a thought that the answer would
stand in, and may leave the assistant's header to whoever writes the answer. `Chat` pins it: the
date is one day for good, thinking is off where the template knows how, an empty thought is closed
where it does not, and a header that only finished answers have is part of the prompt. All of that
stands in the template itself, which is published with the model: whoever asks transformers for a
generation prompt gets the tokens that the model was trained on. Leaves out: cutting and encoding
(see `tokens`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from weakref import WeakKeyDictionary

from boig_core.errors import InputError

# The day that Llama 3's own template falls back to.
_DAY: Final = datetime(2024, 7, 26)
_DATE_STRING: Final = "26 Jul 2024"
_PINNED: Final = "{#- Pinned: as the model was trained, on any day and without a thought. #}\n"
_THINKING: Final = ("enable_thinking", "thinking")
"""Variables that switch a template's thoughts on and off."""
_THOUGHTS: Final = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
)
"""What opens and what closes a thought."""
_QUESTION: Final = "(the question)"
_ANSWER: Final = "(the answer)"
_PERCENT: Final = "\ue000"
"""Stands for a written percent sign while directives of a date are replaced."""

Turn = dict[str, str]


@dataclass(frozen=True)
class Chat:
    """A pinned chat template.

    Attributes:
        template: renders the same prompt on any day, up to where the answer begins.
        end: id of the token that ends an answer; None: the template names none.
    """

    template: str
    end: int | None

    def encode(self, tokenizer: Any, texts: list[str]) -> list[list[int]]:
        """Each text as the only turn of a user, in token ids, up to where the answer begins.

        Raises:
            InputError: the template cannot be rendered.
        """
        chats = [[_user(text)] for text in texts]
        options = {"add_generation_prompt": True, "sanitize_control_tokens": True}
        with_template = {"chat_template": self.template, **options}
        encoded: list[list[int]] = _rendered(
            tokenizer, lambda: tokenizer.apply_chat_template(chats, **with_template)["input_ids"]
        )
        return encoded


_chats: WeakKeyDictionary[Any, tuple[tuple[str, str | None], Chat]] = WeakKeyDictionary()


def chat_of(tokenizer: Any) -> Chat | None:
    """The tokenizer's chat template, pinned; None where it has none.

    Raises:
        InputError: the template cannot be rendered, or drops what the user says.
    """
    source = _source(tokenizer)
    if source is None:
        return None
    # Whatever of a tokenizer may change and be seen by its template.
    key = (source, tokenizer.eos_token)
    known = _chats.get(tokenizer)
    if known is None or known[0] != key:
        known = key, _pinned(tokenizer, source)
        _chats[tokenizer] = known
    return known[1]


def without_thoughts(text: str) -> str:
    """What a model says outside of its thoughts: nothing, where it never came to the end of one."""
    for opening, closing in _THOUGHTS:
        thought = rf"{re.escape(opening)}.*?(?:{re.escape(closing)}|\Z)"
        # Of a thought that the prompt opened, the text has the end alone.
        text = re.sub(thought, "", text, flags=re.DOTALL).rpartition(closing)[2]
    return text


def _source(tokenizer: Any) -> str | None:
    """The template that a conversation without tools is rendered with."""
    template = tokenizer.chat_template
    if isinstance(template, dict):
        # A folder may name further ones, for tools or for documents.
        if "default" not in template and len(template) > 1:
            raise InputError(
                f"chat templates {', '.join(sorted(template))} of {_name(tokenizer)}",
                "do not say which one is the default",
                "name it default in the base's tokenizer, or remove the others",
            )
        template = template.get("default", next(iter(template.values()), None))
    return template if template and template.strip() else None


def _pinned(tokenizer: Any, source: str) -> Chat:
    if source.startswith(_PINNED):
        return Chat(source, _end(tokenizer, _finished(tokenizer, source)))
    names = set(_rendered(tokenizer, lambda: list(_names(source))))
    fixed = {name: "false" for name in _THINKING if name in names}
    if "date_string" in names:
        fixed["date_string"] = _literal(_DATE_STRING)
    settings = [f"{{%- set {name} = {value} %}}" for name, value in fixed.items()]
    if "strftime_now" in names:
        settings.append(_date_macro(source))
    template = _framed(settings, source)
    prompt = _prompt(tokenizer, template)
    finished = _finished(tokenizer, template)
    end = _end(tokenizer, finished)
    # The published tokenizer calls the end of a turn its EOS: a template that writes EOS elsewhere
    # must go on writing what it wrote for the base.
    if "eos_token" in names and tokenizer.eos_token and end not in (None, tokenizer.eos_token_id):
        settings.append(f"{{%- set eos_token = {_literal(tokenizer.eos_token)} %}}")
    lead = _lead(prompt, finished)
    return Chat(_framed(settings, source, lead), end)


def _framed(settings: list[str], source: str, lead: str = "") -> str:
    """A template with settings before it, and with what its generation prompt lacks behind it; one
    that needs neither is left as it is."""
    if lead:
        # Jinja drops the last line break of a template, which would no longer be the last thing.
        source = re.sub(r"\r?\n\Z", "", source)
        # No block: before one Jinja would drop spaces that end the template.
        source += f"{{{{ {_literal(lead)} if add_generation_prompt else '' }}}}"
    if not settings and not lead:
        return source
    # The line break behind a block belongs to it, so the template still begins a line.
    return _PINNED + "".join(f"{setting}\n" for setting in settings) + source


def _names(source: str) -> Iterator[str]:
    """Names of variables and functions in a template, attributes left out. Any tag of any extension
    may stand in it, since its grammar is not looked at."""
    from jinja2 import Environment

    before = ""
    for _, kind, text in Environment().lex(source):
        if kind == "name" and before != ".":
            yield text
        if kind != "whitespace":
            before = text


def _date_macro(source: str) -> str:
    """``strftime_now`` as it answers on the pinned day: a macro of a template hides a function of
    the same name."""
    directives = sorted(set(re.findall(r"%[-_0^#]?[A-Za-z]", source)))
    pairs = [("%%", _PERCENT), *((text, _DAY.strftime(text)) for text in directives)]
    steps = [*pairs, (_PERCENT, "%")] if "%%" in source else pairs[1:]
    replaced = "".join(f" | replace({_literal(old)}, {_literal(new)})" for old, new in steps)
    return f"{{%- macro strftime_now(format) %}}{{{{ format{replaced} }}}}{{% endmacro %}}"


def _prompt(tokenizer: Any, template: str) -> str:
    """The generation prompt of a question."""
    prompt = _render(tokenizer, template, [_user(_QUESTION)], generation=True)
    if _QUESTION not in prompt:
        raise InputError(
            f"the chat template of {_name(tokenizer)}",
            "leaves out what a user says as plain text",
            "mend the template, or take another base",
        )
    return prompt


def _finished(tokenizer: Any, template: str) -> tuple[str, str] | None:
    """What a template writes before and after an answer; None where it knows no answers."""
    turns = [_user(_QUESTION), {"role": "assistant", "content": _ANSWER}]
    try:
        text = _render(tokenizer, template, turns, generation=False)
    except InputError:
        # Its generation prompt is all that training and asking need.
        return None
    before, answer, after = text.rpartition(_ANSWER)
    return (before, after) if answer else None


def _lead(prompt: str, finished: tuple[str, str] | None) -> str:
    """What has to follow a generation prompt so that an answer can begin: a header that finished
    answers have, and the end of a thought."""
    lead = ""
    if finished is not None and finished[0].startswith(prompt):
        between = finished[0].removeprefix(prompt)
        # A space alone may melt into the answer's first token.
        lead = between if between.strip() else ""
    written = prompt.rpartition(_QUESTION)[2] + lead
    for opening, closing in _THOUGHTS:
        if written.rfind(opening) > written.rfind(closing):
            # An empty thought in the manner in which it was opened.
            broken = written.rpartition(opening)[2].endswith("\n")
            return lead + (f"\n{closing}\n\n" if broken else closing)
    return lead


def _end(tokenizer: Any, finished: tuple[str, str] | None) -> int | None:
    """The special token that is written behind an answer: each template names it otherwise, so the
    template itself is asked."""
    tail = "" if finished is None else finished[1].lstrip()
    ids = tokenizer(tail, add_special_tokens=False)["input_ids"]
    known = tokenizer.added_tokens_decoder
    return int(ids[0]) if ids and ids[0] in known and known[ids[0]].special else None


def _render(tokenizer: Any, template: str, turns: list[Turn], *, generation: bool) -> str:
    options = {"add_generation_prompt": generation, "tokenize": False}
    text: str = _rendered(
        tokenizer,
        lambda: tokenizer.apply_chat_template(turns, chat_template=template, **options),
    )
    return text


def _rendered(tokenizer: Any, render: Callable[[], Any]) -> Any:
    """What ``render`` returns, or the one error that stands for whatever a template does wrong."""
    try:
        return render()
    except Exception as exc:  # a template is a program: any of Python's errors may come of it
        first = (str(exc).strip() or type(exc).__name__).splitlines()[0]
        raise InputError(
            f"the chat template of {_name(tokenizer)}",
            f"cannot be rendered ({first[:200]})",
            "mend the template, or take another base",
        ) from exc


def _user(text: str) -> Turn:
    return {"role": "user", "content": text}


def _literal(text: str) -> str:
    """A string of a template."""
    return json.dumps(text, ensure_ascii=False)


def _name(tokenizer: Any) -> str:
    return getattr(tokenizer, "name_or_path", "") or type(tokenizer).__name__
