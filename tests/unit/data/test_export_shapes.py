"""Exports as folders, pages, wrappers and Parquet of any kind: read whole, or named in one line."""

from __future__ import annotations

import datetime
import decimal
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boig_core.config import Data
from boig_core.data.fetching.reach import ImageReference, Reach
from boig_core.data.reading import json_rows
from boig_core.data.reading.sources import describe_file, find_sources, read_rows
from boig_core.data.rejects import Rejected
from boig_core.errors import InputError
from tests.unit.data.reading import GOOD, read_all

TWO: list[dict[str, Any]] = [GOOD, {**GOOD, "id": "2"}]


def ids_of(location: Path | str, **rules: Any) -> list[str]:
    posts, rejects = read_all(location, **rules)
    assert rejects == []
    return [post.id for _, post in posts]


def written(folder: Path, name: str, rows: list[dict[str, Any]]) -> Path:
    """A file of rows, in the form that its suffix asks for."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if name.lower().endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif name.lower().endswith(".csv"):
        cells = [list(rows[0]), *([str(cell) for cell in row.values()] for row in rows)]
        path.write_text("".join(",".join(f'"{cell}"' for cell in row) + "\n" for row in cells))
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


SHAPES: dict[str, tuple[str, str]] = {
    "lines called .json": ("json", "\n".join(map(json.dumps, TWO))),
    "a list called .jsonl": ("jsonl", json.dumps(TWO, indent=1)),
    "lists in lines": ("jsonl", "\n".join(json.dumps([row]) for row in TWO)),
    "lists one behind the other": ("json", json.dumps(TWO[:1]) + json.dumps(TWO[1:])),
    "pretty objects one behind the other": ("json", "\n".join(json.dumps(row, indent=2) for row in TWO)),
    "pretty objects called .jsonl": ("jsonl", "\n".join(json.dumps(row, indent=2) for row in TWO)),
    "posts in an object": ("json", json.dumps({"posts": TWO, "next": None})),
    "data in an object": ("json", json.dumps({"data": TWO}, indent=1)),
    "an object in an object": ("json", json.dumps({"status": 1, "data": {"items": TWO}})),
    "by its columns": ("json", json.dumps({"feed": TWO, "users": [{"name": "a"}]})),
    "objects in lines": ("jsonl", "\n".join(json.dumps({"posts": [row]}) for row in TWO)),
    "a mark and blank lines": ("jsonl", "\ufeff\n" + "\n\n".join(map(json.dumps, TWO)) + "\n\n"),
}  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
def test_json_of_any_shape_is_read(tmp_path: Path, shape: str) -> None:
    suffix, content = SHAPES[shape]
    (tmp_path / f"posts.{suffix}").write_text(content, encoding="utf-8")
    assert ids_of(tmp_path) == ["1", "2"]


def test_one_object_is_one_post(tmp_path: Path) -> None:
    row = {**GOOD, "comments": [{"id": "c", "text": "fine"}]}
    (tmp_path / "posts.json").write_text(json.dumps(row, indent=1))
    assert ids_of(tmp_path) == ["1"]
    (tmp_path / "posts.json").write_text(json.dumps({"posts": []}))
    assert ids_of(tmp_path) == []


def test_which_of_two_lists_holds_the_posts_is_not_guessed(tmp_path: Path) -> None:
    (tmp_path / "posts.json").write_text(json.dumps({"new": TWO, "old": TWO}))
    _, [reject] = read_all(tmp_path)
    assert (reject.code, reject.reason) == (
        "bad_json",
        "holds several lists of objects (new, old); save that of the posts alone",
    )


def test_a_wrapped_list_may_be_longer_than_an_item(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_rows, "LONGEST_ITEM", 70_000)
    monkeypatch.setattr("boig_core.data.reading.json_items._PIECE", 1000)
    rows = [{**GOOD, "id": str(nr)} for nr in range(1000)]
    file = tmp_path / "posts.json"
    file.write_text(json.dumps({"ok": True, "tags": ["a"], "posts": rows, "more": {"x": [1]}}))
    assert ids_of(file) == [str(nr) for nr in range(1000)]
    file.write_text(json.dumps({"posts": rows, "others": rows}))
    with pytest.raises(InputError, match=r"several lists of objects \(posts, others\)"):
        ids_of(file)
    file.write_text(json.dumps({"data": [{**row, "edit_history_tweet_ids": []} for row in rows]}))
    with pytest.raises(InputError, match="save the pages one per line"):
        ids_of(file)


def test_numbers_that_json_does_not_know_cost_no_file(tmp_path: Path) -> None:
    (tmp_path / "posts.json").write_text(
        json.dumps([GOOD, {**GOOD, "id": "2", "likes": float("nan")}, {**GOOD, "id": "3"}])
    )
    posts, rejects = read_all(tmp_path)
    assert [post.id for _, post in posts] == ["1", "3"]
    assert [reject.post for reject in rejects] == ["2"]


def test_torn_rows_of_json_are_rejects_however_many(tmp_path: Path) -> None:
    good = json.dumps(GOOD).encode()
    lines = [good, *(good.replace(b"account", b"acc\xff\x81t") for _ in range(30))]
    (tmp_path / "posts.jsonl").write_bytes(b"\n".join(lines))
    rows = [item for _, item in read_rows(str(tmp_path / "posts.jsonl"), Data())]
    assert [isinstance(item, Rejected) and item.code for item in rows] == [
        False,
        *["encoding"] * 30,
    ]


def test_the_archive_of_x_is_named(tmp_path: Path) -> None:
    (tmp_path / "posts.json").write_text('window.YTD.tweets.part0 = [ {"tweet": {}} ]')
    with pytest.raises(InputError, match="archive that X sends to a user"):
        ids_of(tmp_path)
    (tmp_path / "tweets.js").write_text("window.YTD.tweets.part0 = []")
    with pytest.raises(InputError, match="archive that X sends to a user"):
        find_sources(str(tmp_path / "tweets.js"))


@pytest.mark.parametrize("name", ["posts.JSONL", "Posts.Csv", "POSTS.PARQUET", "posts.ndjson"])
def test_suffixes_count_in_any_case(tmp_path: Path, name: str) -> None:
    path = written(tmp_path, name, TWO)
    assert ids_of(path) == ids_of(tmp_path) == ["1", "2"]


def test_tables_are_called_tsv_and_txt_too(tmp_path: Path) -> None:
    table = "".join("\t".join(map(str, row)) + "\n" for row in (GOOD.keys(), GOOD.values()))
    (tmp_path / "posts.tsv").write_text(table)
    (tmp_path / "Unicode text.txt").write_text(table, encoding="utf-16")
    assert ids_of(tmp_path) == ids_of(tmp_path / "Unicode text.txt") == ["1"]
    shown = describe_file(str(tmp_path / "Unicode text.txt"), Data())
    assert (shown.kind, shown.delimiter, shown.encoding) == ("csv", "\t", "utf-16-le")


@pytest.mark.parametrize("suffix", ["json", "jsonl", "csv", "parquet"])
def test_a_folder_of_one_kind_is_one_export(tmp_path: Path, suffix: str) -> None:
    for nr in (2, 1):
        written(tmp_path, f"page-{nr}.{suffix}", [{**GOOD, "id": str(nr)}])
    (tmp_path / "_SUCCESS").touch()
    (tmp_path / ".page-1.crc").touch()
    (tmp_path / "images").mkdir()
    (tmp_path / "README.txt").touch()
    assert ids_of(tmp_path) == ["1", "2"]
    written(tmp_path, f"posts.{suffix}", [{**GOOD, "id": "3"}])
    assert ids_of(tmp_path) == ["3"]


def test_a_folder_of_several_kinds_is_not_guessed(tmp_path: Path) -> None:
    written(tmp_path, "a.csv", TWO)
    written(tmp_path, "b.json", TWO)
    with pytest.raises(InputError, match=r"folder of several kinds of files, such as a\.csv and b"):
        find_sources(str(tmp_path))


def test_parquet_in_parts_and_partitions(tmp_path: Path) -> None:
    rows = [{key: value for key, value in row.items() if key != "account"} for row in TWO]
    folder = tmp_path / "posts.parquet"
    written(folder, "account=a%20b/year=2024/part-0.snappy.parquet", rows[:1])
    written(folder, "account=c/part-0.parquet", rows[1:])
    written(folder, "account=c/_metadata.parquet", rows[1:])
    for location in (tmp_path, folder):
        posts, _ = read_all(location)
        assert [post.account for _, post in posts] == ["a b", "c"]
    # Its images lie beside it, as beside a file of that name.
    (tmp_path / "1.png").touch()
    base = str(folder / "account=c")
    assert Reach().locate(ImageReference(base, f"{base}/../../1.png")) == str(tmp_path / "1.png")
    with pytest.raises(Rejected, match="neither below"):
        Reach().locate(ImageReference(base, f"{base}/../../../1.png"))


@pytest.mark.parametrize("name", ["export [2024]", "what?", "50% *off*", "a[b"])
def test_a_folder_that_exists_is_no_pattern(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    written(folder, "posts.jsonl", TWO)
    for location in (folder, folder / "posts.jsonl", folder / "*.jsonl"):
        assert ids_of(location) == ["1", "2"]


def columns_of(**columns: Any) -> pa.Table:
    return pa.table({name: [row[name] for row in TWO] for name in GOOD} | columns)


def times_of(value: int, kind: pa.DataType) -> pa.Table:
    return columns_of(timestamp=pa.array([value] * 2, kind))


KINDS: dict[str, tuple[pa.Table, dict[str, Any]]] = {
    "binary": (columns_of(account=pa.array([b"d\xc3\xa9j\xc3\xa0", b"b"])), {"account": "déjà"}),
    "large_binary": (columns_of(id=pa.array([b"1", b"2"], pa.large_binary())), {"id": "1"}),
    "large_string": (columns_of(account=pa.array(["a", "b"], pa.large_string())), {"account": "a"}),
    "string_view": (columns_of(account=pa.array(["a", "b"], pa.string_view())), {"account": "a"}),
    "dictionary": (columns_of(account=pa.array(["a", "a"]).dictionary_encode()), {"account": "a"}),
    "binary dictionary": (columns_of(account=pa.array([b"a", b"a"]).dictionary_encode()), {"account": "a"}),
    "decimal": (columns_of(likes=pa.array([decimal.Decimal("12.50")] * 2)), {"likes": 12.5}),
    "null": (columns_of(keywords=pa.nulls(2)), {"keywords": None}),
    "list": (columns_of(images=pa.array([["a", None], []])), {"images": ["a", None]}),
    "list of binary": (columns_of(images=pa.array([[b"a"], []])), {"images": ["a"]}),
    "struct of binary": (columns_of(user=pa.array([{"name": b"a"}] * 2)), {"user": {"name": "a"}}),
    "map": (columns_of(tags=pa.array([[("a", 1)]] * 2, pa.map_(pa.string(), pa.int64()))), {"tags": [["a", 1]]}),
    "date": (columns_of(timestamp=pa.array([datetime.date(2023, 5, 1)] * 2)), {"timestamp": "2023-05-01"}),
    "nanoseconds": (times_of(1683000000123456789, pa.timestamp("ns")), {"timestamp": "2023-05-02 04:00:00.123456"}),
    "seconds": (times_of(1683000000, pa.timestamp("s")), {"timestamp": "2023-05-02 04:00:00"}),
    "a zone": (times_of(1683000000, pa.timestamp("s", "America/New_York")), {"timestamp": "2023-05-02 04:00:00+00:00"}),
    "an unknown zone": (times_of(1683000000, pa.timestamp("ms", "Mars/Base")), {"timestamp": "1970-01-20 11:30:00+00:00"}),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_parquet_of_any_kind_gives_values(tmp_path: Path, kind: str) -> None:
    table, expected = KINDS[kind]
    pq.write_table(table, tmp_path / "posts.parquet")
    _, row = next(read_rows(str(tmp_path / "posts.parquet"), Data()))
    assert {name: row[name] for name in expected} == expected


PICTURE = b"\xff\xd8\xff\xe0 picture"
IMAGE = {"bytes": PICTURE, "path": "1.jpg"}
FAULTS: dict[str, tuple[pa.Table, str, str]] = {
    "bytes": (columns_of(text=pa.array([b"\xff\xfe", b"b"])), "encoding", "text: holds bytes that are not UTF-8"),
    "an image": (columns_of(image=pa.array([PICTURE, b"2.png"])), "image_missing", "image: the image is embedded"),
    "images of Hugging Face": (columns_of(image=pa.array([IMAGE, None])), "image_missing", "image: the image is embedded"),
    "lists of them": (columns_of(images=pa.array([[IMAGE], None])), "image_missing", "images: the image is embedded"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_cell_that_no_post_can_hold_costs_its_row_alone(tmp_path: Path, fault: str) -> None:
    table, code, reason = FAULTS[fault]
    pq.write_table(table, tmp_path / "posts.parquet")
    _, rejects = read_all(tmp_path, min_text=0)
    assert (rejects[0].post, rejects[0].code) == ("1", code)
    assert rejects[0].reason.startswith(reason)
    assert [reject.code for reject in rejects[1:]] in ([], ["missing_field"])


def test_a_faulty_cell_that_nothing_reads_costs_nothing(tmp_path: Path) -> None:
    table = columns_of(digest=pa.array([b"\xff\xfe", b"\xfe"]), thumb=pa.array([IMAGE, IMAGE]))
    pq.write_table(table, tmp_path / "posts.parquet")
    assert ids_of(tmp_path) == ["1", "2"]
    [image, _] = [post.images for _, post in read_all(tmp_path, columns={"image": "thumb.path"})[0]]
    assert image == ("1.jpg",)
    assert "thumb" in describe_file(str(tmp_path / "posts.parquet"), Data()).columns


ROWS = st.lists(st.dictionaries(st.sampled_from(["id", "text", "x"]), st.integers() | st.text()))


@settings(max_examples=60, deadline=None)
@given(
    rows=ROWS,
    indent=st.sampled_from([None, 1]),
    wrap=st.sampled_from(["lines", "list", "posts"]),
    suffix=st.sampled_from(["json", "jsonl"]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "utf-32"]),
)
def test_rows_of_json_come_back_whatever_their_shape(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[dict[str, Any]],
    indent: int | None,
    wrap: str,
    suffix: str,
    encoding: str,
) -> None:
    rows = [{"id": "0", "text": "the first", "image": "x"}, *filter(None, rows)]
    shapes = {
        "lines": "\n".join(json.dumps(row, indent=indent) for row in rows),
        "list": json.dumps(rows, indent=indent),
        "posts": json.dumps({"posts": rows}, indent=indent),
    }
    file = tmp_path_factory.getbasetemp() / f"shaped.{suffix}"
    file.write_bytes(shapes[wrap].encode(encoding))
    assert [row for _, row in read_rows(str(file), Data())] == rows
