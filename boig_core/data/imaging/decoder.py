"""The process that decodes foreign images: it reads batches from memory that it shares with its
parent, is told of them over a socket, and answers each image there.

What a hostile image can make of it is bounded from within: a timer of CPU time and a limit of
memory hold for each image, and the kernel keeps both. It starts with an environment that holds no
secrets and imports Pillow and numpy alone of what is heavy. It ends with its parent, whose end of
the socket then closes. Leaves out: starting, replacing and distrusting it (see `decoding`).
"""

from __future__ import annotations

import gc
import hashlib
import importlib
import io
import json
import os
import resource
import signal
import socket
import struct
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from PIL import Image

from boig_core.data.imaging.images import StoredImage
from boig_core.data.rejects import Rejected
from boig_core.memory import keep_memory

OUT_OF_MEMORY: Final = 71
"""Exit code of a process that an image has brought to its limit of memory."""
PLACE_BYTES: Final = 1
_LENGTH: Final = struct.Struct("<I")
_HEADER_BYTES: Final = 2**20
_PIECE: Final = 2**16
_TOGETHER_S: Final = 0.01
_REASON: Final = 500
_KEPT_BYTES: Final = 2**26
"""Of memory, from image to image."""


class Channel:
    """Messages over a socket: a JSON object, and bytes that it says the length of.

    Args:
        stream: a connected socket.

    Attributes:
        deadline: by the monotonic clock, when a call that still waits raises TimeoutError, however
            many bytes have come; None: never.
    """

    def __init__(self, stream: socket.socket) -> None:
        self._stream = stream
        self._ahead = bytearray()
        self.deadline: float | None = None

    def send(self, header: Mapping[str, Any], *parts: bytes) -> None:
        """Send a message; the header names the lengths of ``parts``, if there are any."""
        text = json.dumps(header).encode()
        self._wait_until_deadline()
        # In one piece: a call for each would wake the other side for each.
        self._stream.sendall(b"".join((_LENGTH.pack(len(text)), text, *parts)))

    def header(self) -> dict[str, Any]:
        """The next message's header.

        Raises:
            EOFError: the other side is gone.
            ValueError: it is no JSON object of a sensible length.
        """
        (length,) = _LENGTH.unpack(self.read(_LENGTH.size))
        if length > _HEADER_BYTES:
            raise ValueError(f"a header of {length} bytes")
        header = json.loads(self.read(length))
        if not isinstance(header, dict):
            raise ValueError("a header that is no object")
        return header

    def read(self, length: int) -> bytes:
        """Exactly ``length`` bytes.

        Raises:
            EOFError: the other side is gone.
        """
        while len(self._ahead) < length:
            self._wait_until_deadline()
            piece = self._stream.recv(max(_PIECE, length - len(self._ahead)))
            if not piece:
                raise EOFError
            self._ahead += piece
        whole = bytes(self._ahead[:length])
        del self._ahead[:length]
        return whole

    def _wait_until_deadline(self) -> None:
        if self.deadline is not None:
            # A timeout of 0 would mean not to wait at all, which raises another error.
            self._stream.settimeout(max(1e-3, self.deadline - time.monotonic()))


def serve(function: str, descriptor: int, shared: int) -> None:
    """Decode what comes, until the parent is gone; the process ends with it.

    Args:
        function: ``module:name`` of what decodes, called as `images.normalize` is.
        descriptor: of the socket to the parent.
        shared: of a file in memory: first a byte that tells the parent the place in its batch of
            the image that is decoded now, then the batch's files, one behind the other.
    """
    # An interrupt from the keyboard reaches the whole group, and the parent decides what ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A core would hold images, and may be large.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    module, _, name = function.partition(":")
    decode: Callable[..., StoredImage] = getattr(importlib.import_module(module), name)
    channel = Channel(socket.socket(fileno=descriptor))
    keep_memory(_KEPT_BYTES)
    _warm(decode)
    # What is loaded now stays: no collection has to look through it.
    gc.freeze()
    started, hard = _virtual_bytes(), resource.getrlimit(resource.RLIMIT_AS)[1]
    channel.send({"ready": True})
    try:
        while True:
            batch = channel.header()
            limit = started + int(batch["bytes"])
            if hard != resource.RLIM_INFINITY:
                limit = min(limit, hard)
            resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
            _answer_batch(channel, decode, batch, shared)
    except (EOFError, OSError):
        return


def _answer_batch(
    channel: Channel,
    decode: Callable[..., StoredImage],
    batch: Mapping[str, Any],
    shared: int,
) -> None:
    """Answers go together when they come fast, since each message wakes the parent."""
    answers: list[dict[str, Any]] = []
    files: list[bytes] = []
    sent, offset = time.monotonic(), PLACE_BYTES
    for number, length in enumerate(batch["lengths"]):
        os.pwrite(shared, bytes([number]), 0)
        answer, file = _answer(decode, os.pread(shared, length, offset), batch)
        offset += length
        answers.append(answer)
        files.append(file)
        now = time.monotonic()
        if number + 1 == len(batch["lengths"]) or now - sent > _TOGETHER_S:
            channel.send({"answers": answers}, *files)
            answers, files, sent = [], [], now


def _answer(
    decode: Callable[..., StoredImage], data: bytes, batch: Mapping[str, Any]
) -> tuple[dict[str, Any], bytes]:
    """What is said of an image, and its bytes where they differ from those that came."""
    # The kernel ends the process when the time is over, wherever it is. It counts time on the CPU
    # alone: on a busy machine a good image takes longer, and must not be lost.
    signal.setitimer(signal.ITIMER_PROF, batch["seconds"])
    try:
        stored = decode(data, batch["max_pixels"], batch["image_format"], batch["quality"])
    except Rejected as exc:
        return {"code": exc.code, "reason": exc.reason[:_REASON]}, b""
    except MemoryError:
        os._exit(OUT_OF_MEMORY)
    except Exception as exc:
        reason = f"the decoder failed ({type(exc).__name__}: {exc})"
        return {"code": "image_unreadable", "reason": reason[:_REASON]}, b""
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    file = b"" if stored.data == data else stored.data
    answer = {
        "sha256": stored.sha256,
        "width": stored.width,
        "height": stored.height,
        "fingerprint": stored.fingerprint,
        "length": len(file),
    }
    return answer, file


def _warm(decode: Callable[..., StoredImage]) -> None:
    """Load what the first image would have to wait for, at the cost of its time and memory."""
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    # Of one color it would load what such images alone need (see `duplicates`).
    motley = Image.frombytes("RGB", (16, 16), hashlib.shake_128(b"").digest(3 * 16 * 16))
    for form in ("JPEG", "PNG", "WEBP", "GIF", "BMP"):
        buffer = io.BytesIO()
        motley.save(buffer, format=form, icc_profile=profile)
        decode(buffer.getvalue(), 256, "original", 90)
    for brand in (b"avif", b"heic"):
        with suppress(Rejected):  # a head alone: what reads it is loaded, and finds nothing
            decode(b"\0\0\0\x14ftyp" + brand + bytes(4) + brand, 256, "original", 90)


def _virtual_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * resource.getpagesize()
