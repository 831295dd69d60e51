"""Notice that this process's machine is about to go: SIGTERM, or what a launcher knows beyond that.

`engine.Engine.step` spreads the notice to all ranks, and the loops then save and end
(`checkpoint.Checkpoints.leave`). Leaves out: who gives notice on a cluster
(`boig_core.cluster.train`), and starting again.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from typing import Any, Final

SIGNALED: Final = threading.Event()
_sources: list[Callable[[], bool]] = [SIGNALED.is_set]


def listen() -> Any:
    """Take SIGTERM as notice from now on, instead of ending at once; returns the handler before. In
    the process's main thread alone."""
    # A handler runs between any two instructions, within a collective, too. So it sets a flag
    # alone, and `Engine.step` acts on it where all ranks meet.
    return signal.signal(signal.SIGTERM, lambda *_: SIGNALED.set())


def ask(source: Callable[[], bool]) -> None:
    """Ask this function, too, which must answer at once."""
    _sources.append(source)


def noticed() -> bool:
    """Whether this process has had notice."""
    return any(source() for source in _sources)
