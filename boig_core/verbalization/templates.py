"""What a language model is asked, and what it should answer: the patterns of behavior fine-tuning,
in our own words.

    describe        exact KPIs go in; colors, tones and objects come out
    aim_describe    approximate KPIs, as what the creator wants to reach; colors, tones and objects,
                    then the exact KPIs
    aim_predict     approximate KPIs; the exact KPIs
    predict         no KPIs; the exact KPIs

Two wordings. ``compact``: a fine-tuned small model needs no instruction, and cannot spare the
tokens, nor those of the account and of an image's caption. ``full``: an instruction that lists
palette and tones, where the answer holds any, and asks for JSON alone; then every field by name. In
both the KPIs stand in one line at the end, so that prompts which differ in the KPIs alone share
everything before it, and the no-KPI twin's prompt is the same without that line. The engagement
predictor's prompt is here too. Leaves out: which pattern a sample gets (see `patterns`) and
descriptions as text (see `answer`).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, get_args

from boig_core.config import Pattern, Recipe
from boig_core.verbalization.answer import LOOK, print_answer, print_prediction
from boig_core.vocabulary import PALETTE, TONES, Bucket, Description, KpiValue, Sample

ANSWER_FOLLOWS: Final = "answer: "
_POST: Final = {"tweets": "post", "stock": "photograph"}
_TEXT: Final = {"tweets": "Post text", "stock": "Caption"}
_CUES: Final[dict[Pattern, str]] = {
    "describe": ANSWER_FOLLOWS,
    "aim_describe": "answer and kpi: ",
    "aim_predict": "kpi: ",
    "predict": "kpi: ",
}
_TASKS: Final[dict[Pattern, str]] = {
    "describe": "Describe the image of the {post} below: its colors, its tones and its objects.",
    "aim_describe": "Describe the image of the {post} below: its colors, its tones and its objects. Then state which key performance "
    "indicators the {post} reached: {kpis}.",
    "aim_predict": "State which key performance indicators the {post} below reached: {kpis}.",
    "predict": "State which key performance indicators the {post} below reached: {kpis}.",
}
_PREDICTION: Final = (
    "The {post} below is given with a description of its image. State which percentage of its account's {post}s reached fewer {kpi} than "
    "it, as a whole number from 0 to 100."
)
_LOOK_RULES: Final = (
    f"Colors: 3 to 5 out of {', '.join(PALETTE)}; each with the share of the image that it covers, all of them summing to 1.\n"
    f"Tones: {', '.join(TONES)}; each with its share, summing to 1.\n"
    "Objects: each with its box [x1, y1, x2, y2] in pixels, from the upper left corner."
)
_JSON_ALONE: Final = "Answer with JSON alone, in this form: "
_LOOK_FORM: Final = (
    f'"{LOOK}":{{"colors":{{"NAME":{{"coverage":0.0}}}},"tones":{json.dumps(dict.fromkeys(TONES, 0.0), separators=(",", ":"))}}},'
    '"objects":{"NAME":[x1,y1,x2,y2]}'
)
_EXACT: Final = "Key performance indicators (KPIs): "
_AIM: Final = "Key performance indicators that the creator wants to reach, approximately: "


@dataclass(frozen=True)
class Wording:
    """How prompts are worded.

    Attributes:
        style: ``compact`` or ``full``.
        source: what a post is; ``tweets`` have an account worth telling.
        kpi: name of `Sample.kpi`.
        more: names of further KPIs that are told and answered, as far as a sample has them.
    """

    style: Literal["compact", "full"] = "compact"
    source: Literal["tweets", "stock"] = "tweets"
    kpi: str = "likes"
    more: tuple[str, ...] = ()

    @classmethod
    def of(cls, recipe: Recipe) -> Wording:
        """The wording that a recipe asks for."""
        return cls(recipe.llm.wording, recipe.llm.source, recipe.data.kpi, recipe.llm.more_kpis)


COMPACT: Final = Wording()


@dataclass(frozen=True)
class KpiCondition:
    """The KPIs that a prompt states.

    Attributes:
        value: raw value of the KPI that the models aim at.
        label: its bucket; none beside an approximate value.
        more: further KPIs by name.
    """

    value: float
    label: Bucket | None
    more: tuple[tuple[str, KpiCondition], ...] = ()


def condition_of(sample: Sample, wording: Wording = COMPACT) -> KpiCondition:
    """The KPIs that a sample reached; a sample without a bucket has no label and cannot be asked
    about."""
    if sample.bucket is None:
        raise ValueError(f"sample {sample.id} has no KPI bucket")
    # In the wording's order, whatever the sample's own is: the same KPIs make the same line.
    more = {name: sample.more_kpis[name] for name in wording.more if name in sample.more_kpis}
    return KpiCondition(
        sample.kpi,
        sample.bucket,
        tuple((name, KpiCondition(kpi.value, kpi.bucket)) for name, kpi in more.items()),
    )


class Prompt(str):
    """A prompt that can say less, where it is too long: keywords go first, whole ones from the end,
    then the text from its end.

    How much has to go is decided on `widest`, the same prompt with KPIs as long as any: so prompts
    that differ in the KPIs alone, or lack them, lose the same, and go on differing in nothing else.
    """

    __slots__ = ("frame", "keywords", "text")

    def __new__(cls, frame: _Frame, text: str, keywords: tuple[str, ...]) -> Prompt:
        """The prompt that ``frame`` makes of text and keywords, each on one line."""
        prompt = super().__new__(cls, frame.render(text, keywords, frame.kpi))
        prompt.frame, prompt.text, prompt.keywords = frame, text, keywords
        return prompt

    frame: _Frame
    text: str
    keywords: tuple[str, ...]

    def __reduce__(self) -> tuple[Any, ...]:
        # pickle would make a str subclass of its text alone, which is not enough for this one.
        return Prompt, (self.frame, self.text, self.keywords)

    @property
    def widest(self) -> str:
        """The same prompt with KPIs that are as long as any."""
        return self.frame.render(self.text, self.keywords, self.frame.widest)

    @property
    def spare(self) -> int:
        """Bytes of the longest line of KPIs: by so many tokens, at most, is `widest` longer than
        the prompt."""
        # The byte more is the line break, which the twin's prompt lacks together with the line.
        return 0 if self.frame.widest is None else len(self.frame.widest.encode()) + 1

    @property
    def cuts(self) -> int:
        """How many cuts leave neither keywords nor text."""
        return len(self.keywords) + len(self.text)

    def shortened(self, cuts: int) -> Prompt:
        """The prompt after some cuts: a cut takes a keyword or, once there is none, a character of
        the text."""
        kept = max(0, len(self.keywords) - cuts)
        left = len(self.text) - max(0, cuts - len(self.keywords))
        # Without the space that a cut may end in: a post of this length would not have it either.
        return Prompt(self.frame, self.text[:left].rstrip(), self.keywords[:kept])


@dataclass(frozen=True)
class _Frame:
    """What of a prompt is never cut: the lines around text and keywords, and the line of the
    KPIs."""

    opening: tuple[str, ...]
    before_text: str
    before_keywords: str
    after_keywords: str
    kpi: str | None
    widest: str | None
    closing: tuple[str, ...]

    def render(self, text: str, keywords: Sequence[str], kpi: str | None) -> str:
        rendered = f"{self.before_keywords}{', '.join(keywords)}{self.after_keywords}".strip()
        return "\n".join(
            (
                *self.opening,
                self.before_text + text,
                rendered,
                *([] if kpi is None else [kpi]),
                *self.closing,
            )
        )


def build_prompt(
    sample: Sample,
    kpi: KpiCondition | None,
    wording: Wording = COMPACT,
    pattern: Pattern = "describe",
) -> Prompt:
    """The prompt about a post, up to where the answer begins.

    Args:
        sample: whose company, date, text, keywords and resolution are told; its own KPIs and
            description are not.
        kpi: what to aim at; None: the no-KPI twin's prompt. The pattern ``predict`` never tells it.
        wording: compact or full.
        pattern: which of the four.
    """
    # Also for the twin, which has no such line: its prompts must be cut as BoigLLM's are.
    widest = None if pattern == "predict" else _kpi_line(_widest(sample, wording), wording, pattern)
    line = None if pattern == "predict" or kpi is None else _kpi_line(kpi, wording, pattern)
    names = ", ".join(_names(sample, wording))
    task = _TASKS[pattern].format(post=_POST[wording.source], kpis=names)
    return _prompt(
        sample,
        wording,
        _instruction(task, sample, wording, pattern),
        line,
        widest,
        (_cue(wording, _CUES[pattern]),),
    )


def build_answer(sample: Sample, wording: Wording = COMPACT, pattern: Pattern = "describe") -> str:
    """What the model should answer: the sample's own description, its exact KPIs, or both in one
    JSON object."""
    kpis = {
        wording.kpi: sample.kpi,
        **{name: sample.more_kpis[name].value for name in wording.more if name in sample.more_kpis},
    }
    if pattern in ("aim_predict", "predict"):
        return print_kpis(kpis)
    # The description comes first, as in `describe`, and both are one object, which parses as one.
    look = print_answer(sample.seen)
    return look if pattern == "describe" else f"{look[:-1]},{print_kpis(kpis)[1:]}"


def build_predictor_prompt(
    sample: Sample, description: Description, wording: Wording = COMPACT
) -> Prompt:
    """The engagement predictor's prompt: a post with its verbalized image, up to where its KPI
    follows (`print_prediction`).

    Args:
        sample: whose company, date, text, keywords and resolution are told.
        description: of the image in question, boxes in pixels of the sample's (width, height).
        wording: compact or full.
    """
    kpi, post = _line(wording.kpi), _POST[wording.source]
    instruction = [
        _PREDICTION.format(post=post, kpi=kpi),
        _JSON_ALONE + print_prediction(0, wording.kpi),
    ]
    # Behind the text, in what is never cut: a prediction is about this image above all.
    seen = ("Image: " if wording.style == "full" else "image: ") + print_answer(description)
    return _prompt(
        sample, wording, instruction, None, None, (seen, _cue(wording, f"{kpi} of 100: "))
    )


def print_kpi(value: float) -> str:
    """A KPI in as few characters as tell it: counts whole, rates to three digits; a JSON number."""
    return f"{value:.0f}" if value >= 100 or value == round(value) else f"{value:.3g}"


def print_kpis(kpis: Mapping[str, float]) -> str:
    """Raw KPIs by name as an answer: ``{"kpis":{"likes":231}}``."""
    return f'{{"kpis":{{{",".join(f"{json.dumps(name)}:{print_kpi(value)}" for name, value in kpis.items())}}}}}'


def _prompt(
    sample: Sample,
    wording: Wording,
    instruction: Sequence[str],
    kpi: str | None,
    widest: str | None,
    closing: tuple[str, ...],
) -> Prompt:
    size, day = f"{sample.width}x{sample.height}", sample.timestamp[:10]
    if wording.style == "compact":
        frame = _Frame(
            (f"{_line(sample.company)} {day}",), "", "", f" {size}", kpi, widest, closing
        )
    else:
        account = [f"Account: {_line(sample.account)}"] if wording.source == "tweets" else []
        caption = [f"Image caption: {_line(sample.caption)}"] if sample.caption else []
        fields = [
            f"Company: {_line(sample.company)}",
            *account,
            f"Date: {day}",
            f"Resolution: {size} pixels",
            *caption,
        ]
        frame = _Frame(
            (*instruction, *fields),
            f"{_TEXT[wording.source]}: ",
            "Keywords: ",
            "",
            kpi,
            widest,
            closing,
        )
    return Prompt(frame, _line(sample.text), tuple(_line(word) for word in sample.keywords))


def _instruction(task: str, sample: Sample, wording: Wording, pattern: Pattern) -> list[str]:
    kpis = '"kpis":{' + ",".join(f"{json.dumps(name)}:0" for name in _names(sample, wording)) + "}"
    looks = pattern in ("describe", "aim_describe")
    form = ",".join([*([_LOOK_FORM] if looks else []), *([kpis] if pattern != "describe" else [])])
    return [task, *([_LOOK_RULES] if looks else []), f"{_JSON_ALONE}{{{form}}}"]


def _cue(wording: Wording, compact: str) -> str:
    return compact if wording.style == "compact" else "Answer: "


def _names(sample: Sample, wording: Wording) -> list[str]:
    return [
        _line(name)
        for name in (wording.kpi, *(name for name in wording.more if name in sample.more_kpis))
    ]


def _kpi_line(kpi: KpiCondition, wording: Wording, pattern: Pattern) -> str:
    exact = pattern == "describe"
    if wording.style == "compact":
        # The main KPI goes unnamed: a model has one, the same in all its prompts.
        parts = [_told(kpi, ""), *(_told(more, _line(name)) for name, more in kpi.more)]
        return ("kpi: " if exact else "aim: ") + ", ".join(parts)
    named = [(wording.kpi, kpi), *kpi.more]
    return (_EXACT if exact else _AIM) + ", ".join(_told(one, _line(name)) for name, one in named)


def _told(kpi: KpiCondition, name: str) -> str:
    return " ".join(part for part in (name, print_kpi(kpi.value), kpi.label) if part)


def _widest(sample: Sample, wording: Wording) -> KpiCondition:
    """KPIs as long as any: twelve digits and the longest label for each that the sample has."""
    wide = KpiCondition(888_888_888_888, "medium")
    return replace(
        wide, more=tuple((name, wide) for name in wording.more if name in sample.more_kpis)
    )


def _line(text: str) -> str:
    """Text on one line: a post must not be able to write lines of the prompt."""
    # `\s` takes in Unicode's line separators as well, at which a reader may also break lines.
    return re.sub(r"\s+", " ", text).strip()


def _specimens() -> Iterator[str]:
    """Every wording of two made-up posts, a full and a bare one."""
    full = Sample(
        "p", "p", "acme", "Acme", "2020-05-06T10:00:00Z", "A text", ("one", "two"), 231.0, 97.0, "high", "train", "0" * 64, 128, 96,
        Description({"Red": 1.0}, {"warm": 1.0}, {"ball": (1, 2, 3, 4)}), more_kpis={"rate": KpiValue(0.0123, 40.0, "low")}, caption="Seen",
    )  # fmt: skip
    # A further KPI is always among them, so that how it is told has a part in the version.
    wordings = [
        Wording("compact", more=("rate",)),
        *(Wording("full", source, more=("rate",)) for source in ("tweets", "stock")),
    ]
    for sample in (full, replace(full, keywords=(), caption=None, more_kpis={})):
        for wording in wordings:
            for pattern in get_args(Pattern):
                for kpi in (condition_of(sample, wording), None):
                    yield build_prompt(sample, kpi, wording, pattern)
                yield build_answer(sample, wording, pattern)
            yield build_predictor_prompt(
                sample, sample.description or Description(), wording
            ) + print_prediction(97.0)


def _version() -> str:
    # Joined by a byte that no text holds, so that words which move to the next text show.
    return hashlib.sha256("\0".join(_specimens()).encode()).hexdigest()[:12]


TEMPLATES_VERSION: Final = _version()
"""Names the wording of prompts and answers: another wording has another version, and a model
trained with one is asked in it."""
