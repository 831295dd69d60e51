"""Exports read row by row: what is accepted, and the code of what is not."""

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from boig_core.config import Data
from boig_core.data.posts import find_posts, keywords, read_posts
from boig_core.errors import InputError

GOOD: dict[str, Any] = {
    "id": "1",
    "account": "verde_official",
    "company": "verde",
    "timestamp": "2019-03-04T05:06:07Z",
    "text": "A long enough text about a green tent in a quiet forest, more at https://verde.example/x?y=1 for you",
    "image": "images/1.png",
    "likes": 12,
}


def read(folder: Path, *rows: dict[str, Any] | bytes, **rules: Any) -> Any:
    lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
    (folder / "posts.jsonl").write_bytes(b"\n".join(lines))
    return read_posts(find_posts(str(folder)), Data(**rules), seed=0)


def test_a_good_row(tmp_path: Path) -> None:
    [post], rejects = read(tmp_path, GOOD)
    assert rejects == []
    assert post.text == "A long enough text about a green tent in a quiet forest, more at <hyperlink> for you"
    assert (post.line, post.id, post.company, post.kpi, post.images) == (1, "1", "verde", 12.0, ("images/1.png",))
    assert post.timestamp == "2019-03-04T05:06:07Z"
    assert post.keywords == ("long", "enough", "text", "green", "tent", "quiet", "forest")


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (b'{"id": "1", "acc', "bad_json"),
        (b"[1, 2]", "bad_json"),
        (json.dumps(GOOD).encode().replace(b"green", b"gr\xfcn"), "encoding"),
        ({"likes": None}, "missing_field"),
        ({"id": ""}, "missing_field"),
        ({"account": {"name": "verde"}}, "missing_field"),
        ({"image": []}, "missing_field"),
        ({"image": [1]}, "image_missing"),
        ({"likes": "1,234"}, "bad_kpi"),
        ({"likes": -1}, "bad_kpi"),
        ({"likes": True}, "bad_kpi"),
        ({"likes": "nan"}, "bad_kpi"),
        ({"timestamp": "04/03/19 05:06 AM"}, "bad_timestamp"),
        ({"text": "short"}, "text_too_short"),
        ({"text": "www.x.example/" + "x" * 80}, "text_too_short"),
    ],
)
def test_a_bad_row_is_rejected_with_its_code(tmp_path: Path, change: dict[str, Any] | bytes, code: str) -> None:
    bad = change if isinstance(change, bytes) else {**GOOD, "id": "2", **change}
    posts, [reject] = read(tmp_path, GOOD, bad)
    assert [post.id for post in posts] == ["1"]
    assert (reject.line, reject.code) == (2, code)
    assert reject.reason


def test_an_id_counts_once_and_a_rejected_row_does_not_use_it_up(tmp_path: Path) -> None:
    posts, rejects = read(tmp_path, {**GOOD, "text": "short"}, {**GOOD, "likes": 5}, {**GOOD, "likes": 7})
    assert [post.kpi for post in posts] == [5.0]
    assert [(reject.line, reject.code) for reject in rejects] == [(1, "text_too_short"), (3, "duplicate_id")]


def test_period_small_accounts_and_sampling(tmp_path: Path) -> None:
    rows = [{**GOOD, "id": f"{i}", "account": "big"} for i in range(30)]
    rows += [{**GOOD, "id": "old", "timestamp": "2017-12-31T23:59:59Z"}, {**GOOD, "id": "alone", "account": "small"}]
    rules = {"since": "2018-01-01", "min_posts": 2, "max_posts": 10}
    posts, rejects = read(tmp_path, *rows, **rules)
    assert sorted(reject.code for reject in rejects) == ["account_sampled"] * 20 + ["account_too_small", "out_of_period"]
    again, _ = read(tmp_path, *reversed(rows), **rules)
    assert {post.id for post in posts} == {post.id for post in again}
    assert len(posts) == 10


def test_offsets_become_utc_and_naive_times_count_as_utc(tmp_path: Path) -> None:
    posts, _ = read(tmp_path, {**GOOD, "timestamp": "2019-03-04T01:00:00+02:00"}, {**GOOD, "id": "2", "timestamp": "2019-03-04"})
    assert [post.timestamp for post in posts] == ["2019-03-03T23:00:00Z", "2019-03-04T00:00:00Z"]


def test_hashtags_are_the_keywords() -> None:
    assert keywords("New #Green tent #green #wow, not a#nchor") == ("green", "wow")


def test_another_kpi(tmp_path: Path) -> None:
    [post], _ = read(tmp_path, {**GOOD, "shares": "17"}, kpi="shares")
    assert post.kpi == 17.0


def test_a_rate_of_two_columns_is_a_kpi(tmp_path: Path) -> None:
    rows = [
        {**GOOD, "id": "1", "clicks": 3, "impressions": 400},
        {**GOOD, "id": "2", "clicks": 3, "impressions": 0},
        {**GOOD, "id": "3", "clicks": 3},
    ]
    [post], rejects = read(tmp_path, *rows, kpi="clicks/impressions")
    assert post.kpi == 0.0075
    assert [(reject.code, reject.reason) for reject in rejects] == [
        ("bad_kpi", "clicks/impressions is no rate: impressions is 0"),
        ("missing_field", "impressions is missing"),
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
    assert (post.id, post.account, post.company, post.kpi, post.images) == ("7", "verde_official", "verde_official", 5.0, ("a.png",))
    assert rejects == []
    with pytest.raises(ValueError, match="columns"):
        Data(columns={"likes": "stats.up"})


PAGE: dict[str, Any] = {
    "data": [
        {
            "id": "100",
            "author_id": "9",
            "created_at": "2022-02-03T04:05:06.000Z",
            "text": GOOD["text"],
            "attachments": {"media_keys": ["3_1", "13_2", "3_3"]},
            "public_metrics": {"like_count": 41, "retweet_count": 2, "impression_count": 900},
        },
        {"id": "101", "author_id": "8", "created_at": "2022-02-03T04:05:06.000Z", "text": GOOD["text"]},
        "a string in place of a post",
    ],
    "includes": {
        "users": [{"id": "9", "username": "verde_official", "name": "Verde"}],
        "media": [
            {"media_key": "3_1", "type": "photo", "url": "https://pbs.example/1.jpg"},
            {"media_key": "13_2", "type": "video", "preview_image_url": "https://pbs.example/2.jpg"},
            {"media_key": "3_3", "type": "photo", "url": "https://pbs.example/3.jpg"},
        ],
    },
    "meta": {"result_count": 3},
}


def test_pages_of_the_x_api(tmp_path: Path) -> None:
    [post], rejects = read(tmp_path, PAGE, kpi="likes/impressions")
    assert (post.line, post.id, post.account, post.company) == (1, "100", "verde_official", "Verde")
    assert post.timestamp == "2022-02-03T04:05:06Z"
    assert post.images == ("https://pbs.example/1.jpg", "https://pbs.example/3.jpg")
    assert post.kpi == 41 / 900
    assert [(reject.line, reject.post, reject.code) for reject in rejects] == [(1, "101", "missing_field"), (1, None, "bad_json")]


@pytest.mark.parametrize(
    "hole", [{"includes": None}, {"includes": []}, {"includes": {"users": "x", "media": [1]}}, {"data": [{"attachments": 1}]}]
)
def test_a_page_with_holes_loses_rows_and_not_the_run(tmp_path: Path, hole: dict[str, Any]) -> None:
    posts, rejects = read(tmp_path, {**PAGE, **hole})
    assert posts == []
    assert {reject.code for reject in rejects} <= {"missing_field", "bad_json"}


def test_a_json_file_is_a_list_of_rows_and_pages(tmp_path: Path) -> None:
    (tmp_path / "posts.json").write_text(json.dumps([GOOD, PAGE, {**GOOD, "id": "2", "text": "short"}]))
    posts, rejects = read_posts(find_posts(str(tmp_path)), Data(), 0)
    assert [(post.line, post.id) for post in posts] == [(1, "1"), (2, "100")]
    assert [(reject.line, reject.code) for reject in rejects] == [(2, "missing_field"), (2, "bad_json"), (3, "text_too_short")]
    (tmp_path / "posts.json").write_text("[{]")
    with pytest.raises(InputError, match="is not JSON"):
        read_posts(find_posts(str(tmp_path)), Data(), 0)


def test_gzip(tmp_path: Path) -> None:
    packed = gzip.compress(json.dumps(GOOD).encode())
    (tmp_path / "posts.jsonl.gz").write_bytes(packed)
    [post], _ = read_posts(find_posts(str(tmp_path)), Data(), 0)
    assert post.id == "1"
    for broken in (packed[:-9], b"no gzip", packed[:20] + b"x" * 30):
        (tmp_path / "posts.jsonl.gz").write_bytes(broken)
        with pytest.raises(InputError, match="cannot be unpacked"):
            read_posts(find_posts(str(tmp_path)), Data(), 0)


COLUMNS = ["id", "account", "timestamp", "text", "image", "images", "likes"]
PARTS = ["data", "includes", "meta", "users", "media", "attachments", "media_keys", "public_metrics", "author_id"]
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(COLUMNS + PARTS), inner, max_size=6),
    max_leaves=20,
)


@given(ANYTHING)
def test_no_row_whatever_it_holds_ends_the_run(tmp_path_factory: pytest.TempPathFactory, row: Any) -> None:
    posts, rejects = read(tmp_path_factory.mktemp("rows"), GOOD, json.dumps(row).encode())
    assert [post.id for post in posts][:1] == ["1"]
    assert all(reject.line == 2 for reject in rejects)


def test_csv_and_parquet_say_the_same(tmp_path: Path) -> None:
    columns = {name: [value, value] for name, value in GOOD.items()} | {"id": ["1", "2"], "likes": [12, None]}
    table = pa.table(columns)
    pq.write_table(table, tmp_path / "posts.parquet")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "posts.csv").write_text(",".join(GOOD) + "\n" + ",".join(f'"{v}"' for v in GOOD.values()) + "\n")
    [from_parquet], [reject] = read_posts(find_posts(str(tmp_path)), Data(), 0)
    [from_csv], none = read_posts(find_posts(str(tmp_path / "sub")), Data(), 0)
    assert from_parquet == from_csv
    assert (reject.line, reject.code, none) == (2, "missing_field", [])


def test_a_missing_or_foreign_file_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no posts"):
        find_posts(str(tmp_path))
    with pytest.raises(InputError, match="does not exist"):
        find_posts(str(tmp_path / "posts.jsonl"))
    (tmp_path / "posts.parquet").write_bytes(b"no parquet")
    with pytest.raises(InputError, match="cannot be read"):
        read_posts(find_posts(str(tmp_path)), Data(), 0)
