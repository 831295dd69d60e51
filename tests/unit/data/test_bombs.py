"""Posts files that are made to take memory, disks or time: one clear error, within bounds."""

from __future__ import annotations

import gzip
import io
import json
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import IO, Any, ClassVar, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boig_core.config import Data
from boig_core.data.fetching import web
from boig_core.data.reading import csv_rows, json_rows, opening, parquet, sources
from boig_core.data.reading.json_items import json_items
from boig_core.data.reading.text_encoding import as_utf8
from boig_core.data.rejects import Rejected
from boig_core.errors import InputError, StoreUnavailableError
from tests.unit.data.reading import GOOD, read_all

pytestmark = pytest.mark.slow  # of the whole suite, not of its quick part

MANY = 16 * 2**20
TEXTS: dict[str, tuple[bytes, bytes]] = {
    # Start of the file, and what is repeated.
    "jsonl: a line without an end": (b"", b"x"),
    "jsonl: a row without an end": (b'{"id": "', b"x"),
    "json: a text without an end": (b'["', b"x"),
    "json: a number without an end": (b"", b"1"),
    "json: a row without an end": (b'[{"a": [', b"1,"),
    "json: white space": (b"[", b" "),
    "csv: a line without an end": (b"", b"x"),
    "csv: a quote that is never closed": (b'id\n"', b"x" * 1000 + b"\n"),
    "csv: a row of many quoted lines": (b"id\n", b'"\n",'),
    "csv: columns": (b"id\n", b","),
}


@pytest.mark.parametrize("what", TEXTS)
def test_a_file_that_unpacks_to_endless_rows_is_not_read_into_memory(
    tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    suffix, (start, again) = what.partition(":")[0], TEXTS[what]
    path = tmp_path / f"posts.{suffix}.gz"
    path.write_bytes(gzip.compress(start + again * (MANY // len(again))))
    assert path.stat().st_size < 2**20
    monkeypatch.setattr(json_rows, "LONGEST_ITEM", 2**16)
    monkeypatch.setattr(csv_rows, "LONGEST_ROW", 2**16)
    monkeypatch.setattr(opening, "_PLAIN_START", 2**17)
    monkeypatch.setattr(opening, "_PIECE", 2**14)
    monkeypatch.setattr(opening, "_RATIO", 10)
    tracemalloc.start()
    try:
        with pytest.raises(InputError) as caught:
            for _ in sources.read_rows(str(path), Data()):
                pass
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000
    assert str(path) in str(caught.value)
    assert peak < MANY


def test_a_packed_file_may_not_unpack_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "posts.jsonl.gz"
    path.write_bytes(gzip.compress(b"{}\n" * 2**16))
    monkeypatch.setattr(opening, "_PLAIN_START", 2**14)
    with pytest.raises(InputError, match="more than 200 times its size"):
        read_all(path)
    monkeypatch.setattr(opening, "_PLAIN_START", 2**30)
    monkeypatch.setattr(opening, "MOST_UNPACKED", 2**14)
    with pytest.raises(InputError, match="more than 16384 bytes"):
        read_all(path)


def _dictionary_bomb() -> pa.Table:
    """One text of 8 MiB, named by many rows: a few kilobytes as a file."""
    text = pa.array(["x" * 2**23], pa.string())
    names = pa.DictionaryArray.from_arrays(pa.array([0] * 1024, pa.int32()), text)
    return pa.table({"id": names})


def _list_bomb() -> pa.Table:
    """One row of millions of items."""
    count = MANY // 2
    return pa.table(
        {"images": pa.ListArray.from_arrays([0, count], pa.array(np.zeros(count, np.int8)))}
    )


PARQUETS: dict[str, Callable[[], pa.Table]] = {
    "a page": lambda: pa.table({"id": pa.array(["x" * (3 * MANY)])}),
    "a dictionary": _dictionary_bomb,
    "a list": _list_bomb,
}


@pytest.mark.parametrize("what", PARQUETS)
def test_parquet_unpacks_within_the_memory_of_a_process_apart(
    tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "posts.parquet"
    pq.write_table(PARQUETS[what](), path, compression="zstd")
    assert path.stat().st_size < 2**20
    if what == "a dictionary":
        with pytest.raises(InputError, match=r"memory to unpack|ends the process"):
            read_all(path)
    else:
        posts, [reject] = read_all(path)
        assert (posts, reject.code, reject.row) == ([], "row_too_large", None)
    # And the next file is read.
    pq.write_table(pa.Table.from_pylist([GOOD]), path)
    [(_, post)], _ = read_all(path)
    assert post.id == "1"


def test_a_process_that_dies_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "posts.parquet"
    pq.write_table(pa.Table.from_pylist([GOOD]), path)
    assert len(read_all(path)[0]) == 1
    [process] = parquet._idle
    process.kill()
    process.wait()
    with pytest.raises(InputError, match="ends the process"):
        read_all(path)
    assert len(read_all(path)[0]) == 1


def test_a_time_that_python_cannot_hold_costs_its_row(tmp_path: Path) -> None:
    path = tmp_path / "posts.parquet"
    rows = pa.Table.from_pylist([GOOD, {**GOOD, "id": "2"}]).drop_columns("timestamp")
    times = pa.array([2**60, 2**50], pa.timestamp("us"))
    pq.write_table(rows.append_column("timestamp", times), path)
    [(line, post)], [reject] = read_all(path)
    assert (line, post.id, post.timestamp) == (2, "2", "2005-09-05T05:58:26Z")
    assert (reject.post, reject.code) == ("1", "bad_timestamp")


def test_who_stops_in_the_middle_of_a_file_leaves_nothing_for_the_next(tmp_path: Path) -> None:
    path = tmp_path / "posts.parquet"
    pq.write_table(pa.table({"id": [str(i) for i in range(5000)]}), path)
    rows = parquet.read_parquet(str(path))
    assert next(rows)[0] == {"id": "0"}
    rows.close()  # type: ignore[attr-defined]
    pq.write_table(pa.Table.from_pylist([GOOD]), path)
    assert len(read_all(path)[0]) == 1


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=12,
)


def _values_of(text: str) -> list[Any] | None:
    """Items of the lists, and the other values, that stand one behind the other; None: no JSON."""
    values: list[Any] = []
    text = text.strip(" \t\r\n")
    try:
        while True:
            value, end = json.JSONDecoder().raw_decode(text)
            values += value if isinstance(value, list) else [value]
            text, first = text[end:].lstrip(" \t\r\n"), text[0]
            if text and (first not in "[{" or text[0] not in "[{"):
                return None
            if not text:
                return values
    except ValueError:
        return None


@settings(max_examples=100)
@given(
    value=VALUES,
    indent=st.sampled_from([None, 0, 3]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32"]),
    piece=st.integers(1, 9),
    change=st.none() | st.tuples(st.integers(0, 200), st.text('[]{},:"0 x', max_size=2)),
)
def test_items_read_one_by_one_are_those_of_the_list(
    value: Any, indent: int | None, encoding: str, piece: int, change: tuple[int, str] | None
) -> None:
    """Wherever the pieces end, and whatever is wrong: what `json` reads whole, or value by
    value."""
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    if change is not None:
        at = change[0] % (len(text) + 1)
        text = text[:at] + change[1] + text[at + 1 :]
    file = cast(IO[bytes], io.BufferedReader(io.BytesIO(text.encode(encoding))))
    expected = _values_of(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("boig_core.data.reading.json_items._PIECE", piece)
        try:
            items: list[Any] | None = list(json_items(as_utf8(file, encoding), 10_000))
        except ValueError:
            items = None
    assert items == expected


class Posts(BaseHTTPRequestHandler):
    """A host of posts files and of redirects, with a name of its own for each kind of trouble."""

    body: ClassVar[bytes] = json.dumps(GOOD).encode()
    over: ClassVar[threading.Event] = threading.Event()

    def do_GET(self) -> None:
        name = self.path.strip("/").partition(".")[0]
        if name == "inside":
            self.send_response(302)
            self.send_header("Location", "http://169.254.169.254/latest/meta-data.jsonl")
            self.end_headers()
        elif name == "loop":
            self.send_response(302)
            self.send_header("Location", self.path)
            self.end_headers()
        elif name == "busy":
            self.send_response(503)
            self.end_headers()
        elif name == "moved":
            self.send_response(301)
            self.send_header("Location", "/good.jsonl")
            self.end_headers()
        else:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(self.body)
            while name == "slow" and not self.over.wait(0.02):
                try:
                    self.wfile.write(b"\n")
                except OSError:
                    break

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A host that passes for a public one; all others are looked at."""
    Posts.over.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Posts) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        real = web.public_address
        monkeypatch.setattr(
            web,
            "public_address",
            lambda name, port: "127.0.0.1" if port == http.server_port else real(name, port),
        )
        yield f"http://public.example:{http.server_port}"
        Posts.over.set()
        http.shutdown()


def test_a_posts_file_from_the_web_comes_through_the_guarded_door(
    host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(read_all(f"{host}/good.jsonl")[0]) == 1
    assert len(read_all(f"{host}/moved.jsonl")[0]) == 1
    for name, rule in (
        ("inside", r"private address 169\.254\.169\.254"),
        ("loop", "redirects more than 5 times"),
    ):
        with pytest.raises(InputError, match=rule):
            read_all(f"{host}/{name}.jsonl")
    with pytest.raises(StoreUnavailableError, match="answers 503"):
        read_all(f"{host}/busy.jsonl")
    with pytest.raises(InputError, match="private address"):
        read_all("http://127.0.0.1:9/posts.jsonl")
    monkeypatch.setattr(opening, "_WEB_BYTES", 10)
    with pytest.raises(InputError, match="more than 10 bytes"):
        read_all(f"{host}/good.jsonl")


def test_a_posts_file_from_the_web_has_a_deadline(
    host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "_WEB_SECONDS", 0.3)
    with pytest.raises(StoreUnavailableError, match="takes too long"):
        read_all(f"{host}/slow.jsonl")


def test_a_posts_file_never_falls_from_https_to_http(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Rejected, match="from https to"):
        web.next_hop("https://public.example/posts.jsonl", "http://public.example/posts.jsonl")


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_a_line_that_is_too_long_is_one_reject_and_the_next_is_read(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_rows, "LONGEST_ITEM", 1000)
    monkeypatch.setattr(csv_rows, "LONGEST_ROW", 1000)
    good = json.dumps(GOOD) if suffix == "jsonl" else ",".join(f'"{v}"' for v in GOOD.values())
    lines = [",".join(GOOD)] if suffix == "csv" else []
    lines += [good, "x" * 5000, good, "y" * 999, good, "z" * 998]
    (tmp_path / f"posts.{suffix}").write_text("\n".join(lines))
    posts, rejects = read_all(tmp_path)
    first = len(lines) - 5
    assert [line for line, _ in posts] == [first, first + 2, first + 4]
    assert [(reject.line, reject.code) for reject in rejects] == [
        (first + 1, "row_too_large"),
        (first + 3, "row_too_large"),
        (first + 5, "bad_json"),
    ]
