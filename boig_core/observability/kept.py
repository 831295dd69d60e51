"""A stage's log kept in the store: numbered chunks that are never written anew, so that a reader
with a cursor misses and repeats nothing.

Leaves out: the store itself (the caller passes a function that writes one chunk), and what worker
processes print.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from types import TracebackType

from boig_core.observability.logs import LineFormat


class KeptLog(logging.Handler):
    """Keeps this process's log lines while it is entered; a write that fails is tried again later
    and fails nothing.

    Args:
        put: writes one chunk: its number and its bytes. After a failure it is called again with the
            same two.
        first: number of the first chunk.
        every_s: seconds between two writes.
        limit: most bytes of a chunk, but for one line that is longer.
    """

    def __init__(
        self,
        put: Callable[[int, bytes], None],
        *,
        first: int = 1,
        every_s: float = 3.0,
        limit: int = 2**18,
    ) -> None:
        super().__init__()
        self.setFormatter(LineFormat())
        self._put, self._next, self._every_s, self._limit = put, first, every_s, limit
        self._lines: list[bytes] = []
        self._chunks: deque[tuple[int, bytes]] = deque()
        self._writing = threading.Lock()
        self._ended = threading.Event()
        # A daemon: a process that ends without `__exit__` must not wait for it.
        self._writer = threading.Thread(target=self._write_regularly, name="boig-log", daemon=True)

    def __enter__(self) -> KeptLog:
        logging.getLogger().addHandler(self)
        self._writer.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # In this order: no line comes after the last write, and no thread writes beside it.
        logging.getLogger().removeHandler(self)
        self._ended.set()
        self._writer.join()
        self.write()
        self.close()

    def emit(self, record: logging.LogRecord) -> None:
        """Remember a line."""
        try:
            self._lines.append((self.format(record) + "\n").encode(errors="replace"))
        except Exception:
            self.handleError(record)

    def write(self) -> None:
        """Write what has gathered, in order; what fails stays for the next time."""
        # One at a time and in order: a reader stops at the first number that is missing.
        with self._writing:
            self._cut()
            while self._chunks:
                try:
                    self._put(*self._chunks[0])
                except Exception:  # a line about it would only gather here too
                    return
                self._chunks.popleft()

    def _cut(self) -> None:
        """A chunk's number and content are settled before it is first tried: a write whose answer
        was lost is repeated as it was."""
        # `logging` holds it while it calls `emit`, so no line falls between the two lists.
        with self.lock:  # type: ignore[union-attr]  # Handler.__init__ makes it
            lines, self._lines = self._lines, []
        chunk = b""
        for line in lines:
            if chunk and len(chunk) + len(line) > self._limit:
                self._settle(chunk)
                chunk = b""
            chunk += line
        if chunk:
            self._settle(chunk)

    def _settle(self, chunk: bytes) -> None:
        self._chunks.append((self._next, chunk))
        self._next += 1

    def _write_regularly(self) -> None:
        while not self._ended.wait(self._every_s):
            self.write()
