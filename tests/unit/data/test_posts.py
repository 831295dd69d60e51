"""Exports read row by row: what is accepted, and the code of what is not."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

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
