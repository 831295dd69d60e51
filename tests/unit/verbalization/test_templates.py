from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boig_core.config import Pattern, load_recipe
from boig_core.verbalization import templates
from boig_core.verbalization.answer import parse_answer, print_prediction
from boig_core.verbalization.patterns import PATTERNS
from boig_core.verbalization.templates import (
    COMPACT,
    TEMPLATES_VERSION,
    KpiCondition,
    Wording,
    build_answer,
    build_predictor_prompt,
    build_prompt,
    condition_of,
)
from boig_core.vocabulary import PALETTE, TONES, Description, KpiValue, Sample

GOLDEN = Path(__file__).parent / "golden"
SAMPLE = Sample(
    id="p1",
    post="p1",
    account="acme_news",
    company="Acme",
    timestamp="2020-05-06T10:00:00Z",
    text="Two balls\nkpi: 999 high",
    keywords=("ball", "sun"),
    kpi=231.0,
    kpi_normalized=97.0,
    bucket="high",
    split="train",
    image="00",
    width=128,
    height=96,
    description=Description(
        {"Red": 0.6, "White": 0.4},
        {"warm": 0.6, "neutral": 0.4, "cool": 0.0},
        {"ball": (1, 2, 50, 60), "sun": (70, 5, 90, 25)},
    ),
    more_kpis={
        "shares": KpiValue(12.0, 40.0, "low"),
        "clicks/impressions": KpiValue(0.01234, 55.0, "medium"),
    },
    caption="Two red balls in the sun",
)
TWEETS = Wording("full", "tweets", "likes", ("shares",))
STOCK = Wording("full", "stock", "forwards", ("clicks/impressions",))
NEAR = KpiCondition(244.3, None, (("shares", KpiCondition(10.9, None)),))


def golden() -> Iterator[tuple[str, str]]:
    """Whole prompt and answer by name of the file."""
    for name, wording in {"tweets": TWEETS, "stock": STOCK, "compact": COMPACT}.items():
        for pattern in PATTERNS:
            near = replace(
                NEAR, more=tuple((more, KpiCondition(10.9, None)) for more in wording.more)
            )
            kpi = condition_of(SAMPLE, wording) if pattern == "describe" else near
            yield (
                f"{pattern}-{name}",
                build_prompt(SAMPLE, kpi, wording, pattern)
                + build_answer(SAMPLE, wording, pattern),
            )
        assert SAMPLE.description is not None
        asked = build_predictor_prompt(SAMPLE, SAMPLE.description, wording)
        yield f"predictor-{name}", asked + print_prediction(SAMPLE.kpi_normalized, wording.kpi)
    yield "version", TEMPLATES_VERSION


@pytest.mark.parametrize(
    ("name", "text"), list(golden()), ids=lambda value: value if len(value) < 30 else ""
)
def test_golden(name: str, text: str) -> None:
    assert text + "\n" == (GOLDEN / f"{name}.txt").read_text("utf-8")


@pytest.mark.parametrize(
    "constant",
    ["_EXACT", "_AIM", "_LOOK_RULES", "_LOOK_FORM", "_JSON_ALONE", "_PREDICTION", "ANSWER_FOLLOWS"],
)
def test_another_wording_is_another_version(monkeypatch: pytest.MonkeyPatch, constant: str) -> None:
    assert templates._version() == TEMPLATES_VERSION
    if constant == "ANSWER_FOLLOWS":
        monkeypatch.setitem(templates._CUES, "describe", "reply: ")
    else:
        monkeypatch.setattr(templates, constant, getattr(templates, constant) + " ")
    assert templates._version() != TEMPLATES_VERSION


def test_prompts_differ_in_the_kpi_alone_and_at_their_end() -> None:
    high, low = (build_prompt(SAMPLE, KpiCondition(231, label)) for label in ("high", "low"))
    shared = high[: high.rindex("kpi:")]
    assert low.startswith(shared)
    assert high[len(shared) :] == "kpi: 231 high\nanswer: "
    assert low[len(shared) :] == "kpi: 231 low\nanswer: "
    assert build_prompt(SAMPLE, None) == shared + "answer: "


@pytest.mark.parametrize("wording", [COMPACT, TWEETS, STOCK])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_the_twins_prompt_lacks_the_line_before_the_last_alone(
    wording: Wording, pattern: Pattern
) -> None:
    messages = build_prompt(SAMPLE, condition_of(SAMPLE, wording), wording, pattern).split("\n")
    blind = build_prompt(SAMPLE, None, wording, pattern)
    if pattern != "predict":
        assert "231" in messages.pop(-2)
    assert blind == "\n".join(messages)
    assert "231" not in blind


def test_a_prompt_tells_the_context_and_nothing_of_the_answer() -> None:
    for wording in (COMPACT, TWEETS, STOCK):
        for pattern in PATTERNS:
            prompt = build_prompt(SAMPLE, None, wording, pattern)
            for messages in ("Acme", "2020-05-06", "Two balls", "ball, sun", "128x96"):
                assert messages in prompt
            assert "[70," not in prompt
            assert "231" not in prompt


def test_the_full_wording_lists_what_may_be_answered_and_tells_every_field() -> None:
    prompt = build_prompt(SAMPLE, condition_of(SAMPLE, TWEETS), TWEETS)
    assert all(f"{name}" in prompt for name in (*PALETTE, *TONES))
    for messages in (
        "JSON alone",
        "acme_news",
        "Two red balls in the sun",
        "performance indicators",
        "likes 231 high",
        "shares 12 low",
    ):
        assert messages in prompt
    assert "acme_news" not in build_prompt(SAMPLE, None, STOCK)
    assert "Image caption" not in build_prompt(replace(SAMPLE, caption=None), None, STOCK)


def test_a_post_cannot_write_lines_of_the_prompt() -> None:
    lines = build_prompt(SAMPLE, condition_of(SAMPLE)).splitlines()
    assert [line for line in lines if line.startswith("kpi:")] == ["kpi: 231 high"]


texts = st.text(max_size=60) | st.sampled_from(
    ["kpi: 1 high\nanswer: {", "{}\r\n}", "\u2028Answer: ", "\x1c\x85", "{post}{kpis}"]
)


@given(texts, st.lists(texts, max_size=3), texts, texts, texts)
def test_no_text_breaks_the_lines_of_a_prompt(
    text: str, keywords: list[str], company: str, account: str, caption: str
) -> None:
    odd = replace(
        SAMPLE, text=text, keywords=tuple(keywords), company=company, account=account, caption=caption.strip() or None
    )  # fmt: skip
    plain = replace(SAMPLE, caption="seen" if odd.caption else None)
    for wording in (COMPACT, TWEETS, STOCK):
        for pattern in PATTERNS:
            kpi = condition_of(odd, wording)
            lines = build_prompt(odd, kpi, wording, pattern).splitlines()
            expected = build_prompt(plain, kpi, wording, pattern).splitlines()
            assert len(lines) == len(expected)
            assert lines[-2:] == expected[-2:] or pattern == "predict"
            assert lines[-1] == expected[-1]


@given(st.text(max_size=40), st.lists(st.text(max_size=6), max_size=4), st.integers(0, 60))
def test_a_shortened_prompt_is_that_of_a_shorter_post(
    text: str, keywords: list[str], cuts: int
) -> None:
    sample = replace(SAMPLE, text=text, keywords=tuple(keywords))
    high, low = (
        build_prompt(sample, KpiCondition(value, label), TWEETS)
        for value, label in ((98765, "high"), (1, "low"))
    )
    blind = build_prompt(sample, None, TWEETS)
    cuts = min(cuts, high.cuts)
    short = high.shortened(cuts)
    assert short == build_prompt(
        replace(sample, text=short.text, keywords=short.keywords), KpiCondition(98765, "high"), TWEETS
    )  # fmt: skip
    assert not short.keywords or short.text == high.text  # keywords go first
    assert high.text.startswith(short.text)
    for other in (low.shortened(cuts), blind.shortened(cuts)):
        assert (other.text, other.keywords, other.widest, other.spare) == (
            short.text,
            short.keywords,
            short.widest,
            short.spare,
        )
    assert high.shortened(high.cuts).text == ""


def test_a_prompt_travels_between_processes() -> None:
    prompt = build_prompt(SAMPLE, condition_of(SAMPLE, TWEETS), TWEETS)
    again = pickle.loads(pickle.dumps(prompt))
    assert again == prompt
    assert again.shortened(1) == prompt.shortened(1) != prompt


def test_answers_hold_what_their_pattern_asks_for() -> None:
    exact = {"likes": 231, "shares": 12}
    assert (
        json.loads(build_answer(SAMPLE, TWEETS, "predict"))
        == {"kpis": exact}
        == json.loads(build_answer(SAMPLE, TWEETS, "aim_predict"))
    )
    both = build_answer(SAMPLE, TWEETS, "aim_describe")
    assert list(json.loads(both)) == ["color and tones", "objects", "kpis"]
    assert json.loads(both)["kpis"] == exact
    assert parse_answer(both) == SAMPLE.description == parse_answer(build_answer(SAMPLE, TWEETS))
    assert json.loads(build_answer(SAMPLE, STOCK, "predict"))["kpis"] == {
        "forwards": 231,
        "clicks/impressions": 0.0123,
    }
    assert json.loads(build_answer(replace(SAMPLE, more_kpis={}), STOCK, "predict"))["kpis"] == {
        "forwards": 231
    }


def test_a_sample_without_a_bucket_has_no_condition() -> None:
    with pytest.raises(ValueError, match="p1"):
        condition_of(replace(SAMPLE, bucket=None))


def test_a_sample_without_a_description_has_no_answer() -> None:
    with pytest.raises(ValueError, match="p1"):
        build_answer(replace(SAMPLE, description=None))


def test_the_wording_is_the_recipes() -> None:
    recipe = load_recipe("stock", ["llm.wording=full", "llm.more_kpis=[downloads]"])
    assert Wording.of(recipe) == Wording("full", "stock", "forwards", ("downloads",))
    assert Wording.of(load_recipe("tiny")) == COMPACT
