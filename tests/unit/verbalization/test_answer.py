"""ANSWER: one text for one description, and nothing but an ANSWER parses."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boig_core.errors import InputError
from boig_core.verbalization.answer import (
    parse_answer,
    parse_prediction,
    print_answer,
    print_prediction,
    to_answer,
)
from boig_core.vocabulary import PALETTE, Description

SEEN = Description(
    colors={"White": 0.25, "Red": 0.4, "Blue": 0.35},
    tones={"cool": 0.35, "warm": 0.4, "neutral": 0.25},
    objects={"ball": (1.0, 2.0, 5.0, 6.0), "tent": (10.4, 20.6, 90.0, 80.0)},
)


def test_canonical_text() -> None:
    assert print_answer(SEEN) == (
        '{"color and tones":{"colors":{"Red":{"coverage":0.40},"Blue":{"coverage":0.35},"White":{"coverage":0.25}},'
        '"tones":{"warm":0.40,"neutral":0.25,"cool":0.35}},"objects":{"tent":[10,21,90,80],"ball":[1,2,5,6]}}'
    )


def test_tree_has_the_shape_of_the_paper() -> None:
    tree = to_answer(SEEN)
    assert tree["color and tones"]["colors"]["Red"] == {"coverage": 0.4}
    assert list(tree["color and tones"]["tones"]) == ["warm", "neutral", "cool"]
    assert tree["objects"]["tent"] == [10.4, 20.6, 90.0, 80.0]
    assert parse_answer(json.dumps(tree)) == SEEN


def test_nothing_seen_is_an_answer() -> None:
    assert parse_answer(print_answer(Description())) == Description()


shares = st.floats(0, 1)
edges = st.floats(0, 500)
boxes = st.tuples(edges, edges, edges, edges).map(
    lambda e: (min(e[0], e[1]), min(e[2], e[3]), max(e[0], e[1]), max(e[2], e[3]))
)
descriptions = st.builds(
    Description,
    st.dictionaries(st.sampled_from(sorted(PALETTE)), shares, max_size=5),
    st.fixed_dictionaries({"warm": shares, "neutral": shares, "cool": shares}),
    st.dictionaries(st.text(min_size=1, max_size=8), boxes, max_size=3),
)


@given(descriptions)
def test_printing_what_was_parsed_gives_the_same_text(description: Description) -> None:
    text = print_answer(description)
    parsed = parse_answer(text)
    assert print_answer(parsed) == text
    assert parsed.colors.keys() == description.colors.keys()
    for name, box in description.objects.items():
        assert parsed.objects[name] == pytest.approx(box, abs=0.5001)


LOOK = '"color and tones":{"colors":{},"tones":{}}'


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("", "is not JSON"),
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("9" * 5000, "is not JSON"),
        ("a\nb" * 9, "^a ba ba"),
        ("[]", "must be a JSON object"),
        ('{"objects":{}}', '"color and tones": is missing'),
        ("{" + LOOK + "}", '"objects": is missing'),
        (
            '{"color and tones":{"colors":{"Reddish":{"coverage":1}},"tones":{}},"objects":{}}',
            "is no color of the palette",
        ),
        (
            '{"color and tones":{"colors":{"Red":{"coverage":1.5}},"tones":{}},"objects":{}}',
            r"must be a number in \[0, 1\]",
        ),
        (
            '{"color and tones":{"colors":{"Red":{"coverage":true}},"tones":{}},"objects":{}}',
            r"must be a number in \[0, 1\]",
        ),
        (
            '{"color and tones":{"colors":{"Red":{"coverage":NaN}},"tones":{}},"objects":{}}',
            "is no number",
        ),
        ('{"color and tones":{"colors":{},"tones":{"hot":1}},"objects":{}}', "is no tone"),
        ("{" + LOOK + ',"objects":{"a":[1,2,3]}}', "must be four finite numbers"),
        ("{" + LOOK + ',"objects":{"a":[1e999,2,3,4]}}', "must be four finite numbers"),
        ("{" + LOOK + ',"objects":{"a":[1,2,3,' + "9" * 400 + "]}}", "must be four finite numbers"),
        ("{" + LOOK + r',"objects":{"a\ud800":[1,2,3,4]}}', r"^a\?: holds half a character"),
        (
            '{"color and tones":{"colors":{"Red":{"coverage":' + "9" * 400 + '}},"tones":{}}}',
            r"must be a number in \[0, 1\]",
        ),
        ("{" + LOOK + ',"objects":{"a":[5,2,3,4]}}', "x1 <= x2"),
        ("{" + LOOK + ',"objects":{"a":[1,2,3,4],"a":[1,2,3,4]}}', "names a key twice"),
    ],
)
def test_what_is_no_answer_is_refused(text: str, rule: str) -> None:
    with pytest.raises(InputError, match=rule):
        parse_answer(text)


@given(st.floats(0, 100), st.sampled_from(["likes", 'clicks/"impressions"']))
def test_a_prediction_is_read_back_as_a_whole_number(normalized: float, kpi: str) -> None:
    assert parse_prediction(print_prediction(normalized, kpi), kpi) == pytest.approx(
        normalized, abs=0.5
    )
    assert print_prediction(97.4) == '{"likes":97}'


@pytest.mark.parametrize(
    "text",
    ["", "97", "[97]", "{}", '{"likes":101}', '{"likes":-1}', '{"likes":9.5}', '{"likes":true}', '{"likes":"9"}', '{"shares":9}',
     '{"likes":9,"shares":8}', '{"likes":9,"likes":9}', '{"likes":NaN}', "{" * 100_000],
)  # fmt: skip
def test_what_is_no_prediction_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"write \{\"likes\":50\}") as caught:
        parse_prediction(text)
    assert "\n" not in str(caught.value)
