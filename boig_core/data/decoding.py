"""Decoding apart: foreign images are decoded in processes of their own, which one of them can
bring down without harm to the run.

A few processes stay for as long as this one, and take images in batches. One that takes too long,
needs too much memory or crashes is killed; the image that it was at is a reject that says so, and
the others of its batch are decoded in a fresh process. A crash or a lack of memory counts only
against the first image of a process: what was decoded before may have left the harm behind, so what
becomes of an image does not depend on its neighbors. Answers are read as from a stranger. Leaves
out: what is done to an image (see `images`), and the process itself (see `decoder`).
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Final

from boig_core.config import ImageFormat
from boig_core.data.decoder import OUT_OF_MEMORY, Channel
from boig_core.data.images import Pixels, StoredImage, decode
from boig_core.data.rejects import CODES, Rejected
from boig_core.errors import InfrastructureError, InputError

_PROCESSES: Final = 2
"""Processes that decode for one that fetches; there is one of these for each core."""
_BATCH: Final = 8
_BATCH_BYTES: Final = 8 * 2**20
_START_S: Final = 120.0
_ROOT: Final = Path(__file__).resolve().parents[2]
_SLACK: Final = 8
"""Times as long by the clock as on the CPU, before a process that answers nothing is killed: a busy
machine is slow."""
_HEX: Final = re.compile(r"[0-9a-f]+")
# It imports from where its parent does: neither its environment nor its folder is looked at.
_BOOT: Final = (
    "import sys; sys.path[:] = sys.argv[3:]; from boig_core.data.decoder import serve; "
    "serve(sys.argv[1], int(sys.argv[2]))"
)


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
        raise InputError(path, exc.reason, "give a JPEG, PNG, WebP, GIF or BMP image") from exc


@dataclass(frozen=True)
class Allowance:
    """What decoding one image may take.

    Attributes:
        seconds: of CPU time.
        mib: of memory, beyond that of an idle process.
    """

    seconds: float
    mib: int


def allowance(max_pixels: int) -> Allowance:
    """Three times what the dearest honest image takes: one of ``max_pixels`` that is transparent,
    turned and encoded anew."""
    # Its pixels are held five times, at four bytes each, and its new file once more.
    return Allowance(10.0 + 0.5e-6 * max_pixels, 256 + 32 * max_pixels // 2**20)


@dataclass(frozen=True)
class _Question:
    """An image that waits to be decoded, and who waits for it."""

    data: bytes
    rules: tuple[int, ImageFormat, int]
    answer: Future[StoredImage] = field(default_factory=Future)


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
        decoder: str = "boig_core.data.images:normalize",
    ) -> None:
        self._limits, self._decoder = limits, decoder
        self._waiting: deque[_Question] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._threads = [
            threading.Thread(target=self._work, args=(i,), daemon=True, name="boig-decode")
            for i in range(processes)
        ]
        self._running: dict[int, _DecoderProcess] = {}
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
        question = _Question(data, (max_pixels, image_format, quality))
        with self._changed:
            if self._closed:
                raise RuntimeError("the pool is closed")
            self._waiting.append(question)
            self._changed.notify()
        return question.answer.result()

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
                for question in batch:
                    question.answer.set_exception(exc)
        self._end(place)

    def _end(self, place: int) -> None:
        if process := self._running.pop(place, None):
            process.end()

    def _take(self) -> deque[_Question]:
        """The next batch, of one set of rules; empty when the pool is closed."""
        batch: deque[_Question] = deque()
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

    def _decode(self, place: int, batch: deque[_Question]) -> None:
        """Answer each question of a batch, and take it off."""
        while batch:
            process = self._running.get(place)
            if process is None:
                process = self._running[place] = _DecoderProcess(self._decoder)
            limits = self._limits or allowance(batch[0].rules[0])
            try:
                process.decode(batch, limits)
            except _DecoderLostError as exc:
                del self._running[place]
                # The first image of a process has nobody else to blame.
                if exc.by_clock or process.answers == 0:
                    batch.popleft().answer.set_exception(Rejected("image_unreadable", str(exc)))


class _DecoderLostError(Exception):
    """A process has ended, or had to be; the message says what the image did that it was at.

    Args:
        reason: half a sentence.
        by_clock: it took too long, which is the image's own doing.
    """

    def __init__(self, reason: str, by_clock: bool = False) -> None:
        super().__init__(reason)
        self.by_clock = by_clock


class _DecoderProcess:
    """A process that decodes, seen from here.

    Args:
        decoder: ``module:name`` of what decodes there.

    Attributes:
        answers: images that it has answered.

    Raises:
        InfrastructureError: it does not start.
    """

    def __init__(self, decoder: str) -> None:
        self._stream, theirs = socket.socketpair()
        self._channel = Channel(self._stream)
        self.answers = 0
        paths = [str(_ROOT), *(os.path.abspath(path) for path in sys.path)]
        command = [sys.executable, "-I", "-S", "-c", _BOOT, decoder, str(theirs.fileno()), *paths]
        # Nothing of ours: no keys, no proxies. Threads of a linear algebra library would only take
        # memory.
        inherited = {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}
        environment = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", **inherited}
        with theirs:
            self._process = subprocess.Popen(
                command,
                env=environment,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
            )
        self._channel.deadline = time.monotonic() + _START_S
        try:
            self._channel.header()
        except (OSError, EOFError, ValueError) as exc:
            self.end()
            raise InfrastructureError(
                "the decoder of images",
                f"does not start ({type(exc).__name__})",
                "read its own words in the log above this line",
            ) from exc

    @property
    def pid(self) -> int:
        """Its id."""
        return self._process.pid

    def decode(self, batch: deque[_Question], limits: Allowance) -> None:
        """Answer the questions of a batch, and take each off once it is answered.

        Raises:
            _DecoderLostError: the process is gone; the first question left is the one it was at.
        """
        max_pixels, image_format, quality = batch[0].rules
        parts = [question.data for question in batch]
        lengths = [len(part) for part in parts]
        header = {
            "max_pixels": max_pixels,
            "image_format": image_format,
            "quality": quality,
            "seconds": limits.seconds,
            # The files are held besides, one of them in a few copies.
            "bytes": limits.mib * 2**20 + sum(lengths) + 4 * max(lengths),
            "lengths": lengths,
        }
        by_clock = limits.seconds * _SLACK
        try:
            self._channel.deadline = time.monotonic() + by_clock
            self._channel.send(header, *parts)
            while batch:
                self._channel.deadline = time.monotonic() + by_clock
                answer = self._receive(batch[0], 4 * max_pixels + 2**20)
                question = batch.popleft()
                self.answers += 1
                if isinstance(answer, Rejected):
                    question.answer.set_exception(answer)
                else:
                    question.answer.set_result(answer)
        except TimeoutError as exc:
            self.end()
            raise _DecoderLostError(f"took longer than {by_clock:g} s to decode", True) from exc
        # Also what is no answer: a process that a hole in a decoder has opened may say anything.
        except (OSError, EOFError, ValueError, KeyError, TypeError) as exc:
            raise self._autopsy(limits) from exc

    def hang_up(self) -> None:
        """Close this side's end of the socket, at which it ends by itself when it waits."""
        self._stream.close()

    def end(self) -> None:
        """End it, whatever it is at."""
        self.hang_up()
        self._process.kill()
        self._process.wait()

    def _receive(self, question: _Question, most: int) -> StoredImage | Rejected:
        answer = self._channel.header()
        if "code" in answer:
            if answer["code"] not in CODES:
                raise ValueError("a code that there is none of")
            return Rejected(answer["code"], str(answer["reason"]))
        return _image_of(answer, question.data, self._channel, most)

    def _autopsy(self, limits: Allowance) -> _DecoderLostError:
        """Why it ended, or that it talked nonsense."""
        self.hang_up()
        try:
            # Its socket closes a moment before its end.
            code = self._process.wait(timeout=1)
        except subprocess.TimeoutExpired:
            self.end()
            return _DecoderLostError("the decoder crashed (it gave no answer that can be read)")
        if code == -signal.SIGPROF:
            return _DecoderLostError(f"took longer than {limits.seconds:g} s to decode", True)
        if code == OUT_OF_MEMORY:
            return _DecoderLostError(f"needed more than {limits.mib} MiB to decode")
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return _DecoderLostError(f"the decoder crashed ({how})")


def _image_of(answer: Mapping[str, Any], data: bytes, channel: Channel, most: int) -> StoredImage:
    length = answer["length"]
    if length is not None and not 0 < int(length) <= most:
        raise ValueError("a length out of range")
    sha256, fingerprint = str(answer["sha256"]), str(answer["fingerprint"])
    if len(sha256) != 64 or not _HEX.fullmatch(sha256) or not _HEX.fullmatch(fingerprint):
        raise ValueError("a hash that is none")
    stored = data if length is None else channel.read(int(length))
    return StoredImage(stored, sha256, int(answer["width"]), int(answer["height"]), fingerprint)


@cache
def _shared() -> DecoderPool:
    """The pool of this process."""
    return DecoderPool()


def _forget() -> None:
    """In a fork there are no threads of the pool."""
    if _shared.cache_info().currsize:
        _shared().hang_up()
        _shared.cache_clear()


os.register_at_fork(after_in_child=_forget)
