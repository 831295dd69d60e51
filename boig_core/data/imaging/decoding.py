"""Decoding apart: foreign images are decoded in processes of their own, which one of them can
bring down without harm to the run.

A few processes stay for as long as this one, and take images in batches. One that takes too long,
needs too much memory or crashes is killed; the image that it was at is a reject that says so, and
the others of its batch are decoded in a fresh process. After a crash or a lack of memory the image
is tried again as the first of a fresh process: what was decoded before may have left the harm
behind, and what becomes of an image must not depend on its neighbors. Leaves out: what is done to
an image (see `images`), and the process itself (see `decoder_process` and `decoder`).
"""

from __future__ import annotations

import os
import threading
from collections import deque
from pathlib import Path
from queue import SimpleQueue
from typing import Final

from boig_core.config import ImageFormat
from boig_core.data.imaging.decoder_process import (
    Allowance,
    Answer,
    DecodeRequest,
    DecoderLostError,
    DecoderProcess,
)
from boig_core.data.imaging.images import READABLE, Pixels, StoredImage, decode
from boig_core.data.rejects import Rejected
from boig_core.errors import InputError

_PROCESSES: Final = 3
"""Processes that decode for one that fetches; there is one of these for each core. Of two, one
often waits for its answers to be taken, which costs a tenth of the rate."""
_BATCH: Final = 8
_BATCH_BYTES: Final = 8 * 2**20


def normalize_untrusted(
    data: bytes, max_pixels: int, image_format: ImageFormat = "original", quality: int = 90
) -> StoredImage:
    """What `images.normalize` gives, decoded in a process apart; threads may call it at once.

    Raises:
        Rejected: as `images.normalize` does; also ``image_unreadable`` when the image takes too
            long, needs too much memory or crashes the decoder.
        InfrastructureError: no process can be started.
    """
    return _shared().normalize(data, max_pixels, image_format, quality)


def decode_untrusted(
    data: bytes, max_pixels: int, image_format: ImageFormat, quality: int, answer: Answer
) -> None:
    """As `normalize_untrusted`, without waiting: ``answer`` is called, by another thread, with what
    that returns or raises. It must be quick, since others wait meanwhile."""
    _shared().submit(data, (max_pixels, image_format, quality), answer)


def load(path: Path, max_pixels: int = 50_000_000) -> Pixels:
    """Pixels of an image file, upright RGB.

    Raises:
        InputError: the file is missing, no image, broken or too large.
    """
    try:
        return decode(normalize_untrusted(path.read_bytes(), max_pixels).data)
    except OSError as exc:
        raise InputError(
            path, f"cannot be read ({exc.strerror})", "give the path of an image file"
        ) from exc
    except Rejected as exc:
        raise InputError(path, exc.reason, f"give a {READABLE} image") from exc


def allowance(max_pixels: int) -> Allowance:
    """More than the dearest honest image takes: one of ``max_pixels`` that is transparent, turned
    and encoded anew."""
    # Its pixels are held five times, at four bytes each, and its new file once more; on a slow core
    # that takes half as long.
    return Allowance(10.0 + 0.5e-6 * max_pixels, 256 + 32 * max_pixels // 2**20)


class DecoderPool:
    """Processes that decode, each with a thread that feeds it. They start when they are needed.

    Args:
        processes: how many.
        limits: of each image; None: by the pixels that are allowed, see `allowance`.
        decoder: ``module:name`` of what decodes there.
    """

    def __init__(
        self,
        processes: int = _PROCESSES,
        limits: Allowance | None = None,
        decoder: str = "boig_core.data.imaging.images:normalize",
    ) -> None:
        self._limits, self._decoder = limits, decoder
        self._waiting: deque[DecodeRequest] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._threads = [
            threading.Thread(target=self._work, args=(i,), daemon=True, name="boig-decode")
            for i in range(processes)
        ]
        self._running: dict[int, DecoderProcess] = {}
        for thread in self._threads:
            thread.start()

    def normalize(
        self,
        data: bytes,
        max_pixels: int,
        image_format: ImageFormat = "original",
        quality: int = 90,
    ) -> StoredImage:
        """As `normalize_untrusted`."""
        answers: SimpleQueue[StoredImage | BaseException] = SimpleQueue()
        self.submit(data, (max_pixels, image_format, quality), answers.put)
        answer = answers.get()
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def submit(self, data: bytes, rules: tuple[int, ImageFormat, int], answer: Answer) -> None:
        """As `decode_untrusted`."""
        with self._changed:
            if self._closed:
                raise RuntimeError("the pool is closed")
            self._waiting.append(DecodeRequest(data, rules, answer))
            self._changed.notify()

    def pids(self) -> list[int]:
        """Ids of the processes that run now."""
        return [process.pid for process in list(self._running.values())]

    def close(self) -> None:
        """End the processes, once what waits is decoded."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def hang_up(self) -> None:
        """Close this process's ends of the sockets. In a fork, whose copies would keep the
        processes of a parent that has ended."""
        for process in self._running.values():
            process.hang_up()

    def _work(self, place: int) -> None:
        """A thread: batch after batch, in a process that is replaced when it fails."""
        while batch := self._take():
            try:
                self._decode(place, batch)
            # Whoever waits must not wait forever, whatever went wrong here.
            except BaseException as exc:
                self._end(place)
                for request in batch:
                    request.answer(exc)
        self._end(place)

    def _end(self, place: int) -> None:
        if process := self._running.pop(place, None):
            process.end()

    def _take(self) -> deque[DecodeRequest]:
        """The next batch, of one set of rules; empty when the pool is closed."""
        batch: deque[DecodeRequest] = deque()
        with self._changed:
            self._changed.wait_for(lambda: bool(self._waiting) or self._closed)
            # No process takes what another could begin with.
            share = min(_BATCH, -(-len(self._waiting) // len(self._threads)))
            size = 0
            while self._waiting and len(batch) < share:
                following = self._waiting[0]
                size += len(following.data)
                if batch and (following.rules != batch[0].rules or size > _BATCH_BYTES):
                    break
                batch.append(self._waiting.popleft())
        return batch

    def _decode(self, place: int, batch: deque[DecodeRequest]) -> None:
        """Answer each request of a batch, and take it off."""
        while batch:
            process = self._running.get(place)
            if process is None:
                process = self._running[place] = DecoderProcess(self._decoder)
            limits = self._limits or allowance(batch[0].rules[0])
            try:
                process.decode(batch, limits)
            except DecoderLostError as exc:
                del self._running[place]
                if exc.by_clock or exc.request.suspect:
                    exc.request.answer(Rejected("image_unreadable", str(exc)))
                else:
                    exc.request.suspect = True
                    batch.appendleft(exc.request)


_pool: DecoderPool | None = None
_opening = threading.Lock()


def _shared() -> DecoderPool:
    """The pool of this process."""
    global _pool
    # Threads come at once, and each would open one of its own.
    with _opening:
        if _pool is None:
            _pool = DecoderPool()
        return _pool


def _forget() -> None:
    """In a fork there are no threads of the pool, and nobody to release the lock."""
    global _pool, _opening
    if _pool is not None:
        _pool.hang_up()
    _pool, _opening = None, threading.Lock()


os.register_at_fork(after_in_child=_forget)
