"""What must hold of any bytes whatever, one property for each kind of what comes from outside: no
error but the project's own, and every item accounted for.

`KINDS` names each with the valid examples that its mutations start from. Leaves out: mutating (see
`infra.evidence.data.mutations`).
"""

from __future__ import annotations

import functools
import json
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

from boig_core.config import Data, load_recipe, recipe_names
from boig_core.data import selection
from boig_core.data.fetching.fetch import Fetcher
from boig_core.data.fetching.reach import ImageReference, Reach
from boig_core.data.fetching.references import address_of
from boig_core.data.imaging.images import decode, normalize
from boig_core.data.posts import accept
from boig_core.data.reading.sources import read_rows
from boig_core.data.reading.x_api import is_page
from boig_core.data.rejects import Rejected
from boig_core.errors import BoigError, InputError, RecipeError
from boig_core.storage import commit, store
from boig_core.storage.manifest import Lineage, publish_folder, verify
from boig_core.verbalization.answer import parse_answer, parse_prediction, print_answer
from infra.evidence.data.mutations import image_seeds, odd_rows, row_seeds

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

_PIXELS = 40_000


@dataclass(frozen=True)
class Kind:
    """What is fuzzed.

    Attributes:
        seeds: valid examples.
        check: raises where the property does not hold.
        examples: mutations of a usual run.
    """

    seeds: Callable[[], list[bytes]]
    check: Callable[[bytes], None]
    examples: int


def check_image(data: bytes) -> None:
    """A reject, or an image that is decoded from what is stored of it, and stays as it is."""
    with suppress(Rejected):
        stored = normalize(data, _PIXELS)
        assert decode(stored.data).shape == (stored.height, stored.width, 3)
        assert normalize(stored.data, _PIXELS).data == stored.data


def check_json_lines(data: bytes) -> None:
    """Each line that is not empty is a post or a reject; a page of the X API may be several, or
    none."""
    lines = _verdicts("posts.jsonl", data)
    if lines is None:
        return
    for number, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if line.strip() and number not in lines:
            page = json.loads(line)
            assert is_page(page)
            assert not page["data"]


def check_csv(data: bytes) -> None:
    """Each row is a post or a reject."""
    _verdicts("posts.csv", data)


def check_json(data: bytes) -> None:
    """A list of rows, or a page: each is a post or a reject."""
    _verdicts("posts.json", data)


def check_url(data: bytes) -> None:
    """A reference of an image leads to bytes, or is a reject; nothing is asked of the network."""
    address = data.decode("utf-8", "replace")
    for file in ("/posts.jsonl", "https://host.example/posts.jsonl?a=/b"):
        with _offline(), suppress(Rejected):
            base = file.rpartition("/")[0]
            Fetcher(Data()).read(ImageReference(base, address_of(file, address)), Reach())
    base = "s3://bucket/day"
    with suppress(Rejected):
        for place in Reach().locations(ImageReference(base, address_of(f"{base}/p.csv", address))):
            assert place.startswith((f"{base}/", "http://", "https://"))


def check_manifest(data: bytes) -> None:
    """An output that is whole, or an error that says what is wrong with it."""
    output = _published()
    Path(output, "manifest.json").write_bytes(data)
    try:
        verify(output)
    except BoigError as exc:
        _check_words(exc)


def check_answer(data: bytes) -> None:
    """A description that can be written, printed and read again, or an error."""
    text = data.decode("utf-8", "replace")
    try:
        description = parse_answer(text)
        printed = print_answer(description)
        assert print_answer(parse_answer(printed)) == printed
        "".join(description.objects).encode()
    except InputError as exc:
        _check_words(exc)
    try:
        assert 0 <= parse_prediction(text) <= 100
    except InputError as exc:
        _check_words(exc)


def check_recipe(data: bytes) -> None:
    """A recipe, or an error that names what is wrong in one line of bounded length."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "mine.yaml")
        file.write_bytes(data)
        try:
            load_recipe(str(file))
        except RecipeError as exc:
            _check_words(exc)


def _check_words(exc: BoigError) -> None:
    assert "\n" not in str(exc)
    assert len(str(exc).encode()) < 20_000


def _verdicts(name: str, data: bytes) -> set[int] | None:
    """Numbers of the lines that became a post or a reject; None: the file itself was refused."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, name)
        file.write_bytes(data)
        try:
            rows = list(read_rows(str(file), Data()))
        except InputError as exc:
            _check_words(exc)
            return None
        con = _tables()
        selection.add_rows(con, str(file), accept(str(file), rows, Data(min_text=0)))
        [(count,)] = con.execute(
            "SELECT (SELECT count(*) FROM candidate) + (SELECT count(*) FROM reject)"
        ).fetchall()
        con.execute("DELETE FROM candidate; DELETE FROM reject")
        assert count == len(rows)
        return {line for line, _ in rows}


@functools.cache
def _tables() -> DuckDBPyConnection:
    """Tables of an ingestion, for as long as this process lives."""
    scratch = tempfile.TemporaryDirectory()
    context = selection.connect(Path(scratch.name), 64)
    _kept.extend((scratch, context))
    return context.__enter__()


_kept: list[Any] = []


@contextmanager
def _offline() -> Iterator[None]:
    """No name is resolved, no connection made, nothing waited for."""

    def numeric(host: Any, port: Any, *args: Any, **options: Any) -> Any:
        return _resolve(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)

    with (
        mock.patch("socket.getaddrinfo", numeric),
        mock.patch("urllib3.util.connection.create_connection", side_effect=ConnectionRefusedError),
        mock.patch("boig_core.data.fetching.fetch.time.sleep"),
    ):
        yield


_resolve = socket.getaddrinfo


def _line_seeds() -> list[bytes]:
    return [b"\n".join(row_seeds()), b"\n".join(odd_rows()[::9]), *row_seeds(), *odd_rows()]


def _csv_seeds() -> list[bytes]:
    header = b"id,account,timestamp,text,image,likes\r\n"
    row = b'p1,brand,2021-03-04T05:06:07Z,"A text, ""quoted"",\r\nof two lines",a.png,12\r\n'
    return [header + row, b"\xef\xbb\xbf" + header + row.replace(b"p1", b"p2") + row]


def _url_seeds() -> list[bytes]:
    return [
        b"https://user:word@host.example:8443/a/b.jpg?x=1#y",
        b"http://93.184.215.14/a.png",
        b"http://[2606:2800:21f:cb07:6820:80da:af6b:8b2c]/a.png",
        b"http://[::ffff:10.0.0.1]/a.png",
        b"http://127.1:80/",
        b"file:///tmp/none/a%20b.png",
        b"images/a.png",
        b"s3://bucket/images/a.png",
        b"/dev/zero",
        b"data:image/png;base64,AAAA",
        b" //cdn.example/a%2Fb c.png?sig=%2B#x\r\n",
        "https:/m\u00fcnchen.example/\u00e9 100%.png".encode(),
        rb"images\..\1%20a.png",
        b"C:\\exports\\1.png",
        b"../../shared/./1.png",
    ]


@functools.cache
def _published() -> str:
    """A committed output, for as long as this process lives."""
    folder = tempfile.TemporaryDirectory()
    _kept.append(folder)
    local, output = Path(folder.name, "local"), str(Path(folder.name, "store", "models", "v1"))
    local.mkdir()
    (local / "weights.bin").write_bytes(b"w")
    attempt = str(Path(folder.name, "store", "runs", "d", "r", "t", "attempt-1"))
    lineage = Lineage(inputs={"dataset": "0" * 64}, recipe="r", code="c")
    where, meta = store.join(attempt, commit.COMMIT), {"loss": 0.5}
    publish_folder(local, output, kind="model", lineage=lineage, commit=where, meta=meta)
    commit.commit(attempt, {"model": output}, {})
    return output


@functools.cache
def _manifest_seeds() -> list[bytes]:
    return [Path(_published(), "manifest.json").read_bytes()]


def _answer_seeds() -> list[bytes]:
    look = (
        '"color and tones":{"colors":{"Red":{"coverage":0.25}},"tones":{"warm":0.50,"cool":0.50}}'
    )
    return [
        f'{{{look},"objects":{{"a red car":[1,2,30,40.5]}}}}'.encode(),
        f'{{{look},"objects":{{}}}}'.encode(),
        b'{"likes":55}',
    ]


def _recipe_seeds() -> list[bytes]:
    mine = b"extends: tiny\nname: mine\nseed: 3\ndata:\n  since: 2020-01-31\n  where: {a: [b, c]}\n"
    shipped = [
        resources.files("boig_core.recipes").joinpath(f"{name}.yaml").read_bytes()
        for name in recipe_names()
    ]
    return [mine, mine + b"x: &x [1, 2]\ny: [*x, *x]\n", *shipped]


KINDS = {
    "images": Kind(image_seeds, check_image, 4000),
    "json-lines": Kind(_line_seeds, check_json_lines, 600),
    "csv": Kind(_csv_seeds, check_csv, 400),
    "json": Kind(lambda: [b"[" + b",".join(row_seeds()) + b"]", *row_seeds()], check_json, 300),
    "urls": Kind(_url_seeds, check_url, 1500),
    "manifests": Kind(_manifest_seeds, check_manifest, 1500),
    "answers": Kind(_answer_seeds, check_answer, 3000),
    "recipes": Kind(_recipe_seeds, check_recipe, 400),
}
