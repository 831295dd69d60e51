"""Fetching: from a folder, from S3, and over HTTP from a server that misbehaves in every way it
can."""

import errno
import os
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from boig_core.config import Data
from boig_core.data.fetching import fetch, web
from boig_core.data.fetching.fetch import Fetcher, opted_out, retry_after
from boig_core.data.fetching.reach import ImageReference, Reach
from boig_core.data.imaging.images import StoredImage
from boig_core.data.rejects import Rejected
from boig_core.errors import StoreUnavailableError
from boig_core.storage import store
from tests.unit.data.misbehaving import Server, png


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    Server.asked, Server.agents, Server.at_once, Server.connections = Counter(), set(), [], 0
    http = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setattr("boig_core.data.fetching.fetch.time.sleep", lambda seconds: None)
    yield f"http://127.0.0.1:{http.server_port}"
    http.shutdown()
    thread.join()
    http.server_close()


INTRANET = Data(allow_private_hosts=True, max_image_mb=0.1, fetch_timeout_s=5)


def code(found: StoredImage | Rejected) -> str:
    return found.code if isinstance(found, Rejected) else "stored"


def fetch_all(
    wanted: list[str], data: Data = INTRANET, base: str = "/"
) -> list[StoredImage | Rejected]:
    """Results in the order of what was asked for."""
    references = [ImageReference(base, address) for address in wanted]
    result = dict(Fetcher(data).fetch(references, Reach()))
    assert result.keys() == set(references)
    return [result[item] for item in references]


def test_a_folder(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a b.png").write_bytes(png())
    (tmp_path / "torn.png").write_bytes(png()[:-20])
    (tmp_path / "large.png").write_bytes(b"\0" * 200_000)
    absolute = str(tmp_path / "images" / "a b.png")
    quoted = absolute.replace(" ", "%20")
    local = [f"{tmp_path}/{name}" for name in ("gone.png", "torn.png", "large.png", "images")]
    result = fetch_all([absolute, f"file://{quoted}", *local, "ftp://x/y", "a\0b"])
    assert [code(item) for item in result] == ["stored"] * 2 + [
        "image_missing",
        "image_unreadable",
        "image_too_large",
        "image_missing",
        "image_missing",
        "image_missing",
    ]


def test_what_is_no_regular_file_is_a_reject(tmp_path: Path) -> None:
    """A pipe that nobody writes to would hold a worker for ever, and a device fill its memory."""
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "link.png").symlink_to("/dev/zero")
    result = fetch_all([str(tmp_path / "pipe.png"), "/dev/zero", f"file://{tmp_path}/link.png"])
    assert [code(item) for item in result] == ["image_missing"] * 3
    assert all("regular file" in item.reason for item in result if isinstance(item, Rejected))


def test_no_more_of_an_object_is_read_than_is_allowed(
    s3_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.write_bytes(f"{s3_bucket}/large.png", b"x" * 300_000)
    store.write_bytes(f"{s3_bucket}/good.png", png())
    read: list[int] = []

    def read_bytes(uri: str, most: int | None = None) -> bytes:
        content = whole(uri, most)
        read.append(len(content))
        return content

    whole = store.read_bytes
    monkeypatch.setattr(store, "read_bytes", read_bytes)
    result = fetch_all([f"{s3_bucket}/large.png", f"{s3_bucket}/good.png"], base=s3_bucket)
    assert [code(item) for item in result] == ["image_too_large", "stored"]
    assert max(read) == int(INTRANET.max_image_mb * 2**20) + 1


def test_https_never_falls_to_http(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def get(self: Fetcher, url: str) -> bytes | str:
        asked.append(url)
        return "http://public.example/a.png" if url.startswith("https") else png()

    monkeypatch.setattr(Fetcher, "_get", get)
    assert code(fetch_all(["https://public.example/a.png"])[0]) == "http_error"
    assert asked == ["https://public.example/a.png"]
    assert code(fetch_all(["http://public.example/a.png"])[0]) == "stored"


def test_http(server: str) -> None:
    paths = ["good", "moved", "second-try", "gone", "loop", "to-file", "huge", "busy", "forbidden"]
    result = fetch_all([f"{server}/{path}.png" for path in paths])
    assert {path: code(item) for path, item in zip(paths, result, strict=True)} == {
        "good": "stored",
        "moved": "stored",
        "second-try": "stored",
        "gone": "image_missing",
        "loop": "http_error",
        "to-file": "host_refused",
        "huge": "image_too_large",
        "busy": "http_error",
        "forbidden": "http_error",
    }
    # Only what may pass is asked for again.
    assert (
        Server.asked["/busy.png"],
        Server.asked["/second-try.png"],
        Server.asked["/gone.png"],
    ) == (3, 2, 1)


@pytest.mark.parametrize("path", ["trickling-headers", "trickling-body"])
def test_a_server_that_trickles_is_hung_up_on(server: str, path: str) -> None:
    Server.hung_up.clear()
    [result] = fetch_all([f"{server}/{path}"], INTRANET.model_copy(update={"fetch_timeout_s": 0.5}))
    assert code(result) == "http_error"
    assert Server.hung_up.wait(5)


def test_a_body_of_a_length_that_is_not_allowed_is_not_waited_for(server: str) -> None:
    small = INTRANET.model_copy(update={"max_image_mb": 0.05, "fetch_timeout_s": 0.5})
    [result] = fetch_all([f"{server}/trickling-body"], small)
    assert code(result) == "image_too_large"


@pytest.mark.parametrize(
    ("path", "expected", "asked"),
    [
        ("less-than-it-says", "http_error", 3),
        ("nonsense", "http_error", 3),
        ("to-nonsense", "http_error", 1),
        ("packed", "image_too_large", 1),
    ],
)
def test_servers_that_lie(server: str, path: str, expected: str, asked: int) -> None:
    [result] = fetch_all([f"{server}/{path}"])
    assert (code(result), Server.asked[f"/{path}"]) == (expected, asked)


def test_a_redirect_to_a_private_address_is_not_followed(
    server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first hop is let through as if it were public, the second one is looked at again."""
    real, port = web.public_address, int(server.rsplit(":", 1)[1])
    monkeypatch.setattr(
        web, "public_address", lambda host, at: "127.0.0.1" if at == port else real(host, at)
    )
    [result] = fetch_all([f"http://public.example:{port}/to-metadata"], Data())
    assert code(result) == "host_refused"
    assert "169.254.169.254" in str(result)


def test_the_connection_goes_to_the_address_that_was_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A name server that answers with a public address first and a private one afterwards gains
    nothing."""
    answers = iter(["93.184.216.34", "127.0.0.1", "127.0.0.1", "127.0.0.1"])
    resolve = socket.getaddrinfo

    def rebinding(host: str, *args: object, **kwargs: object) -> object:
        return (
            [(2, 1, 6, "", (next(answers), 80))]
            if host == "rebinding.example"
            else resolve(host, *args, **kwargs)
        )  # type: ignore[arg-type]

    connected: list[object] = []

    def connect(address: object, *args: object, **kwargs: object) -> None:
        connected.append(address)
        raise OSError("no network here")

    monkeypatch.setattr(web.socket, "getaddrinfo", rebinding)
    monkeypatch.setattr("urllib3.util.connection.create_connection", connect)
    monkeypatch.setattr(fetch, "_ATTEMPTS", 1)
    [result] = fetch_all(["http://rebinding.example/x.png"], Data())
    assert code(result) == "http_error"
    assert connected == [("93.184.216.34", 80)]


ODD = [
    "http://[::1/x.png",
    "http://",
    "https:///x",
    "HTTP://127.0.0.1:99999999/x",
    "http://a b/x",
    "http://\ud800.example/x",
    "//x/y.png",
    "http://x:y@/",
]


@pytest.mark.parametrize("reference", ODD)
def test_odd_references_are_rejected(reference: str) -> None:
    assert code(fetch_all([reference], Data())[0]) in {
        "http_error",
        "host_refused",
        "image_missing",
    }


@settings(max_examples=150)
@given(
    st.text(max_size=30),
    st.sampled_from(["http://", "http://127.0.0.1:9/", "file://", "s3:/", "/tmp/none/", ""]),
)
@example("/", "s3:/")
@example("/0/a key", "s3:/")
def test_no_reference_ends_the_run(text: str, start: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(web.socket, "getaddrinfo", lambda *args, **kwargs: [])
        patch.setattr("boig_core.data.fetching.fetch.time.sleep", lambda seconds: None)
        assert code(fetch_all([start + text], Data())[0]) != "stored"


class Answered(Exception):
    """An answer of S3, as botocore raises it."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.response = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": 400}}


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        (Answered("KeyTooLongError"), "image_missing"),
        (Answered("InvalidURI"), "image_missing"),
        (Answered("ExpiredToken"), "away"),
        (Answered("InternalError"), "away"),
        (OSError(errno.ENAMETOOLONG, "File name too long"), "image_missing"),
        (OSError(errno.ELOOP, "Too many levels"), "image_missing"),
        (OSError(errno.EMFILE, "Too many open files"), "away"),
        (OSError(errno.EIO, "Input/output error"), "away"),
        (RuntimeError("of a library"), "image_missing"),
        (KeyError("of a library"), "image_missing"),
    ],
)
def test_what_a_reference_is_to_blame_for_is_its_reject_and_the_rest_ends_the_run(
    monkeypatch: pytest.MonkeyPatch, failure: Exception, expected: str
) -> None:
    def read_bytes(uri: str, most: int | None = None) -> bytes:
        if isinstance(failure, Answered):
            raise StoreUnavailableError(uri, "answered", "try again") from failure
        raise failure

    monkeypatch.setattr(store, "read_bytes", read_bytes)
    if expected == "away":
        with pytest.raises(StoreUnavailableError):
            fetch_all(["s3://bucket/x.png"], base="s3://bucket")
    else:
        assert code(fetch_all(["s3://bucket/x.png"], base="s3://bucket")[0]) == expected


def test_an_opt_out_counts(server: str) -> None:
    result = fetch_all([f"{server}/opted-out.png", f"{server}/opted-out-and-moved.png"])
    assert [code(item) for item in result] == ["opted_out", "opted_out"]
    assert Server.asked["/good.png"] == 0
    assert Server.agents == {INTRANET.user_agent}


@pytest.mark.parametrize(
    ("tags", "found"),
    [
        ([], ""),
        (["noindex, nofollow"], ""),
        (["NoAI"], "noai"),
        (["noindex", "none, noimageai"], "noimageai"),
        (["otherbot: noai, noimageai"], ""),
        (["otherbot: noindex, boig: noai"], "noai"),
        (["boig: noindex, noai"], "noai"),
        (["unavailable_after: 25 Jun 2010 15:00:00 PST, noai"], "noai"),
        (["max-snippet: 10"], ""),
    ],
)
def test_an_opt_out_is_read_from_a_header_with_names_and_values(
    tags: list[str], found: str
) -> None:
    assert opted_out(tags, "boig/0.1 (test)") == found


def test_a_server_that_asks_for_patience_gets_it_within_reason(
    server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    monkeypatch.setattr("boig_core.data.fetching.fetch.time.sleep", slept.append)
    [result] = fetch_all([f"{server}/later.png"])
    assert code(result) == "http_error"
    assert "asks for 3600 s (2 tries)" in str(result)
    assert slept == [7.0]


def test_retry_after_is_a_number_or_a_date() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    assert [
        retry_after(text, now)
        for text in (
            None,
            "3",
            "soon",
            "Thu, 01 Jan 2026 00:00:09 GMT",
            "Wed, 31 Dec 2025 00:00:00 GMT",
            "\u00b2",
            "Thu, 01 Jan 2026 99999999999999999999:00:00 GMT",
        )
    ] == [
        None,
        3.0,
        None,
        9.0,
        0.0,
        None,
        None,
    ]


def test_a_host_is_asked_a_few_things_at_a_time(server: str) -> None:
    data = INTRANET.model_copy(update={"fetch_per_host": 2, "fetch_concurrency": 12})
    assert {
        code(item) for item in fetch_all([f"{server}/slow-{i}.png" for i in range(12)], data)
    } == {"stored"}
    assert max(Server.at_once) == 2


def test_an_empty_answer_leaves_its_connection_usable(server: str) -> None:
    result = fetch_all(
        [f"{server}/{path}.png" for path in ("second-try", "gone", "forbidden", "good")],
        INTRANET.model_copy(update={"fetch_concurrency": 1}),
    )
    assert [code(item) for item in result] == ["stored", "image_missing", "http_error", "stored"]
    assert (Server.asked["/second-try.png"], Server.connections) == (2, 1)


def test_a_server_that_is_not_there(server: str) -> None:
    [result] = fetch_all(["http://127.0.0.1:9/x.png"])
    assert code(result) == "http_error"


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "localhost",
        "[::1]",
        "10.1.2.3",
        "169.254.169.254",
        "[::ffff:10.0.0.1]",
        "[64:ff9b::a00:1]",
        "[2002:7f00:1::1]",
        "0.0.0.0",
        "2130706433",
    ],
)
def test_private_addresses_are_refused(host: str, server: str) -> None:
    port = server.rsplit(":", 1)[1]
    [result] = fetch_all([f"http://{host}:{port}/good.png"], Data())
    assert code(result) == "host_refused"
    assert Server.asked["/good.png"] == 0
