"""One GET over HTTP(S) as an export's URLs deserve it: to the address that was checked, with every
limit, following nothing by itself.

The body is capped while it streams; a deadline holds for the whole answer, also for a server that
trickles its headers byte by byte. A host whose addresses are not all public is refused, and the
connection goes to the address that was looked at, under the host's own name: asked twice, a name
server may answer twice differently. Leaves out: retries, redirects and how many requests a host
gets (see `fetch`).
"""

from __future__ import annotations

import ipaddress
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, Final, Self
from urllib.request import getproxies, proxy_bypass

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import (
    HTTPError,
    LocationParseError,
    LocationValueError,
    NewConnectionError,
    ProtocolError,
    ProxyError,
    SSLError,
    TimeoutError,
)
from urllib3.util import Timeout, Url, parse_url

from boig_core.config import Data
from boig_core.data.rejects import Rejected

_EMBEDS_IPV4: Final = tuple(
    map(ipaddress.IPv6Network, ("64:ff9b::/96", "::ffff:0:0:0/96", "::/96", "::ffff:0:0/96"))
)
"""Prefixes of IPv6 whose last four bytes are an IPv4 address: NAT64, translated, compatible,
mapped. `ipaddress` calls most of them global."""
_INSIDE: Final = tuple(
    map(
        ipaddress.ip_network,
        (
            *("192.0.0.0/24", "168.63.129.16/32", "100.64.0.0/10"),
            *("fec0::/10", "64:ff9b:1::/48", "2002::/16", "3fff::/20", "5f00::/16"),
        ),
    )
)
"""Networks that lead inside whatever `ipaddress` says, whose tables change with Python's version:
protocol assignments, Azure's own server, carriers' NAT; site-local, local NAT64, 6to4 whose relays
are gone, documentation, segment routing."""
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_PIECE: Final = 65536
_PORTS: Final = {"http": 80, "https": 443}
_POOLS: Final = 256
"""Hosts whose connections are kept open."""


class Again(Exception):
    """A failure that another try may mend, after ``wait_s`` seconds if the server has named a
    time."""

    def __init__(self, reason: str, wait_s: float | None = None) -> None:
        super().__init__(reason)
        self.wait_s = wait_s


@dataclass(frozen=True)
class Answer:
    """A status and headers; the body is read only when `read` is called. Use with ``with``."""

    url: str
    response: urllib3.BaseHTTPResponse
    deadline: float
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
        """The whole body.

        Raises:
            Rejected: ``image_too_large``, or ``http_error`` when it takes too long.
            Again: the connection broke.
        """
        body = bytearray()
        # Of unpacked bytes, whatever length the headers name: a small packed body can unpack to
        # gigabytes.
        cap = int(self.data.max_image_mb * 2**20)
        with _named(self.url):
            while piece := self.response.read1(_PIECE, decode_content=True):
                body += piece
                if len(body) > cap:
                    raise too_large(self.url, len(body), self.data)
                if time.monotonic() > self.deadline:
                    raise Rejected(
                        "http_error", f"{self.url} takes longer than {self.data.fetch_timeout_s} s"
                    )
        return bytes(body)


@dataclass(frozen=True)
class Web:
    """A client of one process; threads share it.

    Attributes:
        data: limits of the recipe.
    """

    data: Data

    def get(self, url: str) -> Answer:
        """Ask for a URL.

        Raises:
            Rejected: ``host_refused`` (another scheme, or an address that is not public) or
                ``http_error`` (no URL, or TLS that fails).
            Again: no connection, no answer in time, or a name that cannot be resolved now.
        """
        deadline = time.monotonic() + self.data.fetch_timeout_s
        # urllib3 calls `getresponse` without arguments, so the deadline reaches it by the thread.
        _asking.deadline = deadline
        with _named(url):
            target = parse_url(url)
            try:
                response = self._send(target)
            except ProtocolError as exc:
                if not isinstance(exc.args[-1], ConnectionError):
                    raise
                # A server may close a connection that was kept open just as it is used again.
                response = self._send(target)
            return Answer(url, response, deadline, self.data)

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
        timeout = Timeout(connect=self.data.fetch_timeout_s, read=self.data.fetch_timeout_s)
        # By itself urllib3 would follow redirects to hosts that nobody has checked, and make tries
        # that `fetch` does not count.
        options: dict[str, Any] = {
            "headers": headers,
            "redirect": False,
            "retries": False,
            "preload_content": False,
            "timeout": timeout,
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
        manager = urllib3.PoolManager(num_pools=_POOLS, maxsize=self.data.fetch_per_host)
        manager.pool_classes_by_scheme = {"http": _HTTPPool, "https": _HTTPSPool}
        return manager


@cache
def _proxy(url: str) -> urllib3.ProxyManager:
    return urllib3.ProxyManager(url)


# A connection is watched until its headers are there; `Answer.read` watches the rest.
class _HTTP(HTTPConnection):
    def getresponse(self) -> Any:
        with _reaper.watch(self.sock):
            return super().getresponse()


class _HTTPS(HTTPSConnection):
    def getresponse(self) -> Any:
        with _reaper.watch(self.sock):
            return super().getresponse()


class _HTTPPool(HTTPConnectionPool):
    ConnectionCls = _HTTP


class _HTTPSPool(HTTPSConnectionPool):
    ConnectionCls = _HTTPS


class _Reaper:
    """Hangs up on servers that still send headers when the asking thread's deadline comes: a
    socket's own timeout holds between bytes."""

    def __init__(self) -> None:
        self._open: dict[int, tuple[float, socket.socket]] = {}
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._pause = threading.Event()

    @contextmanager
    def watch(self, sock: socket.socket) -> Iterator[None]:
        """Hang up on ``sock`` when the deadline comes before the end of the ``with``."""
        deadline = _asking.deadline
        with self._lock:
            self._open[id(sock)] = deadline, sock
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._reap, daemon=True, name="boig-reaper")
                self._thread.start()
        try:
            yield
        finally:
            with self._lock:
                self._open.pop(id(sock), None)
        if (
            time.monotonic() > deadline
        ):  # headers that were cut off read like headers that have ended
            raise Rejected("http_error", "the server takes too long to answer")

    def _reap(self) -> None:
        while True:
            self._pause.wait(0.25)
            with self._lock:
                for deadline, sock in self._open.values():
                    if time.monotonic() > deadline:
                        with suppress(OSError):
                            # Unlike `close`, this wakes the thread that reads.
                            sock.shutdown(socket.SHUT_RDWR)


_asking = threading.local()
_reaper = _Reaper()


@contextmanager
def _named(url: str) -> Iterator[None]:
    """What urllib3 raises, as what another try may mend and what it may not."""
    try:
        yield
    except (SSLError, LocationParseError, LocationValueError) as exc:
        raise Rejected("http_error", f"{url[:200]}: {type(exc).__name__} {exc}") from exc
    # Before HTTPError, which is the wider kind of all of these.
    except (TimeoutError, NewConnectionError, ProtocolError, ProxyError) as exc:
        raise Again(f"{type(exc).__name__} {exc}".strip()) from exc
    except (HTTPError, ValueError) as exc:
        raise Rejected("http_error", f"{url[:200]}: {type(exc).__name__} {exc}") from exc


def too_large(reference: str, size: int, data: Data) -> Rejected:
    """Why a file of ``size`` bytes or more is left out."""
    return Rejected(
        "image_too_large",
        f"{reference} has {size} bytes or more, at most {data.max_image_mb} MiB are allowed",
    )


def _embedded(address: _Address) -> Iterator[_Address]:
    """The IPv4 addresses that an IPv6 address stands for."""
    if isinstance(address, ipaddress.IPv6Address):
        if any(address in prefix for prefix in _EMBEDS_IPV4):
            yield ipaddress.IPv4Address(address.packed[12:])
        yield from address.teredo or ()


def _is_public(address: _Address) -> bool:
    # `ipaddress` calls multicast addresses global. An address that only embeds another is judged
    # by that one.
    if any(address in prefix for prefix in _EMBEDS_IPV4 if address.version == 6):
        return int(address) > 1
    inside = any(address in network for network in _INSIDE if network.version == address.version)
    return address.is_global and not address.is_multicast and not inside


def public_address(host: str, port: int) -> str:
    """An address of a host, when all its addresses are public.

    Raises:
        Rejected: ``host_refused`` when an address is private, loopback, link-local or otherwise not
            global.
        Again: the name cannot be resolved now.
    """
    try:
        addresses = {
            str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        }
    except (socket.gaierror, UnicodeError) as exc:
        raise Again(f"{host} cannot be resolved") from exc
    if not addresses:
        raise Again(f"{host} has no address")
    # All of them, not only the one that is used: a name that leads inside at all is refused.
    for address in addresses:
        parsed = ipaddress.ip_address(address.split("%")[0])
        if not all(map(_is_public, (parsed, *_embedded(parsed)))):
            raise Rejected(
                "host_refused",
                f"{host} is at the private address {address}; data.allow_private_hosts lets such hosts in",
            )
    # The same one whatever order the name server answers in, so that its pool is found again; IPv4
    # before IPv6, to which many machines have no way.
    return min(addresses, key=lambda address: (":" in address, address))
