"""What a file's own values settle: the order of rows does not matter, and nothing is guessed."""

import json
import random
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boig_core.config import Data
from boig_core.data.cells.conventions import Conventions
from boig_core.data.posts import Post, Reject, accept, accept_again
from boig_core.storage.period import Period
from tests.unit.data.reading import GOOD


def rows_of(column: str, values: list[Any]) -> list[tuple[int, dict[str, Any]]]:
    # A column whose name says nothing: that of likes says that it has no decimals.
    return [
        (i, {**GOOD, "id": str(i), "score": 1, column: value})
        for i, value in enumerate(values, start=1)
    ]


def read(column: str, values: list[Any], **rules: Any) -> tuple[dict[str, Post], list[Reject]]:
    data = Data(**{"kpi": "score", **rules})
    result = list(accept("f", rows_of(column, values), data))
    posts = [item[1] for item in result if not isinstance(item, Reject)]
    return {post.id: post for post in posts}, [item for item in result if isinstance(item, Reject)]


@pytest.mark.parametrize(
    ("proof", "open_value", "value"),
    [
        ("1,234,567", "4,290", 4290),
        ("12.5", "4,290", 4290),
        ("1.2K", "4,290", 4290),
        ("0.034", "1.234", 1.234),
        ("12,5", "4.290", 4290),
        ("1.234,5", "4,290", 4.29),
        ("1,5 Mio.", "4.290", 4290),
    ],
)
def test_other_values_of_the_column_settle_a_number(
    proof: str, open_value: str, value: float
) -> None:
    for values in ([proof, open_value], [open_value, proof]):
        posts, rejects = read("score", values)
        assert rejects == []
        assert value in {post.kpis[0] for post in posts.values()}


def test_a_number_that_nothing_settles_is_a_reject_that_names_the_field() -> None:
    posts, [first, second] = read("score", ["1,234", 1.5, "77", "1.234"])
    assert set(posts) == {"2", "3"}
    for reject in (first, second):
        assert reject.code == "bad_kpi"
        assert "1234 or 1.234" in reject.reason or "1.234 or 1234" in reject.reason
        assert "data.numbers" in reject.reason
    posts, [both] = read("score", ["1,234", "1,5", "2.5"])
    assert "both ways" in both.reason
    posts, rejects = read("score", ["1,234", "1.234"], numbers="point")
    assert ([post.kpis for post in posts.values()], rejects) == ([(1234.0,), (1.234,)], [])
    posts, rejects = read("score", ["1,234", "1.234"], numbers="comma")
    assert ([post.kpis for post in posts.values()], rejects) == ([(1.234,), (1234.0,)], [])


def test_a_value_that_the_recipe_rules_out_is_a_reject() -> None:
    _, [number] = read("score", ["1,5"], numbers="point")
    _, [day] = read("timestamp", ["31/05/2023"], dates="month-first")
    assert (number.code, day.code) == ("bad_kpi", "bad_timestamp")
    assert "data.numbers" in number.reason
    assert "data.dates" in day.reason


def test_counts_are_whole() -> None:
    """An export that writes its popular posts as 1,234 must not lose exactly those."""
    posts, rejects = read("likes", ["987", "4,290", "12.345"], kpi="likes")
    assert ([post.kpis[0] for post in posts.values()], rejects) == ([987, 4290, 12345], [])
    # 3,000 is whole in both ways: the others show which is meant, or nothing does.
    posts, rejects = read("likes", ["3,000", "4,290", "150"], kpi="likes")
    assert ([post.kpis[0] for post in posts.values()], rejects) == ([150, 3000, 4290], [])
    posts, rejects = read("likes", ["3.000", "1234.000"], kpi="likes")
    assert ([post.kpis[0] for post in posts.values()], rejects) == ([1234, 3], [])
    assert len(read("likes", ["3,000", "150"], kpi="likes")[1]) == 1
    assert len(read("likes", ["3.000", "4.290", "1.2K"], kpi="likes")[1]) == 1
    # One with decimals is no count, whatever it is called.
    posts, rejects = read("likes", ["12.5", "4.290"], kpi="likes")
    assert ([post.kpis[0] for post in posts.values()], rejects) == ([12.5, 4.29], [])


@pytest.mark.parametrize(
    ("proof", "day"), [("31/05/2023", "2023-06-05"), ("05/31/2023", "2023-05-06")]
)
def test_other_dates_of_the_file_settle_a_date(proof: str, day: str) -> None:
    for values in ([proof, "05/06/2023"], ["05/06/2023", proof]):
        posts, rejects = read("timestamp", values)
        assert rejects == []
        assert {post.timestamp[:10] for post in posts.values()} == {"2023-05-31", day}


def test_a_date_that_nothing_settles_is_a_reject_that_names_the_field() -> None:
    posts, [reject] = read("timestamp", ["05/06/2023", "2023-01-02", "07/07/2023"])
    assert set(posts) == {"2", "3"}
    assert reject.code == "bad_timestamp"
    assert "2023-06-05 or 2023-05-06" in reject.reason
    assert "data.dates" in reject.reason
    _, [both] = read("timestamp", ["05/06/2023", "31/05/2023", "05/31/2023"])
    assert "both ways" in both.reason
    posts, _ = read("timestamp", ["05/06/2023"], dates="month-first")
    assert posts["1"].timestamp == "2023-05-06T00:00:00Z"


VALUES = st.sampled_from(
    ["1,234", "1.234", "12.5", "12,5", "1.2K", "1,2K", "7", 7, 7.5, "x", "1 234"]
)
DAYS = st.sampled_from(["05/06/2023", "31/05/2023", "05/31/2023", "2023-05-06", "x", 1683360000])


@given(
    values=st.lists(VALUES, min_size=1, max_size=8),
    days=st.lists(DAYS, min_size=8, max_size=8),
    seed=st.integers(0, 999),
    name=st.sampled_from(["score", "likes"]),
)
def test_the_order_of_rows_does_not_matter(
    values: list[Any], days: list[Any], seed: int, name: str
) -> None:
    rows = [
        (i, {**GOOD, "id": str(i), "timestamp": day, name: value})
        for i, (value, day) in enumerate(zip(values, days, strict=False), start=1)
    ]
    shuffled = random.Random(seed).sample(rows, len(rows))
    data = Data(kpi=name)
    results = [sorted(map(repr, accept("f", order, data))) for order in (rows, shuffled)]
    assert results[0] == results[1]
    assert len(results[0]) == len(rows)


def test_settled_rows_are_kept_settled_and_open_ones_wait_for_the_recipe() -> None:
    values = ["31/05/2023", "05/06/2023"]
    data = Data(kpi="score", min_text=1000)
    result = list(accept("f", rows_of("timestamp", values), data))
    [reject] = [r for r in result if isinstance(r, Reject) and r.line == 2]
    assert reject.row is not None
    # Tried again without its file.
    again = accept_again("f", 2, reject.row, Data(kpi="score"))
    assert not isinstance(again, Reject)
    assert again[1].timestamp == "2023-06-05T00:00:00Z"
    _, [still_open] = read("timestamp", ["05/06/2023"])
    assert still_open.row is not None
    assert json.loads(still_open.row)["timestamp"] == "05/06/2023"
    assert isinstance(accept_again("f", 1, still_open.row, Data(kpi="score")), Reject)
    again = accept_again("f", 1, still_open.row, Data(kpi="score", dates="day-first"))
    assert not isinstance(again, Reject)


def test_a_period_is_asked_of_the_settled_time() -> None:
    period = Period(since=datetime(2023, 6, 1, tzinfo=UTC), until=datetime(2023, 7, 1, tzinfo=UTC))
    values = ["05/06/2023", "31/05/2023", "06/01/2023 10:00", "x", None]
    data = Data(kpi="score")
    result = list(accept("f", rows_of("timestamp", values), data, period))
    assert [item[0] for item in result if not isinstance(item, Reject)] == [1]
    # Without a time that can be read a row is no other run's.
    assert sorted(item.line for item in result if isinstance(item, Reject)) == [4, 5]


def test_a_caller_can_ask_what_the_file_means() -> None:
    data = Data(kpi="score", more_kpis=("clicks/views",))
    conventions = Conventions(data)
    rows = rows_of("score", ["1,5", "1.234"])
    rows += [(3, {**GOOD, "id": "3", "score": 1, "timestamp": "31/05/2023", "text": "cafÃ© " * 20})]
    assert len(list(accept("f", rows, data, conventions=conventions))) == 3
    assert (conventions.dates, conventions.mended) == ("day-first", 1)
    assert [conventions.numbers(name) for name in ("score", "clicks")] == ["comma", None]


def test_rows_that_wait_take_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("boig_core.data.posts._WAITING_MEMORY", 1)

    def rows() -> Iterator[tuple[int, dict[str, Any]]]:
        yield from rows_of("timestamp", ["05/06/2023"] * 500 + ["31/05/2023"])

    result = list(accept("f", rows(), Data(kpi="score")))
    assert not any(isinstance(item, Reject) for item in result)
    assert len(result) == 501
