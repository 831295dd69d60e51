"""Memory of a process that does the same work again and again: what is freed serves what comes
next.

By itself the C library gives much of it back to the kernel, which clears each page anew before it
is used again.
"""

from __future__ import annotations

import ctypes
from contextlib import suppress
from typing import Final

# Of mallopt(3).
_TRIM_THRESHOLD: Final = -1
_TOP_PAD: Final = -2
_MMAP_THRESHOLD: Final = -3
_ARENA_MAX: Final = -8


def keep_memory(most: int) -> None:
    """Have this process keep memory that is freed.

    Args:
        most: bytes that stay at hand.
    """
    # Other C libraries have no such setting.
    with suppress(AttributeError):
        set_option = ctypes.CDLL(None).mallopt
        set_option(_TRIM_THRESHOLD, most)
        set_option(_TOP_PAD, 2**22)
        # The most that it takes.
        set_option(_MMAP_THRESHOLD, 2**25)
        # What one thread has freed serves the others, too; Python runs one at a time.
        set_option(_ARENA_MAX, 1)
