"""Values of a row: what is missing, what is an id, and what messages say of the rest."""

import json
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from boig_core.config import Data
from boig_core.data.cells.values import as_name, is_missing, label, plain
from boig_core.data.posts import Reject, accept
from tests.unit.data.reading import GOOD, read_all
from tests.unit.data.reading import read as read_lines

NAN = float("nan")
NOTHING: list[Any] = [
    None,
    NAN,
    "",
    "  ",
    "nan",
    "NaN",
    "NaT",
    "null",
    "NULL",
    "None",
    "N/A",
    "#N/A",
    "<NA>",
]
NOTHING += ["-", "\\N", "\ufeff", "undefined", "#DIV/0!", Decimal("nan")]


def verdict(**change: Any) -> Any:
    """Post or reject of a row."""
    [result] = accept("f", [(1, {**GOOD, **change})], Data(more_kpis=("shares",), min_text=0))
    return result if isinstance(result, Reject) else result[1]


@pytest.mark.parametrize("nothing", NOTHING)
def test_what_table_programs_write_for_nothing_is_missing(nothing: Any) -> None:
    for column in ("id", "account", "timestamp", "text", "image", "likes"):
        reject = verdict(**{column: nothing})
        assert (reject.code, reject.reason) == ("missing_field", f"{column} is missing")
    post = verdict(company=nothing, shares=nothing, licence=nothing, keywords=nothing)
    assert (post.company, post.kpis, post.licence) == ("verde_official", (12.0, None), None)
    assert "tent" in post.keywords


@given(st.integers(0, 2**53 - 1))
def test_an_id_is_the_same_in_any_type(number: int) -> None:
    forms: list[Any] = [number, str(number), f" {number}\n", float(number), str(number).encode()]
    assert {as_name(form, "id", 99) for form in [*forms, Decimal(number)]} == {str(number)}


@pytest.mark.parametrize(
    "value", [1.48e18, "1.48E+18", "1,48E+18", "1.48e+18", "1480000000000000000.0", 2.0**53]
)
def test_an_id_that_has_lost_digits_says_so(value: Any) -> None:
    reject = verdict(id=value)
    assert reject.code == "missing_field"
    assert "lost its last digits in a spreadsheet" in reject.reason
    assert "as text" in reject.reason


def test_ids_that_only_look_like_that_stay() -> None:
    values = [2**60, str(2**60), "12e4", "1e10", "12345.0", 12.5, "E+18"]
    assert [verdict(id=value).id for value in values] == [
        str(2**60), str(2**60), "12e4", "1e10", "12345.0", "12.5", "E+18",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        ({"text": {"text": "x", "lang": "en"}}, "missing_field", "object with text, lang"),
        ({"account": ["x"]}, "missing_field", "is no text"),
        ({"account": True}, "missing_field", "is no text"),
        ({"text": b"\xff\xfe"}, "missing_field", "bytes that are no text"),
        ({"likes": {"count": 3}}, "bad_kpi", "object with count"),
        ({"likes": True}, "bad_kpi", "is not a number"),
        ({"likes": -1}, "bad_kpi", "-1 for a hidden count"),
        ({"likes": "-1"}, "bad_kpi", "hidden"),
        ({"likes": -2}, "bad_kpi", "at least 0"),
        ({"likes": float("inf")}, "bad_kpi", "at least 0"),
        ({"likes": "9e999"}, "bad_kpi", "at least 0"),
        ({"likes": 10**400}, "bad_kpi", "at least 0"),
        ({"likes": "1_000"}, "bad_kpi", "at least 0"),
        ({"timestamp": {"date": 1}}, "bad_timestamp", "no time"),
        ({"timestamp": "0001-01-01T00:00:00+05:00"}, "bad_timestamp", "calendar"),
    ],
)
def test_what_a_reject_says(change: dict[str, Any], code: str, words: str) -> None:
    reject = verdict(**change)
    assert reject.code == code
    assert words in reject.reason


def test_names_are_one_line() -> None:
    post = verdict(id=" 7\t", account="\ufeffver\x00de \n official ", company="CafÃ© 1")
    assert (post.id, post.account, post.company) == ("7", "verde official", "Café 1")


def test_whole_floats_match_the_texts_of_a_recipe() -> None:
    assert [label(value) for value in (2023.0, 2023, "2023", NAN, "nan", True)] == [
        "2023", "2023", "2023", None, None, "True",
    ]  # fmt: skip


def test_a_message_names_the_mapped_column_and_what_is_there(tmp_path: Path) -> None:
    row = {key: value for key, value in GOOD.items() if key != "timestamp"}
    _, [reject] = read_lines(tmp_path, row, columns={"timestamp": "Publish time"})
    assert reject.reason == (
        "timestamp (your column 'Publish time') is missing: there is no column 'Publish time', but "
        "account, company, id, image, likes, text (data.columns names another)"
    )
    _, [reject] = read_lines(
        tmp_path, {**row, "Publish time": ""}, columns={"timestamp": "Publish time"}
    )
    assert reject.reason == "timestamp (your column 'Publish time') is missing"
    wide = {**row, **{f"column {i}": i for i in range(10_000)}}
    _, [reject] = read_lines(tmp_path, wide)
    assert len(reject.reason) < 600


def test_parquet_brings_bytes_decimals_and_times_out_of_range(tmp_path: Path) -> None:
    table: dict[str, Any] = {
        "id": pa.array([b"1", b"2", b"3"], pa.binary()),
        "account": pa.array([b"verd\xc3\xa9", b"\xff", b"x"], pa.binary()),
        "text": pa.array([GOOD["text"].encode()] * 3, pa.binary()),
        "timestamp": pa.array([0, 10**15, 2**62], pa.timestamp("us")),
        "image": pa.array(["1.png"] * 3),
        "likes": pa.array([Decimal("1.234"), Decimal("5.000"), Decimal("7.000")]),
    }
    pq.write_table(pa.table(table), tmp_path / "posts.parquet")
    posts, rejects = read_all(tmp_path)
    assert [(post.id, post.account, post.kpis) for _, post in posts] == [("1", "verdé", (1.234,))]
    assert [(reject.line, reject.code) for reject in rejects] == [
        (2, "encoding"),
        (3, "bad_timestamp"),
    ]


def test_values_that_json_lacks() -> None:
    values = [b"caf\xc3\xa9", Decimal("1.50"), Decimal(2**70), datetime(2023, 5, 1)]
    assert json.dumps(values, default=plain) == json.dumps(
        ["café", 1.5, 2**70, "2023-05-01 00:00:00"]
    )
    assert is_missing(NAN)
    assert not is_missing(0)
    assert not is_missing(False)
