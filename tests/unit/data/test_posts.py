"""Exports read row by row: what is accepted, and the code of what is not."""

import gzip
import json
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boig_core.config import Data, load_recipe
from boig_core.data.posts import Post, Reject, accept, accept_again, keywords
from boig_core.data.sources import find_sources, read_rows
from boig_core.errors import InputError, StoreUnavailableError

GOOD: dict[str, Any] = {
    "id": "1",
    "account": "verde_official",
    "company": "verde",
    "timestamp": "2019-03-04T05:06:07Z",
    "text": "A long enough text about a green tent in a quiet forest, more at https://verde.example/x?y=1 for you",
    "image": "images/1.png",
    "likes": 12,
}


def read_all(location: Path | str, **rules: Any) -> tuple[list[tuple[int, Post]], list[Reject]]:
    result = [
        item
        for file in find_sources(str(location))
        for item in accept(file, read_rows(file), Data(**rules))
    ]
    return [item[:2] for item in result if not isinstance(item, Reject)], [
        item for item in result if isinstance(item, Reject)
    ]


def read(
    folder: Path, *rows: dict[str, Any] | bytes, **rules: Any
) -> tuple[list[Post], list[Reject]]:
    lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
    (folder / "posts.jsonl").write_bytes(b"\n".join(lines))
    posts, rejects = read_all(folder, **rules)
    return [post for _, post in posts], rejects


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


def test_a_glob_takes_every_file_it_matches(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    for place, name in enumerate(("a/1.jsonl", "a/2.jsonl.gz", "a/b/3.jsonl", "a/4.txt")):
        data = json.dumps({**GOOD, "id": str(place)}).encode()
        (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    assert [post.id for _, post in read_all(tmp_path / "a" / "*")[0]] == ["0", "1"]
    assert [post.id for _, post in read_all(tmp_path / "**" / "[13].jsonl")[0]] == ["0", "2"]
    with pytest.raises(InputError, match="matches no"):
        find_sources(str(tmp_path / "*" / "none*.jsonl"))


def test_csv_rows_that_are_torn_are_named_by_line(tmp_path: Path) -> None:
    good = ",".join(f'"{value}"' for value in GOOD.values())
    two = good.replace('"1"', '"2"', 1).replace("tent", "ten\nt")
    (tmp_path / "posts.csv").write_bytes(
        ("\ufeff" + ",".join(GOOD) + f"\n{good}\n\n{good},5\n{two}\n").encode()
        + b'"\xff",2,3,4,5,6,7\n'
    )
    posts, rejects = read_all(tmp_path)
    assert [(line, post.id) for line, post in posts] == [(2, "1"), (6, "2")]
    assert [(reject.line, reject.code, reject.reason) for reject in rejects] == [
        (4, "bad_json", "has 8 columns, the first line names 7"),
        (7, "encoding", "a byte is not UTF-8"),
    ]
    (tmp_path / "posts.csv").write_bytes(gzip.compress(b"id,id\n1,2\n"))
    (tmp_path / "posts.csv").rename(tmp_path / "twice.csv.gz")
    with pytest.raises(InputError, match="two columns of one name"):
        read_all(tmp_path / "twice.csv.gz")


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
    ]
    [post], rejects = read(tmp_path, *rows, kpi="clicks/impressions")
    assert post.kpis == (0.0075,)
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
        {
            "id": "101",
            "author_id": "8",
            "created_at": "2022-02-03T04:05:06.000Z",
            "text": GOOD["text"],
        },
        "a string in place of a post",
    ],
    "includes": {
        "users": [{"id": "9", "username": "verde_official", "name": "Verde"}],
        "media": [
            {"media_key": "3_1", "type": "photo", "url": "https://pbs.example/1.jpg"},
            {
                "media_key": "13_2",
                "type": "video",
                "preview_image_url": "https://pbs.example/2.jpg",
            },
            {"media_key": "3_3", "type": "photo", "url": "https://pbs.example/3.jpg"},
        ],
    },
    "meta": {"result_count": 3},
}


def test_pages_of_the_x_api(tmp_path: Path) -> None:
    [post], rejects = read(tmp_path, PAGE, kpi="likes/impressions")
    assert (post.id, post.account, post.company) == ("100", "verde_official", "Verde")
    assert post.timestamp == "2022-02-03T04:05:06Z"
    assert post.images == ("https://pbs.example/1.jpg", "https://pbs.example/3.jpg")
    assert post.kpis == (41 / 900,)
    assert [(reject.line, reject.post, reject.code) for reject in rejects] == [
        (1, "101", "missing_field"),
        (1, None, "bad_json"),
    ]


@pytest.mark.parametrize(
    "hole",
    [
        {"includes": None},
        {"includes": []},
        {"includes": {"users": "x", "media": [1]}},
        {"data": [{"attachments": 1}]},
    ],
)
def test_a_page_with_holes_loses_rows_and_not_the_run(tmp_path: Path, hole: dict[str, Any]) -> None:
    posts, rejects = read(tmp_path, {**PAGE, **hole})
    assert posts == []
    assert {reject.code for reject in rejects} <= {"missing_field", "bad_json"}


def test_a_json_file_is_a_list_of_rows_and_pages(tmp_path: Path) -> None:
    (tmp_path / "posts.json").write_text(
        json.dumps([GOOD, PAGE, {**GOOD, "id": "2", "text": "short"}])
    )
    posts, rejects = read_all(tmp_path)
    assert [(line, post.id) for line, post in posts] == [(1, "1"), (2, "100")]
    assert [(reject.line, reject.code) for reject in rejects] == [
        (2, "missing_field"),
        (2, "bad_json"),
        (3, "text_too_short"),
    ]
    (tmp_path / "posts.json").write_text("[{]")
    with pytest.raises(InputError, match="is not JSON"):
        read_all(tmp_path)


def test_gzip(tmp_path: Path) -> None:
    packed = gzip.compress(json.dumps(GOOD).encode())
    (tmp_path / "posts.jsonl.gz").write_bytes(packed)
    [(_, post)], _ = read_all(tmp_path)
    assert post.id == "1"
    for broken in (packed[:-9], b"no gzip", packed[:20] + b"x" * 30):
        (tmp_path / "posts.jsonl.gz").write_bytes(broken)
        with pytest.raises(InputError, match="cannot be unpacked"):
            read_all(tmp_path)


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


def _encoded(suffix: str, folder: Path) -> bytes:
    """A good export of two rows under each suffix."""
    rows = [GOOD, {**GOOD, "id": "2"}]
    lines = "\n".join(map(json.dumps, rows)).encode()
    if suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), folder / "whole.parquet")
        return (folder / "whole.parquet").read_bytes()
    if suffix.startswith(".csv"):
        lines = "\n".join(
            [",".join(GOOD), *(",".join(f'"{value}"' for value in row.values()) for row in rows)]
        ).encode()
    if suffix == ".json":
        return json.dumps(rows).encode()
    return gzip.compress(lines) if suffix.endswith(".gz") else lines


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".parquet", ".jsonl.gz", ".csv.gz"])
@settings(max_examples=60)
@given(
    flips=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=10),
    cut=st.integers(0, 300),
    tail=st.binary(max_size=40),
)
def test_a_file_that_was_tampered_with_gives_rows_rejects_or_one_clear_error(
    tmp_path_factory: pytest.TempPathFactory,
    suffix: str,
    flips: list[tuple[int, int]],
    cut: int,
    tail: bytes,
) -> None:
    folder = tmp_path_factory.mktemp("torn")
    whole = _encoded(suffix, folder)
    torn = bytearray(whole[: max(1, len(whole) - cut)] + tail)
    for at, value in flips:
        torn[at % len(torn)] = value
    (folder / f"posts{suffix}").write_bytes(torn)
    posts: list[tuple[int, Post]] = []
    answers = ""
    try:
        posts, _ = read_all(folder / f"posts{suffix}")
    except InputError as exc:
        answers = str(exc)
    assert "\n" not in answers
    assert all(post.images and post.account and post.id for _, post in posts)


def test_csv_and_parquet_say_the_same(tmp_path: Path) -> None:
    columns = {name: [value, value] for name, value in GOOD.items()} | {
        "id": ["1", "2"],
        "likes": [12, None],
    }
    table = pa.table(columns)
    pq.write_table(table, tmp_path / "posts.parquet")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "posts.csv").write_text(
        ",".join(GOOD) + "\n" + ",".join(f'"{v}"' for v in GOOD.values()) + "\n"
    )
    [(_, from_parquet)], [reject] = read_all(tmp_path)
    [(_, from_csv)], none = read_all(tmp_path / "sub")
    assert from_parquet == from_csv
    assert (reject.line, reject.code, none) == (2, "missing_field", [])


def test_a_missing_or_foreign_file_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no posts"):
        find_sources(str(tmp_path))
    with pytest.raises(InputError, match="does not exist"):
        find_sources(str(tmp_path / "posts.jsonl"))
    (tmp_path / "posts.parquet").write_bytes(b"no parquet")
    with pytest.raises(InputError, match="cannot be read"):
        read_all(tmp_path)


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
        for item in accept("f", read_rows(str(tmp_path / "posts.jsonl")), data)
        if not isinstance(item, Reject)
    ]
    assert [
        (post.id, post.account, post.text, post.keywords, post.kpis) for _, post, _ in result
    ] == [
        ("9", "stock", "A tent", ("tent", "forest"), (2.0, 4.0, 0.05)),
        ("10", "stock", "A tent", ("tent", "forest"), (0.0, None, None)),
    ]


def test_posts_on_the_web(tmp_path: Path) -> None:
    (tmp_path / "posts.jsonl.gz").write_bytes(gzip.compress(json.dumps(GOOD).encode()))
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        root = f"http://127.0.0.1:{http.server_port}"
        [(line, post)], rejects = read_all(f"{root}/posts.jsonl.gz?download=1")
        assert (line, post.id, rejects) == (1, "1", [])
        with pytest.raises(InputError, match="answers 404"):
            read_all(f"{root}/none.jsonl")
        with pytest.raises(InputError, match="is no"):
            read_all(f"{root}/posts.txt")
        http.shutdown()
    with pytest.raises(StoreUnavailableError, match="cannot be read"):
        read_all(f"{root}/posts.jsonl")
