"""A server that trickles has the time of one answer, whatever part of it it trickles."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest

from boig_core.config import Data
from boig_core.data.fetching.fetch import Fetcher
from boig_core.data.fetching.reach import ImageReference, Reach
from boig_core.data.imaging.images import StoredImage
from boig_core.data.rejects import Rejected

pytestmark = pytest.mark.slow  # of the whole suite, not of its quick part

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
PARTS = {
    "status line": (b"HTTP/1.1 2", b"0"),
    "reason": (b"HTTP/1.1 200 ", b"x"),
    "header line": (b"HTTP/1.1 200 OK\r\nX-Slow: ", b"x"),
    "headers": (b"HTTP/1.1 200 OK\r\n", b"X-Slow: 1\r\n"),
    "interim answers": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "body of a length": (b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n", b"x"),
    "body up to the end": (b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", b"x"),
    "chunk size": (CHUNKED, b"0"),
    "chunk extension": (CHUNKED + b"5;x=", b"y"),
    "chunk": (CHUNKED + b"ffff\r\n", b"x"),
    "chunks": (CHUNKED, b"1\r\nx\r\n"),
    "trailer": (CHUNKED + b"1\r\nx\r\n0\r\nX-Slow: ", b"x"),
    "trailers": (CHUNKED + b"1\r\nx\r\n0\r\n", b"X-Slow: 1\r\n"),
    "TLS handshake": (b"\x16\x03\x03\x40\x00\x02\x00\x3f\xfc\x03\x03", b"x"),
}


class Trickler:
    """Answers every connection with a start, and then with drips for as long as anybody listens."""

    def __init__(self, start: bytes, drip: bytes) -> None:
        self.connections = 0
        self.hung_up, self._over = threading.Event(), threading.Event()
        self._start, self._drip = start, drip
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._server.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._server.accept()
                self.connections += 1
                threading.Thread(target=self._trickle, args=(connection,), daemon=True).start()

    def _trickle(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            connection.recv(4096)
            connection.sendall(self._start)
            while not self._over.wait(0.02):
                connection.sendall(self._drip)
        if not self._over.is_set():
            self.hung_up.set()

    def close(self) -> None:
        self._over.set()
        self._server.close()


@pytest.fixture
def trickler(request: pytest.FixtureRequest) -> Iterator[Trickler]:
    server = Trickler(*PARTS[request.param])
    yield server
    server.close()


@pytest.mark.parametrize("trickler", PARTS, indirect=True)
def test_the_deadline_holds_in_every_part_of_an_answer(
    trickler: Trickler, request: pytest.FixtureRequest
) -> None:
    scheme = "https" if "TLS" in request.node.callspec.id else "http"
    data = Data(allow_private_hosts=True, fetch_timeout_s=0.5)
    reference = ImageReference("", f"{scheme}://127.0.0.1:{trickler.port}/x.png")
    results: list[StoredImage | Rejected] = []

    def fetch() -> None:
        results.extend(image for _, image in Fetcher(data).fetch([reference], Reach()))

    thread = threading.Thread(target=fetch, daemon=True)
    thread.start()
    # Without a deadline it would go on as long as the server does.
    thread.join(2)
    assert not thread.is_alive()
    [result] = results
    assert isinstance(result, Rejected)
    assert (result.code, trickler.connections) == ("http_error", 1)
    assert "takes too long" in result.reason
    assert trickler.hung_up.wait(5)


def test_a_server_that_says_nothing_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("boig_core.data.fetching.fetch.time.sleep", lambda seconds: None)
    server = Trickler(b"", b"")
    data = Data(allow_private_hosts=True, fetch_timeout_s=0.1)
    reference = ImageReference("", f"http://127.0.0.1:{server.port}/x.png")
    [(_, result)] = Fetcher(data).fetch([reference], Reach())
    server.close()
    assert isinstance(result, Rejected)
    assert (result.code, server.connections) == ("http_error", 3)
    assert "(3 tries)" in result.reason
