"""A web server that misbehaves in every way it can."""

from __future__ import annotations

import gzip
import io
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler
from typing import ClassVar

from PIL import Image


def png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), "red").save(buffer, format="PNG")
    return buffer.getvalue()


class Server(BaseHTTPRequestHandler):
    """Answers by path."""

    protocol_version = "HTTP/1.1"
    asked: ClassVar[Counter[str]] = Counter()
    connections: ClassVar[int] = 0
    agents: ClassVar[set[str]] = set()
    at_once: ClassVar[list[int]] = []
    now: ClassVar[int] = 0
    two: ClassVar[threading.Event] = threading.Event()
    hung_up: ClassVar[threading.Event] = threading.Event()
    never: ClassVar[threading.Event] = threading.Event()
    lock: ClassVar[threading.Lock] = threading.Lock()

    def setup(self) -> None:
        super().setup()
        type(self).connections += 1

    def do_GET(self) -> None:
        type(self).asked[self.path] += 1
        type(self).agents.add(self.headers["User-Agent"])
        if self.path.startswith("/slow"):
            with self.lock:
                type(self).now += 1
                self.at_once.append(self.now)
                if self.now == 2:
                    self.two.set()
            self.two.wait(5)
            time.sleep(0.05)  # a third would come now
            with self.lock:
                type(self).now -= 1
            self._answer(200, png())
            return
        if self.path == "/good.png" or (
            self.path == "/second-try.png" and self.asked[self.path] > 1
        ):
            self._answer(200, png())
        elif self.path == "/moved.png":
            self._answer(302, b"", Location="/good.png")
        elif self.path == "/loop.png":
            self._answer(302, b"", Location="/loop.png")
        elif self.path == "/to-file.png":
            self._answer(302, b"", Location="file:///etc/passwd")
        elif self.path == "/huge.png":
            self._answer(200, b"\0" * 300_000)
        elif self.path in {"/busy.png", "/second-try.png"}:
            self._answer(503, b"")
        elif self.path == "/forbidden.png":
            self._answer(403, b"")
        elif self.path == "/later.png":
            waits = ["7", "3600"][self.asked[self.path] - 1]
            self._answer(429, b"", **{"Retry-After": waits})
        elif self.path == "/trickling-headers":
            self._trickle(b"HTTP/1.1 200 OK\r\nX-Slow: ")
        elif self.path == "/trickling-body":
            self._trickle(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        elif self.path == "/less-than-it-says":
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + png())
            self.close_connection = True
        elif self.path == "/nonsense":
            self.wfile.write(b"\0\1\2 this is no HTTP\r\n\r\n")
            self.close_connection = True
        elif self.path == "/to-metadata":
            self._answer(302, b"", Location="http://169.254.169.254/latest/meta-data")
        elif self.path == "/to-nonsense":
            self._answer(302, b"", Location="http://[::1/x.png")
        elif self.path == "/packed":
            self._answer(200, gzip.compress(b"\0" * 10_000_000), **{"Content-Encoding": "gzip"})
        elif self.path == "/opted-out.png":
            self._answer(200, png(), **{"X-Robots-Tag": "noindex, noai"})
        elif self.path == "/opted-out-and-moved.png":
            self._answer(302, b"", Location="/good.png", **{"X-Robots-Tag": "boig: noimageai"})
        else:
            self._answer(404, b"")

    def _trickle(self, start: bytes) -> None:
        try:
            self.wfile.write(start)
            for _ in range(600):
                self.wfile.write(b"x")
                self.never.wait(0.02)
        except OSError:
            type(self).hung_up.set()
        self.close_connection = True

    def _answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass
