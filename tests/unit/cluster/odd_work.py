"""Work of `boig_core.cluster.processes` that does what it is told, and a process that hands it out.

python -m tests.unit.cluster.odd_work FOLDER ITEM...
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from boig_core.cluster.processes import Processes
from boig_core.errors import InputError, StoreUnavailableError


class OddError(Exception):
    """One that cannot be put together again."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(first + second)


def work(folder: str, item: str) -> str:
    """Do what the item says; returns it."""
    mark = Path(folder) / item
    if item.startswith("dies-once") and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if item == "dies":
        with mark.open("a") as deaths:
            deaths.write("x")
        os.kill(os.getpid(), signal.SIGKILL)
    if item == "away":
        raise StoreUnavailableError("s3://b", "is away", "wait")
    if item == "wrong":
        raise InputError("x", "is wrong", "mend it")
    if item == "odd":
        raise OddError("very ", "odd")
    if item == "waits":
        (Path(folder) / f"pid-{os.getpid()}").touch()
        time.sleep(60)
    return item


if __name__ == "__main__":
    folder, *items = sys.argv[1:]
    try:
        for number, result in Processes(work, 2).spread((folder, item) for item in items):
            print(number, result, flush=True)
    except Exception as exc:
        print(f"{type(exc).__name__}: {exc}".replace("\n", " "))
