"""Spreading independent work over processes of this machine: what `spread` does on a cluster,
without the seconds that it takes to start one.

The processes are forks of one that has imported what the work needs, and end with this one, however
it ends. One that dies is replaced, and its item done again. Leaves out: what the work is (see
`ingest`).
"""

from __future__ import annotations

import copy
import gc
import multiprocessing
import os
import pickle
import signal
import threading
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import islice
from multiprocessing.connection import Connection, wait
from typing import Any, Final, Generic, TypeVar

from boig_core.errors import ClusterError
from boig_core.memory import keep_memory
from boig_core.observability.logs import configure_logging, get_logger

T = TypeVar("T")
log = get_logger(__name__)

DEATHS: Final = 8
"""Times that an item may lose its process; one that kills its process each time must not run for
ever."""
_KEPT_BYTES: Final = 2**28
"""Of memory, from item to item."""


class Processes(Generic[T]):
    """Processes that start now, and wait for items.

    Args:
        work: what they do with an item's arguments; a function of a module.
        count: how many.
    """

    def __init__(self, work: Callable[..., T], count: int) -> None:
        # No forks of this process, which has threads.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__, work.__module__])
        self._start: Callable[[], _Process] = lambda: _Process(context, work)
        self._idle = [self._start() for _ in range(count)]
        self._busy: dict[Any, tuple[_Process, tuple[int, tuple[Any, ...]]]] = {}

    def spread(self, items: Iterable[tuple[Any, ...]]) -> Iterator[tuple[int, T]]:
        """Have each item done, then end the processes.

        Args:
            items: arguments of the work; drawn as there is room.

        Yields:
            Number of the item, from 0, and the result, as they come.

        Raises:
            ClusterError: an item has lost its process too often.
            Exception: what the work raised.
        """
        waiting = enumerate(items)
        deaths: Counter[int] = Counter()
        try:
            self._give(islice(waiting, len(self._idle)))
            while self._busy:
                process, item = self._busy.pop(wait(list(self._busy))[0])
                try:
                    error, result = process.connection.recv()
                except (EOFError, OSError):
                    deaths[item[0]] += 1
                    self._idle.append(self._replaced(process, item[0], deaths[item[0]]))
                    self._give([item])
                    continue
                self._idle.append(process)
                if error is not None:
                    raise error
                # First, since the caller may take its time: no core idles meanwhile.
                self._give(islice(waiting, 1))
                yield item[0], result
        finally:
            self.end()

    def end(self) -> None:
        """End the processes, whatever they are at."""
        for process in (*self._idle, *(process for process, _ in self._busy.values())):
            process.end()
        self._idle, self._busy = [], {}

    def _give(self, items: Iterable[tuple[int, tuple[Any, ...]]]) -> None:
        for item in items:
            process = self._idle.pop()
            self._busy[process.connection] = process, item
            process.give(item[1])

    def _replaced(self, process: _Process, number: int, deaths: int) -> _Process:
        """A new process in place of one that has died over an item."""
        code = process.end()
        if deaths > DEATHS:
            raise ClusterError(
                f"item {number}",
                f"has lost its process {deaths} times, the last with exit code {code}",
                "see whether the machine has enough memory, then start again",
            )
        log.warning("a process has died with exit code %s; another does its work again", code)
        return self._start()


class _Process:
    def __init__(self, context: Any, work: Callable[..., Any]) -> None:
        self.connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, work), daemon=True)
        self._process.start()
        theirs.close()

    def give(self, item: tuple[Any, ...]) -> None:
        # One that is dead by now is noticed where its result would be.
        with suppress(OSError):
            self.connection.send(item)

    def end(self) -> int | None:
        """Returns its exit code."""
        self._process.kill()
        self._process.join()
        self.connection.close()
        code: int | None = self._process.exitcode
        return code


def _serve(connection: Connection, work: Callable[..., Any]) -> None:
    """A process: item after item, until the parent is gone."""
    # An interrupt from the keyboard reaches the whole group, and the parent decides what ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    configure_logging()
    keep_memory(_KEPT_BYTES)
    # What is imported stays: no collection has to look through it.
    gc.freeze()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with suppress(EOFError, BrokenPipeError):
        while True:
            connection.send(_answer(work, connection.recv()))


def _answer(work: Callable[..., T], item: tuple[Any, ...]) -> tuple[Exception | None, T | None]:
    """What the work raised, and what it returned."""
    try:
        return None, work(*item)
    except Exception as exc:
        # Its traceback does not travel by itself, and not each error does.
        exc.add_note(traceback.format_exc())
        try:
            pickle.dumps(exc)
            # Made again as the other side makes it, from its arguments.
            copy.copy(exc)
        except Exception:
            return RuntimeError(traceback.format_exc()), None
        return exc, None


def _end_with_parent() -> None:
    """Also in the middle of an item, which another run may be at already."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
