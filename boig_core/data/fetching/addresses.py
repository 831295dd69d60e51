"""Addresses of hosts: which one a connection may go to, judged by what networks it leads into.

Leaves out: the connection (see `web`).
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterator
from typing import Final

from boig_core.data.rejects import Again, Rejected

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
