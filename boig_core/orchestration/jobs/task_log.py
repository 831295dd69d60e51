"""A stage's log in the task's log: chunks that the stage keeps in the store are shown once each,
behind a cursor that is kept there too.

Ray's log calls have no offset, so they are not used here. Leaves out: how a stage keeps its log
(`boig_core.observability.kept`).
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from boig_core.errors import BoigError, NotFoundInStoreError
from boig_core.storage import runs, store

CURSOR: Final = "log-shown"
"""File beside the chunks' folder: name of the chunk that was shown last."""

LOOK_S: Final = 4.0
"""Seconds between two looks for new chunks."""

LAST_S: Final = 10.0
"""Longest time, in seconds, that the end of a job waits for the end of its log."""

_threads: Final = ThreadPoolExecutor(8, thread_name_prefix="boig-log")
"""A store that hangs must not take the threads that the event loop needs for name lookups."""


class TaskLog:
    """Shows an attempt's log.

    Args:
        attempt: the attempt's folder.
        emit: takes one line.
    """

    def __init__(self, attempt: str, emit: Callable[[str], object]) -> None:
        self._attempt, self._emit = attempt, emit
        self._cursor = store.join(attempt, CURSOR)
        self._shown: str | None = None
        self._doubt = False
        # A look that was cancelled goes on in its thread, and the next one would show the same
        # chunk beside it.
        self._one = threading.Lock()

    def show(self) -> None:
        """Show what is new. The cursor follows each chunk, so whoever goes on after a crash repeats
        one at most, and says so.

        Raises:
            BoigError: the store cannot be read or written; nothing is lost, the next call goes on.
        """
        with self._one:
            if self._shown is None:
                self._shown, self._doubt = self._resume()
            for name, text in runs.read_log(self._attempt, self._shown):
                if self._doubt:
                    where = f"after chunk {self._shown}" if self._shown else "from its beginning"
                    self._emit(
                        f"[the log goes on {where}; the next chunk, {name}, may have been shown before]"
                    )
                    self._doubt = False
                for line in text.splitlines():
                    self._emit(line)
                # Noted before the cursor is written: if the store fails there, this process still
                # repeats nothing.
                self._shown = name
                store.write_bytes(self._cursor, name.encode())

    def _resume(self) -> tuple[str, bool]:
        """Where to go on, and whether someone was here before."""
        try:
            return store.read_bytes(self._cursor).decode(), True
        except NotFoundInStoreError:
            # Whoever comes after a crash amid the first chunk must see that it began.
            store.write_bytes(self._cursor, b"")
            return "", False

    async def follow(self) -> None:
        """Show what is new again and again, until cancelled; a store that is away is tried
        again."""
        while True:
            await self._show()
            await asyncio.sleep(LOOK_S)

    async def finish(self) -> None:
        """Show what is left, unless that takes too long."""
        try:
            await asyncio.wait_for(self._show(), LAST_S)
        except TimeoutError:
            self._emit(
                f"[the store does not answer: the rest of the log is in {self._attempt}/log]"
            )

    async def _show(self) -> None:
        try:
            # The context names the task to Airflow's logging.
            await asyncio.get_running_loop().run_in_executor(
                _threads, contextvars.copy_context().run, self.show
            )
        # A log that cannot be shown now must not fail a task whose job is well.
        except BoigError as exc:
            self._emit(f"[the log waits: {exc}]")
