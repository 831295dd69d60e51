"""A web of images on the loopback addresses, good and hostile, in one process: ``GET /KIND/N.jpg``.

It has to be cheap, since it shares the cores with what is measured: a bare protocol of asyncio,
bodies put together from encoded parts, no framework. What a kind does stands in `ServedWeb.answer`;
what has to become of it, in `ingest_rows`. ``/stats`` counts what was asked for, ``/reset`` forgets
it. Linux alone answers on all of 127.0.0.0/8 without being told to.

    python -m infra.evidence.data.ingest_server PORT [PICTURES]     prints one line of JSON when it
                                                                    is ready
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import socket
import struct
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final

from infra.evidence.data.ingest_images import Pool, bomb

HOSTS: Final = tuple(f"127.0.0.{i}" for i in range(2, 34))
THROTTLING_HOST: Final = "127.0.0.40"
"""The one that answers 429, so that a client which spares a host that asks for it loses nothing at
the others."""
CAP_MB: Final = 4
"""What a client is told to accept at most; the kind ``endless`` sends half as much again."""
TRICKLE_S: Final = 12.0
"""How long the kind ``trickle`` goes on when the client lets it."""
_HOPS: Final = 3
_STATUS: Final = {
    200: "OK",
    302: "Found",
    403: "Forbidden",
    404: "Not Found",
    410: "Gone",
    429: "Too Many Requests",
}
_HTML: Final = (
    b"<!DOCTYPE html>\n<html><head><title>Sign in</title></head><body>"
    + b"<p>Please sign in to see this image.</p>" * 40
)
_SVG: Final = b'<svg xmlns="http://www.w3.org/2000/svg" width="512" height="512"><rect width="512" height="512" fill="teal"/></svg>'


@dataclass(frozen=True)
class ServedAnswer:
    """What goes back: ``length`` is what the header claims where it is not the body's; ``fault`` is
    how the connection misbehaves."""

    status: int
    body: bytes = b""
    media: str = "image/jpeg"
    headers: str = ""
    length: int | None = None
    fault: str = ""

    def head(self) -> bytes:
        """Status line and headers."""
        # Without a length a client learns only on the way that it is too much.
        size = (
            "Transfer-Encoding: chunked"
            if self.fault == "endless"
            else f"Content-Length: {self.length or len(self.body)}"
        )
        status = f"HTTP/1.1 {self.status} {_STATUS.get(self.status, 'Error')}"
        return f"{status}\r\nContent-Type: {self.media}\r\n{size}\r\n{self.headers}\r\n".encode()


@dataclass
class ServedWeb:
    """All kinds of images, and what was asked for."""

    pool: Pool
    port: int
    asked: Counter[str] = field(default_factory=Counter)
    tries: Counter[tuple[str, int]] = field(default_factory=Counter)
    connections: int = 0
    first: float = 0.0
    last: float = 0.0

    def answer(self, kind: str, n: int, host: str) -> ServedAnswer:
        """Answer for image ``n`` of a kind; the names are those of `ingest_rows.KINDS`."""
        match kind:
            case "good" | "elsewhere-good":
                return self._good(n)
            case "gone-404" | "gone-410" | "forbidden-403" | "broken-500":
                return ServedAnswer(int(kind[-3:]))
            # Two failures, since both downloaders try three times (`ingest_runs.TRIES`).
            case "busy-503":
                return self._later(kind, n, tries=2, answer=ServedAnswer(503))
            case "throttled-429":
                return self._later(
                    kind, n, tries=1, answer=ServedAnswer(429, headers="Retry-After: 1\r\n")
                )
            case "torn":
                return ServedAnswer(200, self.pool.jpeg(n)[: 20_000 + n % 5_000])
            case "html":
                return ServedAnswer(200, _HTML)
            case "svg":
                return ServedAnswer(200, _SVG, "image/svg+xml")
            case "moving-gif":
                return ServedAnswer(200, self.pool.animated_gif, "image/gif")
            case "moving-webp":
                return ServedAnswer(200, self.pool.animated_webp, "image/webp")
            case "bomb":
                # Pillow by itself refuses the larger one, and does not even warn of the smaller.
                return ServedAnswer(200, bomb(30_000 if n % 2 else 9_000), "image/png")
            case "noise":
                return ServedAnswer(200, random.Random(n).randbytes(30_000))
            case "empty":
                return ServedAnswer(200)
            case "endless" | "trickle":
                return ServedAnswer(200, length=100_000, fault=kind)
            case "moved":
                return _to(f"/moved-{_HOPS - 1}/{n}.jpg")
            case "circle":
                return _to(f"/circle/{n}.jpg?again")
            case "to-file":
                return _to("file:///etc/hostname")
            case "elsewhere":
                return _to(
                    f"http://{HOSTS[(HOSTS.index(host) + 1) % len(HOSTS)]}:{self.port}/elsewhere-good/{n}.jpg"
                )
            case "noai":
                return ServedAnswer(200, *self.pool.image(n), headers="X-Robots-Tag: noai\r\n")
            case "reset":
                return ServedAnswer(200, self.pool.jpeg(n), fault="reset")
            case "promised":
                return ServedAnswer(
                    200, whole := self.pool.jpeg(n), length=len(whole) + 5_000, fault="close"
                )
            case "cut":
                return ServedAnswer(
                    200, whole := self.pool.jpeg(n), length=len(whole) // 2, fault="close"
                )
        hops = kind.removeprefix("moved-")
        if hops.isdigit():
            return _to(f"/moved-{int(hops) - 1}/{n}.jpg") if hops != "0" else self._good(n)
        return ServedAnswer(404)

    def _good(self, n: int) -> ServedAnswer:
        body, media = self.pool.image(n)
        return ServedAnswer(200, body, media)

    def _later(self, kind: str, n: int, tries: int, answer: ServedAnswer) -> ServedAnswer:
        self.tries[kind, n] += 1
        return answer if self.tries[kind, n] <= tries else self._good(n)

    def control(self, name: str) -> ServedAnswer | None:
        """Answer for the two paths that are no images."""
        if name == "reset":
            self.asked, self.tries, self.connections, self.first, self.last = (
                Counter(),
                Counter(),
                0,
                0.0,
                0.0,
            )
            return ServedAnswer(200)
        if name == "stats":
            return ServedAnswer(200, json.dumps(self.stats()).encode(), "application/json")
        return None

    def stats(self) -> dict[str, Any]:
        """What was asked for since the last reset."""
        kinds = dict(sorted(self.asked.items()))
        return {
            "requests": sum(kinds.values()),
            "connections": self.connections,
            "seconds": round(self.last - self.first, 3),
            "asked": kinds,
        }


class Visit(asyncio.Protocol):
    """One connection; requests come one after another."""

    def __init__(self, web: ServedWeb) -> None:
        self.web = web
        self.received = b""
        self.tasks: set[asyncio.Task[None]] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has connected."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.host = transport.get_extra_info("sockname")[0]
        self.room = asyncio.Event()
        self.room.set()
        self.web.connections += 1

    def connection_lost(self, exc: Exception | None) -> None:
        """It has gone: what was under way for it ends."""
        for task in self.tasks:
            task.cancel()

    def pause_writing(self) -> None:
        """The client does not keep up."""
        self.room.clear()

    def resume_writing(self) -> None:
        """It has caught up."""
        self.room.set()

    def data_received(self, data: bytes) -> None:
        """Answer each request that is whole."""
        # A request may come in pieces, and several may come at once.
        self.received += data
        while (end := self.received.find(b"\r\n\r\n")) >= 0:
            head, self.received = self.received[:end], self.received[end + 4 :]
            path = head.split(b" ", 2)[1].decode()
            kind, _, name = path.strip("/").partition("/")
            answer = self.web.control(kind) if not name else None
            if answer is None:
                self.web.asked[kind] += 1
                # The first and the last request give the time of the steady rate; a client's start
                # lies before.
                self.web.first = self.web.first or time.monotonic()
                answer = self.web.answer(kind, int(name.partition(".")[0]), self.host)
            self._send(answer, b"connection: close" in head.lower())
            self.web.last = time.monotonic()

    def _send(self, answer: ServedAnswer, last: bool) -> None:
        if answer.fault in {"endless", "trickle"}:
            self.transport.write(answer.head())
            task = asyncio.ensure_future(
                self._endless() if answer.fault == "endless" else self._trickle()
            )
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)
        elif answer.fault == "reset":
            connection = self.transport.get_extra_info("socket")
            # Lingering for no time makes the close a reset; the pause lets the first half leave
            # before it.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.transport.write(answer.head() + answer.body[: len(answer.body) // 2])
            asyncio.get_running_loop().call_later(0.02, self.transport.abort)
        else:
            self.transport.write(answer.head() + answer.body)
            if last or answer.fault == "close":
                self.transport.close()

    async def _endless(self) -> None:
        piece = b"10000\r\n" + b"\xff" * 2**16 + b"\r\n"
        for _ in range(CAP_MB * 2**20 * 3 // 2 // 2**16):
            # A client that stops reading must not fill the memory of this process.
            await self.room.wait()
            self.transport.write(piece)
            await asyncio.sleep(0)
        self.transport.write(b"0\r\n\r\n")
        self.transport.close()

    async def _trickle(self) -> None:
        started = time.monotonic()
        while time.monotonic() - started < TRICKLE_S:
            self.transport.write(b"\xff")
            await asyncio.sleep(0.2)
        self.transport.abort()


def _to(location: str) -> ServedAnswer:
    return ServedAnswer(302, headers=f"Location: {location}\r\n")


async def serve(port: int, pictures: int) -> None:
    """Serve until the process is ended."""
    started = time.monotonic()
    pool = Pool(pictures)
    sizes = [len(pool.image(n)[0]) for n in range(500)]
    web = ServedWeb(pool, port)
    addresses = ["127.0.0.1", *HOSTS, THROTTLING_HOST]
    server = await asyncio.get_running_loop().create_server(
        lambda: Visit(web), addresses, port, backlog=1024
    )
    ready = {
        "pictures": pictures,
        "mean_bytes": sum(sizes) // len(sizes),
        "painted_s": round(time.monotonic() - started, 1),
    }
    print(json.dumps(ready), flush=True)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 256))
