"""Exports read row by row: what is accepted, and the code of what is not."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boig_core.config import Data, load_recipe
from boig_core.data.posts import Reject, accept, accept_again, keywords
from boig_core.data.reading.sources import read_rows
from tests.unit.data.reading import GOOD, read


def test_a_good_row(tmp_path: Path) -> None:
    [post], rejects = read(tmp_path, GOOD)
    assert rejects == []
    assert (
        post.text
        == "A long enough text about a green tent in a quiet forest, more at <hyperlink> for you"
    )
    assert (post.id, post.company, post.kpis, post.images) == (
        "1",
        "verde",
        (12.0,),
        ("images/1.png",),
    )
    assert post.timestamp == "2019-03-04T05:06:07Z"
    assert post.keywords == ("long", "enough", "text", "green", "tent", "quiet", "forest")


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (b'{"id": "1", "acc', "bad_json"),
        (b"[1, 2]", "bad_json"),
        (json.dumps(GOOD).encode().replace(b"green", b"gr\x81n"), "encoding"),
        ({"likes": None}, "missing_field"),
        ({"id": ""}, "missing_field"),
        ({"account": {"name": "verde"}}, "missing_field"),
        ({"image": []}, "missing_field"),
        ({"image": [1]}, "image_missing"),
        ({"likes": "1_234"}, "bad_kpi"),
        ({"likes": -1}, "bad_kpi"),
        ({"likes": True}, "bad_kpi"),
        ({"likes": "nan"}, "missing_field"),
        ({"likes": "inf"}, "bad_kpi"),
        ({"timestamp": "04/03/19 05:06 AM"}, "bad_timestamp"),
        ({"text": "short"}, "text_too_short"),
        ({"text": "www.x.example/" + "x" * 80}, "text_too_short"),
    ],
)
def test_a_bad_row_is_rejected_with_its_code(
    tmp_path: Path, change: dict[str, Any] | bytes, code: str
) -> None:
    bad = change if isinstance(change, bytes) else {**GOOD, "id": "2", **change}
    posts, [reject] = read(tmp_path, GOOD, bad)
    assert [post.id for post in posts] == ["1"]
    assert (reject.line, reject.code) == (2, code)
    assert reject.reason


def test_offsets_become_utc_and_naive_times_count_as_utc(tmp_path: Path) -> None:
    posts, _ = read(
        tmp_path,
        {**GOOD, "timestamp": "2019-03-04T01:00:00+02:00"},
        {**GOOD, "id": "2", "timestamp": "2019-03-04"},
    )
    assert [post.timestamp for post in posts] == ["2019-03-03T23:00:00Z", "2019-03-04T00:00:00Z"]


def test_keywords_and_licence_of_the_export_and_columns_that_are_the_same_for_every_row(
    tmp_path: Path,
) -> None:
    row = {**GOOD, "tags": "Beach,  Summer ;sea, beach", "rights": "CC-BY-4.0"}
    del row["account"]
    [post], _ = read(
        tmp_path, row, columns={"keywords": "tags", "licence": "rights", "account": "=stock"}
    )
    assert (post.keywords, post.licence, post.account) == (
        ("beach", "summer", "sea"),
        "CC-BY-4.0",
        "stock",
    )
    [post], _ = read(tmp_path, {**GOOD, "keywords": ["Red Tent", 7, ""]})
    assert post.keywords == ("red tent",)


def test_rows_are_filtered_by_any_column_and_a_domain_is_held_out(tmp_path: Path) -> None:
    rows = [
        {**GOOD, "id": f"{i}", "category": kind}
        for i, kind in enumerate(("product", "meme", None, "service"))
    ]
    posts, rejects = read(
        tmp_path,
        *rows,
        where={"category": ["product", "service"]},
        held_out={"category": ["service"]},
    )
    assert [(post.id, post.held_out) for post in posts] == [("0", False), ("3", True)]
    assert [(reject.line, reject.code) for reject in rejects] == [
        (2, "filtered_out"),
        (3, "filtered_out"),
    ]
    assert rejects[0].reason == "category = 'meme' is not among product, service"


def test_text_rules(tmp_path: Path) -> None:
    [post], _ = read(tmp_path, GOOD, mask_links=False)
    assert "https://verde.example/x?y=1" in post.text
    posts, [reject] = read(tmp_path, GOOD, max_text=60)
    assert (posts, reject.code) == ([], "text_too_long")


def test_a_rejected_row_can_be_tried_again_under_other_rules(tmp_path: Path) -> None:
    _, [reject] = read(
        tmp_path, {**GOOD, "name": "verde", "text": "short"}, columns={"account": "name"}
    )
    assert reject.row is not None
    again = accept_again(reject.file, reject.line, reject.row, Data(min_text=1))
    assert not isinstance(again, Reject)
    assert (again[1].account, again[1].text) == ("verde", "short")
    still = accept_again(reject.file, reject.line, reject.row, Data())
    assert isinstance(still, Reject)
    assert (still.line, still.code) == (1, "text_too_short")


def test_further_kpis_may_be_missing_and_may_not_be_wrong(tmp_path: Path) -> None:
    rows = [
        {**GOOD, "id": "1", "shares": 3},
        {**GOOD, "id": "2"},
        {**GOOD, "id": "3", "shares": -1},
    ]
    posts, [reject] = read(tmp_path, *rows, more_kpis=("shares", "likes/impressions"))
    assert [post.kpis for post in posts] == [(12.0, 3.0, None), (12.0, None, None)]
    assert (reject.line, reject.code) == (3, "bad_kpi")
    with pytest.raises(ValueError, match="more_kpis"):
        Data(more_kpis=("likes",))


def test_hashtags_are_the_keywords() -> None:
    assert keywords("New #Green tent #green #wow, not a#nchor") == ("green", "wow")


def test_another_kpi(tmp_path: Path) -> None:
    [post], _ = read(tmp_path, {**GOOD, "shares": "17"}, kpi="shares")
    assert post.kpis == (17.0,)


def test_a_rate_of_two_columns_is_a_kpi(tmp_path: Path) -> None:
    rows = [
        {**GOOD, "id": "1", "clicks": 3, "impressions": 400},
        {**GOOD, "id": "2", "clicks": 3, "impressions": 0},
        {**GOOD, "id": "3", "clicks": 3},
        {**GOOD, "id": "4", "clicks": 1e308, "impressions": 1e-10},
    ]
    [post], rejects = read(tmp_path, *rows, kpi="clicks/impressions")
    assert post.kpis == (0.0075,)
    assert [(reject.code, reject.reason) for reject in rejects] == [
        ("bad_kpi", "clicks/impressions is no rate: impressions is 0"),
        (
            "missing_field",
            "impressions is missing: there is no column 'impressions', but account, clicks, "
            "company, id, image, likes, text, timestamp (data.kpi names another)",
        ),
        ("bad_kpi", "clicks/impressions is no rate: 1e+308 / 1e-10 is too large"),
    ]
    with pytest.raises(ValueError, match="kpi"):
        Data(kpi="clicks/impressions/days")


def test_columns_that_are_called_otherwise_and_nested(tmp_path: Path) -> None:
    row = {
        "pk": 7,
        "user": {"name": "verde_official"},
        "created.at": "2019-03-04",
        "text": GOOD["text"],
        "media": ["a.png"],
        "stats": {"up": 5},
    }
    columns = {"id": "pk", "account": "user.name", "timestamp": "created.at", "images": "media"}
    [post], rejects = read(tmp_path, row, columns=columns, kpi="stats.up")
    assert (post.id, post.account, post.company, post.kpis, post.images) == (
        "7",
        "verde_official",
        "verde_official",
        (5.0,),
        ("a.png",),
    )
    assert rejects == []
    with pytest.raises(ValueError, match="columns"):
        Data(columns={"likes": "stats.up"})


COLUMNS = ["id", "account", "timestamp", "text", "image", "images", "likes"]
PARTS = [
    "data",
    "includes",
    "meta",
    "users",
    "media",
    "attachments",
    "media_keys",
    "public_metrics",
    "author_id",
]
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(COLUMNS + PARTS), inner, max_size=6)
    ),
    max_leaves=20,
)


@given(ANYTHING)
def test_no_row_whatever_it_holds_ends_the_run(
    tmp_path_factory: pytest.TempPathFactory, row: Any
) -> None:
    posts, rejects = read(tmp_path_factory.mktemp("rows"), GOOD, json.dumps(row).encode())
    assert [post.id for post in posts][:1] == ["1"]
    assert all(reject.line == 2 for reject in rejects)


def test_an_export_of_stock_photographs(tmp_path: Path) -> None:
    fields = {
        "id": 9,
        "caption": "A tent",
        "keywords": "tent; forest",
        "release_date": "2021-05-06",
        "image": "9.jpg",
    }
    line = json.dumps({**fields, "downloads": 4, "forwards": 2, "impressions": 80})
    (tmp_path / "posts.jsonl").write_text(
        line + "\n" + json.dumps({**fields, "id": 10, "forwards": 0})
    )
    data = load_recipe("stock").data
    result = [
        item
        for item in accept("f", read_rows(str(tmp_path / "posts.jsonl"), data), data)
        if not isinstance(item, Reject)
    ]
    assert [
        (post.id, post.account, post.text, post.keywords, post.kpis) for _, post, _ in result
    ] == [
        ("9", "stock", "A tent", ("tent", "forest"), (2.0, 4.0, 0.05)),
        ("10", "stock", "A tent", ("tent", "forest"), (0.0, None, None)),
    ]
