"""Numbers as exports write them: a number written in any unambiguous form reads back equal."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boig_core.data.cells.numbers import is_count, read_number

GROUPS = {"point": [",", " ", "\u00a0", "\u202f", "'", "’", ""], "comma": [".", " ", "\u202f", ""]}
DECIMALS = {"point": ".", "comma": ","}
SUFFIXES = {3: ["K", "k", " Tsd.", " тыс"], 6: ["M", "m", " Mio", " Mio."], 9: ["B", " Mrd."]}
FULL_WIDTH = str.maketrans("0123456789", "０１２３４５６７８９")


def grouped(whole: int, sign: str) -> str:
    return f"{whole:,}".replace(",", sign)


@given(
    whole=st.integers(0, 10**12),
    decimals=st.text("0123456789", max_size=6),
    convention=st.sampled_from(["point", "comma"]),
    group=st.integers(0, 6),
    plus=st.booleans(),
    wide=st.booleans(),
)
def test_a_number_in_any_form_reads_back_equal_or_open(
    whole: int, decimals: str, convention: str, group: int, plus: bool, wide: bool
) -> None:
    signs = GROUPS[convention]
    text = "+" * plus + grouped(whole, signs[group % len(signs)])
    text += (DECIMALS[convention] + decimals) * bool(decimals)
    readings = read_number(text.translate(FULL_WIDTH) if wide else text)
    # Never another value: the convention that wrote it always reads it.
    assert readings[convention] == float(f"{whole}.{decimals or 0}")  # type: ignore[index]
    if len(set(readings.values())) > 1:
        # Open is only what has one sign and three digits after it.
        digits = text.lstrip("+").replace(",", ".").split(".")
        assert len(digits) == 2
        assert len(digits[1]) == 3
        assert 1 <= len(digits[0]) <= 3
        assert digits[0][0] != "0"


@given(
    tenths=st.integers(0, 9999),
    power=st.sampled_from([3, 6, 9]),
    which=st.integers(0, 3),
    convention=st.sampled_from(["point", "comma"]),
)
def test_abbreviated_counts_are_exact(tenths: int, power: int, which: int, convention: str) -> None:
    suffix = SUFFIXES[power][which % len(SUFFIXES[power])]
    text = f"{tenths // 10}{DECIMALS[convention]}{tenths % 10}{suffix}"
    assert read_number(text) == {convention: tenths * 10 ** (power - 1)}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("12e2", 1200),
        ("1.48E+05", 148_000),
        ("12,34,567", 1_234_567),
        ("1,234,567.5", 1_234_567.5),
        ("1.234.567,5", 1_234_567.5),
        ("3.4%", 0.034),
        ("3,4 %", 0.034),
        ("0.034", 0.034),
        ("0,034", 0.034),
        ("1.2345", 1.2345),
        ("1234.567", 1234.567),
        ("1.2万", 12_000),
        ("1.2 lakh", 120_000),
        (" 7 ", 7),
        ("٤٢", 42),
        ("-1", -1),
        ("−1", -1),
    ],
)
def test_a_form_with_one_reading(text: str, value: float) -> None:
    assert set(read_number(text).values()) == {value}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nan",
        "inf",
        "1_000",
        "1 23",
        "1,2,3",
        "1.2.3",
        "0,123,456",
        "10²",
        "1-2",
        "10K+",
        "~5",
        "$5",
        "5 likes",
        "1.2 mil",
        "0x10",
        "1e",
        "1e2e3",
        "٫5",
        "1" * 65,
        ",",
        ".",
        "K",
        "%",
        "+",
    ],
)
def test_what_is_no_number(text: str) -> None:
    assert read_number(text) == {}


def test_numbers_too_large_for_a_float_are_infinite() -> None:
    assert math.inf in read_number("9e999").values()


@pytest.mark.parametrize(
    "column",
    [
        "likes",
        "Likes",
        "like_count",
        "stats.totalViews",
        "Total likes",
        "share count",
        "Reactions, Comments and Shares",
    ],
)
def test_names_of_counts(column: str) -> None:
    assert is_count(column)


@pytest.mark.parametrize(
    "column",
    [
        "clicks/impressions",
        "engagement_rate",
        "avg_likes",
        "likes per post",
        "share",
        "views_k",
        "ctr",
        "discount",
        "Likes (mean)",
        "share of likes",
        "",
        ".",
    ],
)
def test_names_that_say_nothing(column: str) -> None:
    assert not is_count(column)
