"""Exports as files: dialects, pages of the X API, what is torn, foreign or tampered with."""

from __future__ import annotations

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

from boig_core.data.posts import Post
from boig_core.data.reading.sources import find_sources
from boig_core.errors import InputError, StoreUnavailableError
from tests.unit.data.reading import GOOD, read, read_all


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
        (4, "bad_json", "has 8 columns, the header names 7"),
        (7, "encoding", "a byte is not UTF-8, see data.dialect.encoding"),
    ]
    (tmp_path / "posts.csv").write_bytes(gzip.compress(b"id,id\n1,2\n"))
    (tmp_path / "posts.csv").rename(tmp_path / "twice.csv.gz")
    with pytest.raises(InputError, match="two columns of one name"):
        read_all(tmp_path / "twice.csv.gz")


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
    for broken in (packed[:-9], packed[:20] + b"x" * 30):
        (tmp_path / "posts.jsonl.gz").write_bytes(broken)
        with pytest.raises(InputError, match="cannot be unpacked"):
            read_all(tmp_path)
    # A browser that unpacks what it saves keeps the name.
    (tmp_path / "posts.jsonl.gz").write_bytes(json.dumps(GOOD).encode())
    [(_, post)], _ = read_all(tmp_path)
    assert post.id == "1"


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


def test_posts_on_the_web(tmp_path: Path) -> None:
    (tmp_path / "posts.jsonl.gz").write_bytes(gzip.compress(json.dumps(GOOD).encode()))
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        root = f"http://127.0.0.1:{http.server_port}"
        [(line, post)], rejects = read_all(
            f"{root}/posts.jsonl.gz?download=1", allow_private_hosts=True
        )
        assert (line, post.id, rejects) == (1, "1", [])
        with pytest.raises(InputError, match="answers 404"):
            read_all(f"{root}/none.jsonl", allow_private_hosts=True)
        with pytest.raises(InputError, match="is no"):
            read_all(f"{root}/posts.html")
        http.shutdown()
    with pytest.raises(StoreUnavailableError, match="cannot be read"):
        read_all(f"{root}/posts.jsonl", allow_private_hosts=True)
