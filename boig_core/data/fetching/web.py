"""One GET over HTTP(S) as an export's URLs deserve it: to the address that was checked, with every
limit, following nothing by itself.

The body is capped while it streams; a deadline holds for the whole answer, also for a server that
trickles it byte by byte, whatever part of it: each read of the socket has only the time that is
left. A host whose addresses are not all public is refused, and the
connection goes to the address that was looked at, under the host's own name: asked twice, a name
server may answer twice differently. Leaves out: retries, redirects and how many requests a host
gets (see `fetch`).
"""

from __future__ import annotations

import http.client
import io
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, Final, Self, TypeVar, cast
from urllib.parse import urljoin, urlsplit
from urllib.request import getproxies, proxy_bypass

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import (
    DecodeError,
    HTTPError,
    LocationParseError,
    LocationValueError,
    NewConnectionError,
    ProtocolError,
    ProxyError,
    SSLError,
)
from urllib3.exceptions import TimeoutError as HTTPTimeoutError
from urllib3.util import Timeout, Url, parse_url

from boig_core.config import Data
from boig_core.data.fetching.addresses import public_address
from boig_core.data.fetching.references import web_address
from boig_core.data.rejects import Again, Rejected

_Manager = TypeVar("_Manager", bound=urllib3.PoolManager)
MAX_REDIRECTS: Final = 5
REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
TRANSIENT: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Statuses that another try may mend."""
_NO_RETRIES: Final = urllib3.Retry(total=False, redirect=False)
_PIECE: Final = 65536
_LATE_S: Final = 0.05
"""Seconds that a read may end after the deadline."""
_PORTS: Final = {"http": 80, "https": 443}
_POOLS: Final = 256
"""Hosts whose connections are kept open."""


class TooSlow(Rejected):
    """An answer that has begun and does not end in time, or a server that does not finish TLS."""


class _Late(Exception):
    """The deadline has passed. None of urllib3's kinds, which it would take for a pause."""


@dataclass(frozen=True)
class Answer:
    """A status and headers; the body is read only when it is asked for. Use with ``with``."""

    url: str
    response: urllib3.BaseHTTPResponse
    data: Data

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if self.response.length_remaining == 0:
            # an answer that was not read to its end, be it empty, blocks its connection
            self.response.drain_conn()
        else:
            self.response.close()  # a body that nobody wants costs more than a new connection
        self.response.release_conn()

    def read(self) -> bytes:
        """The whole body, an image's.

        Raises:
            Rejected: ``image_too_large``, or ``http_error`` when it takes too long.
            Again: the connection broke.
        """
        whole = self.response.length_remaining
        if whole is not None and not self.response.headers.get("Content-Encoding"):
            if whole > self._cap:
                raise too_large(self.url, whole, self.data)
            # In one call: each one costs as much as a tenth of an image.
            with _named(self.url):
                return self.response.read()
        pieces, size = list[bytes](), 0
        # Of unpacked bytes, whatever length the headers name: a small packed body can unpack to
        # gigabytes.
        for piece in self.pieces():
            pieces.append(piece)
            size += len(piece)
            if size > self._cap:
                raise too_large(self.url, size, self.data)
        return b"".join(pieces)

    @property
    def _cap(self) -> int:
        return int(self.data.max_image_mb * 2**20)

    def pieces(self) -> Iterator[bytes]:
        """The body as it comes; raises `Rejected` and `Again` as `read`."""
        with _named(self.url):
            while piece := self.response.read1(_PIECE, decode_content=True):
                yield piece


@dataclass(frozen=True)
class Web:
    """A client of one process; threads share it.

    Attributes:
        data: limits of the recipe.
    """

    data: Data

    def get(self, url: str, seconds: float | None = None) -> Answer:
        """Ask for a URL.

        Args:
            url: what to ask for.
            seconds: time for the whole answer, its body included; None: ``data.fetch_timeout_s``,
                which is also the longest that a server may say nothing.

        Raises:
            Rejected: ``host_refused`` (another scheme, or an address that is not public) or
                ``http_error`` (no URL, TLS that fails, or an answer that takes too long).
            Again: no connection, no answer in time, or a name that cannot be resolved now.
        """
        silence = self.data.fetch_timeout_s
        # urllib3 makes connections and responses by itself, so the time reaches them by the thread.
        _asking.time = _Time(time.monotonic() + (silence if seconds is None else seconds), silence)
        with _named(url):
            address = web_address(url)
            _asking.target = _target(address)
            target = parse_url(address)
            try:
                response = self._send(target)
            except ProtocolError as exc:
                if not isinstance(exc.args[-1], ConnectionError):
                    raise
                # A server may close a connection that was kept open just as it is used again.
                response = self._send(target)
            return Answer(url, response, self.data)

    def _send(self, target: Url) -> urllib3.BaseHTTPResponse:
        """The request, to the address that was checked; headers have come, the body has not."""
        scheme, host = str(target.scheme), str(target.host).strip("[]")
        if scheme not in _PORTS or not target.host:
            raise Rejected("host_refused", f"{target}: only http and https are fetched")
        port = target.port or _PORTS[scheme]
        # `Host` must be named, since the connection goes to an address. Encoded images do not
        # shrink, so nothing packed is asked for.
        headers = {
            "User-Agent": self.data.user_agent,
            "Accept-Encoding": "identity",
            "Host": str(target.netloc),
        }
        left = _asking.time.left()
        # By itself urllib3 would follow redirects to hosts that nobody has checked, and make tries
        # that `fetch` does not count.
        options: dict[str, Any] = {
            "headers": headers,
            "redirect": False,
            "retries": _NO_RETRIES,
            "preload_content": False,
            "timeout": Timeout(connect=left, read=left),
        }
        if (proxy := self._proxies.get(scheme)) is not None and not proxy_bypass(host):
            return _proxy(proxy).urlopen("GET", target.url, **options)
        if self.data.allow_private_hosts:
            pool = self._manager.connection_from_host(host, port, scheme)
        else:
            # These names are part of a pool's key: a connection whose certificate was checked for
            # one name never serves another name at the same address.
            named = (
                {"server_hostname": host, "assert_hostname": host} if scheme == "https" else None
            )
            pool = self._manager.connection_from_host(
                public_address(host, port), port, scheme, pool_kwargs=named
            )
        return pool.urlopen("GET", target.request_uri, **options)

    @cached_property
    def _proxies(self) -> dict[str, str]:
        """Those of the environment; none where addresses are checked, since a proxy would resolve
        names on its own."""
        return getproxies() if self.data.allow_private_hosts else {}

    @cached_property
    def _manager(self) -> urllib3.PoolManager:
        return _timed(urllib3.PoolManager(num_pools=_POOLS, maxsize=self.data.fetch_per_host))


@cache
def _proxy(url: str) -> urllib3.ProxyManager:
    return _timed(urllib3.ProxyManager(url))


@dataclass(frozen=True)
class _Time:
    """When an answer must be there whole, and how long its server may say nothing, in seconds."""

    deadline: float
    silence: float

    def left(self) -> float:
        """Seconds that the next step may take.

        Raises:
            TimeoutError: none.
        """
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the deadline has passed")
        return min(left, self.silence)


_asking = threading.local()


class _TimedStream(io.RawIOBase):
    """What comes through a socket, each read in the time that is left. All parts of an answer pass
    here: a timeout of the socket's own would hold between any two bytes anew."""

    def __init__(self, stream: io.RawIOBase, sock: socket.socket) -> None:
        super().__init__()
        self._stream, self._sock, self._time = stream, sock, _asking.time
        self._begun = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        try:
            left, held = self._time.left(), self._sock.gettimeout()
            # Each change is a call of the kernel, at which another thread takes its turn.
            if not held or abs(held - left) > _LATE_S:
                self._sock.settimeout(left)
            count = self._stream.readinto(buffer)
        except TimeoutError as exc:
            # A server that says nothing at all may do better when it is asked again.
            if not self._begun:
                raise
            raise _Late from exc
        self._begun = True
        return cast("int | None", count)

    def close(self) -> None:
        self._stream.close()
        super().close()


class _Response(http.client.HTTPResponse):
    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.fp = io.BufferedReader(_TimedStream(self.fp.detach(), sock), _PIECE)


class _Verbatim:
    """Asks for the very signs of the address: urllib3 writes ``%2f`` as ``%2F``, and some hosts
    sign the text."""

    def request(self, method: str, url: str, *args: Any, **kwargs: Any) -> None:
        target = _asking.target
        same = target.upper() == url.upper()
        super().request(method, target if same else url, *args, **kwargs)  # type: ignore[misc]


class _HTTP(_Verbatim, HTTPConnection):
    response_class = _Response


class _HTTPS(_Verbatim, HTTPSConnection):
    response_class = _Response

    def _new_conn(self) -> socket.socket:
        sock = super()._new_conn()
        # TLS comes next; its handshake as a whole has the time of the socket.
        sock.settimeout(_asking.time.left())
        return sock

    def connect(self) -> None:
        try:
            super().connect()
        # Of the handshake: that of TCP is of a kind of urllib3's.
        except TimeoutError as exc:
            raise _Late from exc


class _HTTPPool(HTTPConnectionPool):
    ConnectionCls = _HTTP


class _HTTPSPool(HTTPSConnectionPool):
    ConnectionCls = _HTTPS


def _timed(manager: _Manager) -> _Manager:
    manager.pool_classes_by_scheme = {"http": _HTTPPool, "https": _HTTPSPool}
    return manager


@contextmanager
def _named(url: str) -> Iterator[None]:
    """What urllib3 raises, as what another try may mend and what it may not."""
    try:
        yield
    except _Late as exc:
        raise TooSlow("http_error", f"{url} takes too long to answer") from exc
    except (SSLError, LocationParseError, LocationValueError) as exc:
        raise Rejected("http_error", f"{url[:200]}: {type(exc).__name__} {exc}") from exc
    # Before HTTPError, which is the wider kind of all of these.
    except (
        HTTPTimeoutError,
        TimeoutError,
        NewConnectionError,
        ProtocolError,
        ProxyError,
    ) as exc:
        raise Again(f"{type(exc).__name__} {exc}".strip()) from exc
    except DecodeError as exc:
        raise Rejected(
            "http_error", f"{url[:200]}: the body is not packed as its Content-Encoding says"
        ) from exc
    except (HTTPError, ValueError) as exc:
        raise Rejected("http_error", f"{url[:200]}: {type(exc).__name__} {exc}") from exc


def _target(address: str) -> str:
    """What a request asks a host for: path and query of an address."""
    rest = address.partition("://")[2]
    start = re.search(r"[/?]", rest)
    target = rest[start.start() :] if start else ""
    return target if target.startswith("/") else f"/{target}"


def next_hop(url: str, location: str) -> str:
    """Where a redirect leads.

    Args:
        url: what was asked for.
        location: of the answer, as `http.client` reads it: a letter for each byte, though servers
            write UTF-8.

    Raises:
        Rejected: ``http_error`` when it is no URL, or leads from https to http.
    """
    with suppress(UnicodeError):
        location = location.encode("latin-1").decode()
    try:
        target = urljoin(url, location)
        # What cannot be taken apart raises here.
        urlsplit(target)
    except ValueError as exc:
        raise Rejected(
            "http_error", f"{url}: redirects to {location[:80]!r}, which is no URL"
        ) from exc
    # What was asked for in private must not travel in the open.
    if url.lower().startswith("https:") and not target.lower().startswith("https:"):
        raise Rejected("http_error", f"{url} redirects from https to {target[:80]!r}")
    return target


def too_large(reference: str, size: int, data: Data) -> Rejected:
    """Why a file of ``size`` bytes or more is left out."""
    return Rejected(
        "image_too_large",
        f"{reference} has {size} bytes or more, at most {data.max_image_mb} MiB are allowed",
    )
