"""A decoding process as its parent sees it: how it starts, what it is asked, and what is made of
its answers and of its end.

It starts with an environment that holds nothing of ours. Its answers are read as from a stranger: a
hole in a decoder may have taken it over. Leaves out: the process itself (see `decoder`), and which
process gets which images (see `decoding`).
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from boig_core.config import ImageFormat
from boig_core.data.imaging.decoder import OUT_OF_MEMORY, PLACE_BYTES, Channel
from boig_core.data.imaging.images import StoredImage
from boig_core.data.rejects import CODES, Rejected
from boig_core.errors import InfrastructureError

Answer = Callable[[StoredImage | BaseException], None]
"""Who is told what has become of an image."""
_START_S: Final = 120.0
_ROOT: Final = Path(__file__).resolve().parents[3]
_SLACK: Final = 8
"""Times as long by the clock as on the CPU, before a process that answers nothing is killed: a busy
machine is slow."""
_KEPT_BYTES: Final = 8 * 2**20
"""Bytes of a batch whose memory stays for the next one."""
_HEX: Final = re.compile(r"[0-9a-f]+")
# It imports from where its parent does: neither its environment nor its folder is looked at.
_BOOT: Final = (
    "import sys; sys.path[:] = sys.argv[4:]; from boig_core.data.imaging.decoder import serve; "
    "serve(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))"
)


@dataclass(frozen=True)
class Allowance:
    """What decoding one image may take.

    Attributes:
        seconds: of CPU time.
        mib: of memory, beyond that of an idle process.
    """

    seconds: float
    mib: int


@dataclass(eq=False)
class DecodeRequest:
    """An image that waits to be decoded.

    Attributes:
        data: the file.
        rules: what `images.normalize` takes beside it.
        answer: called once, with what that returns or raises.
        suspect: it has brought a process down.
    """

    data: bytes
    rules: tuple[int, ImageFormat, int]
    answer: Answer
    suspect: bool = False


class DecoderLostError(Exception):
    """A process has ended, or had to be; the message says what the image did that it was at.

    Args:
        reason: half a sentence.
        request: the image that it was at.
        by_clock: it took too long, which is the image's own doing.
    """

    def __init__(self, reason: str, request: DecodeRequest, by_clock: bool) -> None:
        super().__init__(reason)
        self.request, self.by_clock = request, by_clock


class DecoderProcess:
    """A process that decodes, seen from here.

    Args:
        decoder: ``module:name`` of what decodes there.

    Raises:
        InfrastructureError: it does not start.
    """

    def __init__(self, decoder: str) -> None:
        self._stream, theirs = socket.socketpair()
        self._channel = Channel(self._stream)
        paths = [str(_ROOT), *(os.path.abspath(path) for path in sys.path)]
        # Read and written as a file: were it mapped, a process that cuts it would bring this down.
        self._shared = os.memfd_create("boig-decoder")
        self._kept = 0
        descriptors = (theirs.fileno(), self._shared)
        boot = [sys.executable, "-I", "-S", "-c", _BOOT, decoder, *map(str, descriptors)]
        # Nothing of ours: no keys, no proxies. Threads of a linear algebra library would only take
        # memory.
        inherited = {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}
        environment = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", **inherited}
        try:
            self._process = subprocess.Popen(
                [*boot, *paths],
                env=environment,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=descriptors,
            )
        except BaseException:
            self.hang_up()
            raise
        finally:
            theirs.close()
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

    def decode(self, batch: deque[DecodeRequest], limits: Allowance) -> None:
        """Answer the requests of a batch, and take each off once it is answered.

        Raises:
            DecoderLostError: the process is gone; the request that it was at is off the batch.
        """
        max_pixels, image_format, quality = batch[0].rules
        lengths = [len(request.data) for request in batch]
        header = {
            "max_pixels": max_pixels,
            "image_format": image_format,
            "quality": quality,
            "seconds": limits.seconds,
            # A file is held besides, in a few copies.
            "bytes": limits.mib * 2**20 + 5 * max(lengths),
            "lengths": lengths,
        }
        self._hand_over([bytes(PLACE_BYTES), *(request.data for request in batch)])
        answered = 0
        try:
            self._channel.deadline = time.monotonic() + limits.seconds * _SLACK
            self._channel.send(header)
            while batch:
                self._channel.deadline = time.monotonic() + limits.seconds * _SLACK
                for answer in self._receive(batch, 4 * max_pixels + 2**20):
                    batch.popleft().answer(answer)
                    answered += 1
        # Also what is no answer: a process that a hole in a decoder has opened may say anything.
        except (OSError, EOFError, ValueError, KeyError, TypeError) as exc:
            raise self._lost(exc, limits, batch, answered) from exc

    def hang_up(self) -> None:
        """Close this side's end of the socket, at which it ends by itself when it waits, and of
        what is shared."""
        self._stream.close()
        if self._shared >= 0:
            os.close(self._shared)
            self._shared = -1

    def end(self) -> None:
        """End it, whatever it is at."""
        self.hang_up()
        self._process.kill()
        self._process.wait()

    def _hand_over(self, parts: Sequence[bytes]) -> None:
        """Write what the process reads: a socket holds so little that both sides would wait for
        each other several times in a batch."""
        if self._kept > _KEPT_BYTES:
            os.ftruncate(self._shared, 0)
        self._kept = sum(map(len, parts))
        if os.pwritev(self._shared, parts, 0) != self._kept:
            raise MemoryError("no memory for a batch of images")

    def _receive(self, batch: Sequence[DecodeRequest], most: int) -> list[StoredImage | Rejected]:
        """The answers to the next requests of a batch."""
        answers = self._channel.header()["answers"]
        if not 0 < len(answers) <= len(batch):
            raise ValueError("another number of answers than of requests")
        return [
            _read_answer(answer, request.data, self._channel, most)
            for answer, request in zip(answers, batch, strict=False)
        ]

    def _lost(
        self, exc: Exception, limits: Allowance, batch: deque[DecodeRequest], answered: int
    ) -> DecoderLostError:
        """Why it ended, or had to; takes the request that it was at off its batch."""
        place = int.from_bytes(os.pread(self._shared, PLACE_BYTES, 0))
        self.hang_up()
        # Answers that it had, and not sent yet, are lost with it.
        at = min(max(0, place - answered), len(batch) - 1)
        if isinstance(exc, TimeoutError):
            reason, by_clock = f"took longer than {limits.seconds * _SLACK:g} s to decode", True
            self.end()
        else:
            reason, by_clock = self._autopsy(limits)
        request = batch[at]
        del batch[at]
        return DecoderLostError(reason, request, by_clock)

    def _autopsy(self, limits: Allowance) -> tuple[str, bool]:
        """What brought it down, and whether that was the clock."""
        try:
            # Its socket closes a moment before its end.
            code = self._process.wait(timeout=1)
        except subprocess.TimeoutExpired:
            self.end()
            return "the decoder crashed (it gave no answer that can be read)", False
        if code == -signal.SIGPROF:
            return f"took longer than {limits.seconds:g} s to decode", True
        if code == OUT_OF_MEMORY:
            return f"needed more than {limits.mib} MiB to decode", False
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return f"the decoder crashed ({how})", False


def _read_answer(
    answer: Mapping[str, Any], data: bytes, channel: Channel, most: int
) -> StoredImage | Rejected:
    if "code" in answer:
        if answer["code"] not in CODES:
            raise ValueError("a code that there is none of")
        return Rejected(answer["code"], str(answer["reason"]))
    sha256, fingerprint = str(answer["sha256"]), str(answer["fingerprint"])
    if len(sha256) != 64 or not _HEX.fullmatch(sha256) or not _HEX.fullmatch(fingerprint):
        raise ValueError("a hash that is none")
    if not 0 <= int(answer["length"]) <= most:
        raise ValueError("a length out of range")
    # None of its own: stored as it came.
    stored = channel.read(int(answer["length"])) or data
    return StoredImage(stored, sha256, int(answer["width"]), int(answer["height"]), fingerprint)
