"""What training workers tell the stage's process while they train: lines for its log, and rows of a
curve.

Of lines: what rank 0 says, and what the others warn of. Each travels to the stage's process as it
is logged and passes the handlers there, so that it stands once in the kept log and on the terminal,
in the order in which its worker logged it. A worker never waits for that while it trains, and no
training fails or hangs because something could not be brought over. Workers are known here by their
handles, too, so that the stage can end them. Leaves out: lines of libraries and other ranks' INFO,
which stay in Ray's log of the worker, and actors that are no training workers.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from boig_core.observability import progress
from boig_core.observability.logs import OWN, get_logger, hide_secrets

log = get_logger(__name__)

Line = tuple[str, int, float, str]
"""Logger, level, seconds since the epoch, text."""
Row = tuple[int, dict[str, float]]
"""Step and its metrics."""

_EVERY_S: Final = 1.0
"""Seconds between two looks for new lines."""
_LAST_S: Final = 30.0
"""Longest time that the end of a worker, or of the training, waits for lines that are under way."""
_WAITING: Final = 10_000
"""Most lines that wait to be fetched: a worker that logs in a tight loop must not fill the
memory."""
_PENDING: Final = 1_000
"""Most lines of a worker that are under way, which bounds its memory while nobody takes them."""


class Letterbox:
    """Where lines wait for the stage's process; an actor beside it."""

    def __init__(self) -> None:
        self._lines: deque[Line] = deque()
        self._dropped = 0
        self._rows: list[Row] = []
        self._workers: list[Any] = []

    def put(self, line: Line) -> None:
        """Leave a line."""
        if len(self._lines) < _WAITING:
            self._lines.append(line)
        else:
            self._dropped += 1

    def take(self) -> list[Line]:
        """What has come since the last call."""
        taken, self._lines = list(self._lines), deque()
        if self._dropped:
            text = f"{self._dropped} lines of the training workers are left out here: they came faster than they were fetched"
            taken.append((__name__, logging.WARNING, time.time(), text))
            self._dropped = 0
        return taken

    def put_rows(self, rows: list[Row]) -> None:
        """Leave rows of a curve."""
        self._rows += rows

    def take_rows(self) -> list[Row]:
        """Rows that have come since the last call."""
        taken, self._rows = self._rows, []
        return taken

    def join(self, worker: Any) -> None:
        """Make a worker known by its handle."""
        self._workers.append(worker)

    def workers(self) -> list[Any]:
        """Workers that have joined, those that have ended included."""
        return self._workers


class ToStage(logging.Handler):
    """Sends a worker's lines to the stage's process; one that is not wanted there, or cannot be
    sent, goes to another handler.

    Args:
        letterbox: handle of the actor.
        rank: of this worker.
        here: the other handler.
        name: of the training, which begins each line but those of progress, which name it by
            themselves; empty: it needs none.
    """

    def __init__(self, letterbox: Any, rank: int, here: logging.Handler, name: str = "") -> None:
        super().__init__()
        self._letterbox, self._here = letterbox, here
        self._level, self._who = (
            (logging.INFO, "") if rank == 0 else (logging.WARNING, f"rank {rank}: ")
        )
        self._name = name
        self._sent: Any = None

    def emit(self, record: logging.LogRecord) -> None:
        """Send a line without waiting for its arrival."""
        if record.name.partition(".")[0] in OWN and record.levelno >= self._level:
            try:
                # What has a subject begins with it.
                names_itself = record.name.startswith(f"{progress.LOGGER}.")
                who = self._who if names_itself or not self._name else f"{self._name}: {self._who}"
                # This node's secrets, which the stage's process may not know.
                text = hide_secrets(who + self.format(record))
                self._sent = self._letterbox.put.remote(
                    (record.name, record.levelno, record.created, text)
                )
                return
            except Exception:  # too many are under way, or Ray is gone: the line still has a place
                pass
        self._here.handle(record)

    def drain(self) -> None:
        """Wait until what was sent has arrived; the letterbox takes lines in order, so the last one
        stands for all."""
        if self._sent is not None:
            ray.wait([self._sent], timeout=_LAST_S)


class RowSender:
    """Sends rows of a curve to the stage's process, once a second; rows that cannot be sent now go
    with the next."""

    def __init__(self, letterbox: Any) -> None:
        self._letterbox, self._unsent, self._sent = letterbox, list[Row](), None
        self._due = time.monotonic() + _EVERY_S

    def __call__(self, step: int, values: dict[str, float]) -> None:
        """Send a row, now or soon."""
        self._unsent.append((step, values))
        if time.monotonic() >= self._due:
            self._send()

    def drain(self) -> None:
        """Send what is left, and wait until it has arrived."""
        self._send()
        if self._sent is not None:
            ray.wait([self._sent], timeout=_LAST_S)

    def _send(self) -> None:
        # Moved on even where nothing can be sent, so that a step does not try anew each time.
        self._due = time.monotonic() + _EVERY_S
        with suppress(Exception):  # too many are under way, or Ray is gone
            if self._unsent:
                self._sent = self._letterbox.put_rows.remote(self._unsent)
                self._unsent = []


@contextmanager
def sent_to(letterbox: Any, rank: int, name: str = "") -> Iterator[None]:
    """In a worker whose logging is configured: lines go to the stage's process, the last ones
    before an error too."""
    root = logging.getLogger()
    # The one handler that `configure_logging` makes: lines that do not travel still go there.
    [here] = root.handlers
    relay = ToStage(letterbox, rank, here, name)
    root.handlers = [relay]
    try:
        yield
    finally:
        relay.drain()


@contextmanager
def received(
    on_row: Callable[[int, dict[str, float]], None] | None = None,
    stop: threading.Event | None = None,
) -> Iterator[Any]:
    """In the stage's process: a letterbox for workers, whose lines are logged here until the
    context ends, the last ones included.

    Args:
        on_row: gets each row of rank 0's curve, in a thread of its own.
        stop: once it is set, workers are killed as soon as they are known.
    """
    letterbox = (
        ray.remote(Letterbox)
        .options(
            # It takes no CPU away from the workers, and a lost letterbox comes back by itself: no
            # training ends for want of it.
            num_cpus=0,
            max_restarts=-1,
            max_task_retries=-1,
            max_pending_calls=_PENDING,
            # It goes when this process does, and not with a worker's node.
            scheduling_strategy=NodeAffinitySchedulingStrategy(
                ray.get_runtime_context().get_node_id(), soft=True
            ),
        )
        .remote()
    )
    ended = threading.Event()
    following = threading.Thread(
        target=_follow, args=(letterbox, ended, on_row, stop), name="boig-lines", daemon=True
    )
    following.start()
    try:
        yield letterbox
    finally:
        # The thread first takes the last lines, then the letterbox goes. It is waited for with a
        # limit, since a cluster that does not answer must not keep the stage from its end.
        ended.set()
        following.join(_LAST_S)
        ray.kill(letterbox)


def _follow(
    letterbox: Any,
    ended: threading.Event,
    on_row: Callable[[int, dict[str, float]], None] | None,
    stop: threading.Event | None,
) -> None:
    last = False
    while not last:
        # What came before the end is in the answer to a question that is asked after it.
        last = ended.wait(_EVERY_S)
        try:
            lines = ray.get(letterbox.take.remote())
            rows = ray.get(letterbox.take_rows.remote()) if on_row else []
            if stop is not None and stop.is_set():
                # At each look again: a worker may have joined since the last one.
                for worker in ray.get(letterbox.workers.remote()):
                    ray.kill(worker)
        except ray.exceptions.RayError as exc:
            log.warning("lines of the training workers are missing from here on: %s", exc)
            return
        for name, level, created, text in lines:
            # With the time at which the worker logged it, not that of its arrival here.
            messages = {
                "name": name,
                "levelno": level,
                "levelname": logging.getLevelName(level),
                "created": created,
                "msg": text,
            }
            logging.getLogger(name).handle(logging.makeLogRecord(messages))
        if on_row:
            for step, values in rows:
                on_row(step, values)
