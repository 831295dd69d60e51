"""Ports for the servers of tests: a range of its own for each worker of pytest-xdist, below those
that Linux gives to outgoing connections.

A port that is asked of the kernel (0) and given back may be taken by anyone, the other worker's
servers included, before its server binds.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from boig_core.demo.processes import free_ports

EACH = 1000
FIRST = 10_000


def _range_of_worker() -> range:
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    first = FIRST + EACH * (number % 10)
    return range(first, first + EACH)


PORTS: Iterator[int] = free_ports(_range_of_worker())
"""Free ports, each given once."""
