"""What hosts answer: each kind ends as the image it holds, or in a reason to act on."""

from __future__ import annotations

import gzip
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from boig_core.config import Data
from boig_core.data.fetching import web
from boig_core.data.fetching.fetch import Fetcher
from boig_core.data.fetching.pages import describe_no_image, describe_page
from boig_core.data.fetching.reach import ImageReference, Reach
from boig_core.data.fetching.references import address_of
from boig_core.data.rejects import Rejected
from boig_core.errors import InputError
from boig_core.storage import s3
from tests.unit.data.conftest import Archive, picture, row
from tests.unit.data.reading import GOOD, read_all

PICTURE = picture(1)


class Host(BaseHTTPRequestHandler):
    """Answers each path with raw bytes, and hangs up."""

    answers: ClassVar[dict[str, bytes]] = {}
    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.wfile.write(self.answers.get(self.path, b"HTTP/1.0 404 Not Found\r\n\r\n"))
        self.close_connection = True

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def host() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Host) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("boig_core.data.fetching.fetch.time.sleep", lambda seconds: None)
    Host.answers, Host.asked = {}, []


def answer(body: bytes, *headers: str, status: str = "200 OK", version: str = "1.1") -> bytes:
    lines = [f"HTTP/{version} {status}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def read(url: str) -> bytes:
    data = Data(allow_private_hosts=True, fetch_timeout_s=5)
    return Fetcher(data).read(ImageReference("", url), Reach())


def chunked(body: bytes) -> bytes:
    return b"%x\r\n%b\r\n0\r\nX-Trailer: 1\r\n\r\n" % (len(body), body)


@pytest.mark.parametrize(
    "raw",
    [
        answer(PICTURE, f"Content-Length: {len(PICTURE)}"),
        answer(PICTURE, f"content-length: {len(PICTURE)}", "content-type: text/html"),
        answer(PICTURE, version="1.0"),
        answer(PICTURE, "Connection: close"),
        answer(chunked(PICTURE), "Transfer-Encoding: chunked", "Trailer: X-Trailer"),
        answer(gzip.compress(PICTURE), "Content-Encoding: gzip"),
        answer(gzip.compress(PICTURE), "content-encoding: x-gzip"),
        answer(PICTURE, "Content-Encoding: binary"),
        answer(PICTURE + b"more", f"Content-Length: {len(PICTURE)}"),
    ],
)
def test_an_image_is_taken_however_it_is_sent(host: str, raw: bytes) -> None:
    Host.answers["/a.png"] = raw
    assert read(f"{host}/a.png") == PICTURE


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("location", ["/caf\u00e9 \u00c5.png", "caf%C3%A9%20%c3%85.png#top"])
def test_redirects_are_followed_as_they_are_written(host: str, status: int, location: str) -> None:
    """Raw UTF-8 among them, of which a byte is a line break to some."""
    Host.answers["/start"] = answer(b"", f"location: {location}", status=f"{status} X")
    Host.answers["/caf%C3%A9%20%C3%85.png"] = answer(PICTURE)
    Host.answers["/caf%C3%A9%20%c3%85.png"] = answer(PICTURE)
    assert read(f"{host}/start") == PICTURE


def test_a_location_in_latin_letters_is_read_as_such() -> None:
    assert web.next_hop("http://h/a", "/caf\u00e9") == "http://h/caf\u00e9"


SIGNED = "/a%2fb%20c%2B.png?X-Amz-Credential=A%2F2026%2fs3&X-Amz-Signature=0a%2b+/="


def test_a_signed_address_is_asked_for_sign_by_sign(host: str) -> None:
    Host.answers[SIGNED] = answer(PICTURE)
    assert read(f"{host}{SIGNED}") == PICTURE
    assert Host.asked == [SIGNED]


@pytest.mark.parametrize("host", ["münchen.example", "MU\u0308NCHEN.example", "münchen。example"])
def test_the_name_of_a_host_may_be_of_any_script(
    monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    asked: list[str] = []

    def refuse(name: str, port: int) -> str:
        asked.append(name)
        raise Rejected("host_refused", name)

    monkeypatch.setattr(web, "public_address", refuse)
    address = address_of("/posts.jsonl", f"https://{host}/ä.png")
    with pytest.raises(Rejected, match="host_refused"):
        Fetcher(Data()).read(ImageReference("", address), Reach())
    assert asked == ["xn--mnchen-3ya.example"]


@pytest.mark.parametrize(
    ("raw", "code", "reason"),
    [
        (
            answer(b"<!DOCTYPE html><title>Log\nin</title>"),
            "image_unreadable",
            'web page ("Log in")',
        ),
        (answer(b"\n<!-- x --><HTML><body>"), "image_unreadable", "sent a web page, and no image"),
        (answer(b'{"error": "gone"}'), "image_unreadable", "sent JSON"),
        (answer(b""), "image_unreadable", "nothing (0 bytes)"),
        (answer(b"", status="204 No Content"), "http_error", "204 (No Content)"),
        (answer(PICTURE, status="206 Partial Content"), "http_error", "206 (Partial Content)"),
        (answer(b"", "Location: /x", status="300 X"), "http_error", "300 (Multiple Choices)"),
        (answer(b"", status="302 Found"), "http_error", "302 (Found)"),
        (answer(b"", status="401 X"), "http_error", "401 (Unauthorized)"),
        (answer(b"", status="403 X"), "http_error", "403 (Forbidden)"),
        (answer(b"", status="404 X"), "image_missing", "404 (Not Found)"),
        (answer(b"", status="410 X"), "image_missing", "410 (Gone)"),
        (answer(b"", status="429 X"), "http_error", "429 (Too Many Requests) (3 tries)"),
        (
            answer(b"", "retry-after: 3600", status="429 X"),
            "http_error",
            "429 (Too Many Requests) and asks for 3600 s (1 try)",
        ),
        (answer(b"", status="503 X"), "http_error", "503 (Service Unavailable) (3 tries)"),
        (answer(b"", status="520 X"), "http_error", "answers 520"),
        (answer(PICTURE, "Content-Encoding: gzip"), "http_error", "as its Content-Encoding says"),
        (answer(PICTURE, "Content-Length: 99999"), "http_error", "(3 tries)"),
    ],
)
def test_each_answer_without_an_image_has_a_reason_of_its_own(
    host: str, raw: bytes, code: str, reason: str
) -> None:
    Host.answers["/a.png"] = raw
    with pytest.raises(Rejected) as refused:
        read(f"{host}/a.png")
    assert (refused.value.code, reason in refused.value.reason) == (code, True), refused.value
    assert "signed" not in refused.value.reason


def test_a_refusal_of_a_signed_address_says_that_signatures_run_out(host: str) -> None:
    Host.answers["/a?sig=1"] = answer(b"", status="403 Forbidden")
    with pytest.raises(Rejected, match="signature may have run out"):
        read(f"{host}/a?sig=1")


def test_a_login_page_behind_a_redirect_is_named(host: str) -> None:
    Host.answers["/a.png"] = answer(b"", "Location: /login", status="302 Found")
    Host.answers["/login"] = answer(b"<html>")
    with pytest.raises(
        Rejected, match=r"/a.png: the server sent a web page.*redirects to .*/login"
    ):
        read(f"{host}/a.png")


@pytest.mark.parametrize(
    ("start", "page", "image"),
    [
        (b"<?xml version='1.0'?>\n<html>", "a web page", "a web page"),
        (b"<?xml version='1.0'?><svg>", None, None),
        (b"<Error><Code>AccessDenied</Code>", "an error of S3 (AccessDenied)", None),
        (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS", None),
        (b"[1, 2]", None, "JSON"),
        (b"[" * 16_000, None, None),
        (gzip.compress(PICTURE), None, "a file packed with gzip"),
        (b"PK\x03\x04...", None, "a ZIP archive"),
        (b"%PDF-1.7", None, "a PDF"),
        (b"id,text\n1,<html>", None, None),
        (b"", None, "nothing"),
        (PICTURE, None, None),
    ],
)
def test_what_stands_in_the_place_of_a_file(
    start: bytes, page: str | None, image: str | None
) -> None:
    def agree(words: str | None, expected: str | None) -> bool:
        return words is None if expected is None else (words or "").startswith(expected)

    assert agree(describe_page(start), page)
    assert agree(describe_no_image(start), image or page)


@pytest.mark.parametrize(
    "piece", [b"<!---->", b"<!--", b"<?xml>", b"<title", b"<title>", b"<Error>"]
)
def test_a_page_that_was_made_to_take_long_does_not(piece: bytes) -> None:
    for start in (b"", b"<html>"):
        began = time.monotonic()
        describe_no_image(start + piece * 5000)
        assert time.monotonic() - began < 0.5


def test_a_web_page_on_disk_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"<html><title>Not found</title>")
    with pytest.raises(Rejected, match=r'a.jpg holds a web page \("Not found"\)'):
        Fetcher(Data()).read(ImageReference(str(tmp_path), f"{tmp_path}/a.jpg"), Reach())


@pytest.mark.parametrize(
    ("status", "code", "reason"),
    [
        (404, "NoSuchKey", "s3://b/p/a.png: does not exist"),
        (404, "NoSuchBucket", "s3://b/p/a.png: the bucket does not exist"),
        (403, "AccessDenied", "may not be read (the store refuses this identity (AccessDenied))"),
        (403, "InvalidObjectState", "may not be read (is archived, and cannot be read before"),
    ],
)
def test_what_s3_says_of_a_key_is_repeated(
    monkeypatch: pytest.MonkeyPatch, status: int, code: str, reason: str
) -> None:
    from botocore.exceptions import ClientError

    class Client:
        def get_object(self, **_: str) -> None:
            answer = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
            raise ClientError(answer, "GetObject")  # type: ignore[arg-type]

    monkeypatch.setattr(s3, "client", Client)
    with pytest.raises(Rejected) as refused:
        Fetcher(Data()).read(ImageReference("s3://b/p", "s3://b/p/a.png"), Reach())
    assert refused.value.code == "image_missing"
    assert reason in refused.value.reason


LINES = json.dumps(GOOD).encode()


@pytest.mark.parametrize("name", ["posts.jsonl.gz", "posts.jsonl"])
@pytest.mark.parametrize("packings", [0, 1])
@pytest.mark.parametrize("on_the_way", [False, True])
def test_posts_are_unpacked_once_whoever_has_packed_them(
    host: str, name: str, packings: int, on_the_way: bool
) -> None:
    """HTTP packs a file anew, or has unpacked what is still called .gz."""
    body = gzip.compress(LINES) if packings else LINES
    headers = ["Content-Encoding: gzip"] if on_the_way else []
    Host.answers[f"/{name}"] = answer(gzip.compress(body) if on_the_way else body, *headers)
    [(_, post)], rejects = read_all(f"{host}/{name}", allow_private_hosts=True)
    assert (post.id, rejects) == (GOOD["id"], [])


@pytest.mark.parametrize("name", ["posts.jsonl", "posts.csv", "posts.json", "posts.jsonl.gz"])
def test_a_page_in_the_place_of_posts_is_one_clear_error(host: str, name: str) -> None:
    Host.answers[f"/{name}"] = answer(b"<!doctype html><title>Log in</title>")
    with pytest.raises(InputError, match=r'is a web page \("Log in"\), and no posts file'):
        read_all(f"{host}/{name}", allow_private_hosts=True)


def test_images_of_a_file_from_the_web_are_relative_to_it(
    archive: Archive, host: str, tmp_path: Path
) -> None:
    """As in a page, and never to this machine."""
    (tmp_path / "secret.png").write_bytes(picture(9))
    ways = {
        "a": "/media/1.png",
        "b": f"{host.removeprefix('http:')}/media/2.png",
        "c": "images/3 \u00e9.png#top",
        "d": "../4.png",
        "secret": str(tmp_path / "secret.png"),
        "url": f"file://{tmp_path}/secret.png",
    }
    rows = [row(name, 50, way) for name, way in ways.items()]
    asked = ["/media/1.png", "/media/2.png", "/feed/images/3%20%C3%A9.png", "/4.png"]
    Host.answers |= {path: answer(picture(n)) for n, path in enumerate(asked)}
    Host.answers["/feed/posts.jsonl?from=a/b"] = answer("\n".join(map(json.dumps, rows)).encode())
    made = archive.make(f"{host}/feed/posts.jsonl?from=a/b", allow_private_hosts=True)
    assert made.meta["accepted"] == 4
    assert made.meta["rejected_by_reason"] == {"image_missing": 1, "place_refused": 1}
    assert sorted(Host.asked[1:]) == sorted([*asked, str(tmp_path / "secret.png")])


def warnings(archive: Archive, addresses: Callable[[int], str], posts: int) -> list[str]:
    """Warnings of a card of 40 posts, some of which show one picture."""
    names = {addresses(n) if n < posts else f"own-{n}.png": n for n in range(40)}
    images = {name: picture(0 if n < posts else n) for name, n in names.items()}
    rows = [row(f"p{n}", n, addresses(n) if n < posts else f"own-{n}.png") for n in range(40)]
    made = archive.make(archive.export(rows, images))
    card = json.loads((made.folder / "card.json").read_text())
    return [text for text in card["warnings"] if "pictures that are gone" in text]


def test_one_picture_under_many_addresses_is_named_by_the_card(archive: Archive) -> None:
    """A host's picture of what is no longer there comes with status 200."""
    [warning] = warnings(archive, lambda n: f"gone-{n}.png", 6)
    assert "6 posts share 1 image" in warning
    assert "(post p5 is one)" in warning or "(post p0 is one)" in warning


@pytest.mark.parametrize(("addresses", "posts"), [("gone-{}.png", 4), ("logo.png", 6)])
def test_a_few_or_one_address_are_no_placeholder(
    archive: Archive, addresses: str, posts: int
) -> None:
    assert warnings(archive, addresses.format, posts) == []


def test_an_address_is_carried_alike_from_a_row_and_from_a_redirect(host: str) -> None:
    Host.answers["/a%20b.png"] = answer(PICTURE)
    Host.answers["/start"] = answer(b"", "Location: /a b.png", status="302 Found")
    assert read(address_of("/posts.jsonl", f" {host}/a b.png\n")) == PICTURE
    assert read(f"{host}/start") == PICTURE
    assert Host.asked == ["/a%20b.png", "/start", "/a%20b.png"]
