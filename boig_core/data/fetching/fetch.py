"""Fetching: the bytes behind an image reference of an export, checked and brought into the stored
form.

A reference is a ``file://`` or absolute path, ``s3://`` or ``http(s)://``, and leads no further
than `reach` allows, however it is spelled; whatever is wrong with one is that reference's end,
never the run's. Over HTTP only named transient errors are retried, and redirects are followed by
hand, each hop under the same rules. Hosts are treated politely: few requests at a time, a name to
complain about, waits as they ask for, and an opt-out from machine learning counts. Leaves out:
which references there are (see `posts`), and the limits of a single request (see `web`).
"""

from __future__ import annotations

import errno
import random
import re
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cached_property
from http.client import responses
from pathlib import Path
from queue import SimpleQueue
from threading import Event, Lock, Semaphore, Thread
from typing import Final
from urllib.parse import urlsplit

from boig_core.config import Data
from boig_core.data.fetching.pages import describe_no_image
from boig_core.data.fetching.reach import ImageReference, Reach
from boig_core.data.fetching.web import (
    MAX_REDIRECTS,
    REDIRECTS,
    TRANSIENT,
    Web,
    next_hop,
    too_large,
)
from boig_core.data.imaging.decoding import decode_untrusted
from boig_core.data.imaging.images import StoredImage
from boig_core.data.rejects import Again, Rejected
from boig_core.errors import (
    InfrastructureError,
    NotFoundInStoreError,
    StorePermissionError,
    StoreUnavailableError,
)
from boig_core.storage import store
from boig_core.storage.credentials import CREDENTIALS

_ATTEMPTS: Final = 3
_BAD_KEYS: Final = frozenset(
    {
        *("KeyTooLongError", "InvalidURI", "InvalidBucketName", "InvalidObjectName"),
        *("XMinioInvalidObjectName", "MethodNotAllowed", "InvalidArgument"),
    }
)
"""Codes by which a server of S3 says that a name is wrong, and not that it is unwell."""
_OUR_FAULTS: Final = frozenset(
    {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO, errno.ESTALE, errno.ENOTCONN}
)
"""Errors of the machine or its mounts, of which no reference is to blame."""
_ON_THE_WAY: Final = 3
"""Images that are held for each that is fetched at a time: as many wait to be decoded as make full
batches."""
_Arrival = tuple[ImageReference, StoredImage | BaseException] | BaseException | int
"""What became of a reference, what ended a thread, or how many references one has had that has
nothing left."""
_LONGEST_WAIT_S: Final = 60.0
_LONGEST_BACKOFF_S: Final = 5.0
_OPT_OUTS: Final = frozenset({"noai", "noimageai"})
_VALUED: Final = frozenset(
    {"unavailable_after", "max-snippet", "max-image-preview", "max-video-preview"}
)
"""Directives of ``X-Robots-Tag`` that have a colon of their own, which names no crawler."""


@dataclass(frozen=True)
class Fetcher:
    """Fetches images of one export.

    Attributes:
        data: limits of the recipe.
    """

    data: Data
    _turns: dict[str, Semaphore] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def fetch(
        self, references: Iterable[ImageReference], reach: Reach
    ) -> Iterator[tuple[ImageReference, StoredImage | Rejected]]:
        """Fetch images at ``data.fetch_concurrency`` at a time.

        Args:
            references: what to fetch.
            reach: where they may lead.

        Yields:
            Each reference with its image, or why there is none, as they come; few that nobody has
            taken are held.

        Raises:
            StoreUnavailableError: the store itself is away, which is no fault of a row.
        """
        waiting, turn = iter(references), Lock()
        arrived: SimpleQueue[_Arrival] = SimpleQueue()
        # Of images that are fetched, wait for a decoder, or for the caller.
        room = Semaphore(_ON_THE_WAY * self.data.fetch_concurrency)
        left = Event()

        def work() -> None:
            count = 0
            try:
                while room.acquire() and not left.is_set():
                    # A generator raises when two threads ask it at once.
                    with turn:
                        reference = next(waiting, None)
                    if reference is None:
                        break
                    count += 1
                    self._fetch_one(reference, reach, arrived.put)
                arrived.put(count)
            # Handed over: an error that stays in its thread would leave the caller waiting forever.
            except BaseException as exc:
                arrived.put(exc)

        threads = [
            Thread(target=work, daemon=True, name="boig-fetch")
            for _ in range(self.data.fetch_concurrency)
        ]
        for thread in threads:
            thread.start()
        try:
            for result in _results(arrived, len(threads)):
                room.release()
                yield result
        finally:
            # Also when the caller stops before the last image: the threads see it and end.
            left.set()
            room.release(len(threads))

    def _fetch_one(
        self, reference: ImageReference, reach: Reach, hand_in: Callable[[_Arrival], None]
    ) -> None:
        """Fetch an image, and hand it in once it is decoded, which nobody waits for here."""
        data = self.data
        try:
            file = self.read(reference, reach)
        except Rejected as exc:
            hand_in((reference, exc))
            return
        decode_untrusted(
            file,
            data.max_pixels,
            data.image_format,
            data.image_quality,
            lambda image: hand_in((reference, image)),
        )

    def read(self, reference: ImageReference, reach: Reach) -> bytes:
        """Bytes behind a reference.

        Raises:
            Rejected: ``place_refused``, ``image_missing``, ``image_too_large``, ``host_refused``,
                ``opted_out`` or ``http_error``.
            StoreUnavailableError: the store, or a mount, is away.
        """
        try:
            missing: Rejected | None = None
            for location in reach.locations(reference):
                if location.lower().startswith(("http://", "https://")):
                    return self._read_http(location)
                try:
                    return self._read_file(location)
                except Rejected as exc:
                    if exc.code != "image_missing":
                        raise
                    # The first, which names the place as the posts do.
                    missing = missing or exc
            raise missing or Rejected("image_missing", f"{reference.address} leads nowhere")
        # What the store lacks, or this machine, must not become a reject of a row.
        except (Rejected, InfrastructureError, MemoryError):
            raise
        # A reference may be anything that a row can hold, and each library between here and the
        # bytes has its own way to say that it is no name.
        except Exception as exc:
            raise Rejected(
                "image_missing",
                f"{reference.address!r} cannot be read ({type(exc).__name__}: {exc})",
            ) from exc

    def _read_file(self, location: str) -> bytes:
        cap = int(self.data.max_image_mb * 2**20)
        try:
            if not store.is_s3(location):
                status = Path(location).stat()
                # A device or a pipe has no end, and may never give a byte.
                if not stat.S_ISREG(status.st_mode):
                    raise Rejected("image_missing", f"{location} is no regular file")
                if status.st_size > cap:
                    raise too_large(location, status.st_size, self.data)
            # One byte more than is allowed tells an object that is too large.
            data = store.read_bytes(location, cap + 1)
        except (
            NotFoundInStoreError,
            FileNotFoundError,
            NotADirectoryError,
            IsADirectoryError,
        ) as exc:
            rule = exc.rule if isinstance(exc, NotFoundInStoreError) else "does not exist"
            raise Rejected("image_missing", f"{location}: {rule}") from exc
        except (StorePermissionError, PermissionError) as exc:
            why = f" ({exc.rule})" if isinstance(exc, StorePermissionError) else ""
            raise Rejected("image_missing", f"{location} may not be read{why}") from exc
        except StoreUnavailableError as exc:
            answer = getattr(exc.__cause__, "response", None) or {}
            if answer.get("Error", {}).get("Code") in _BAD_KEYS:
                raise Rejected("image_missing", f"{location} is no key of S3 ({exc})") from exc
            raise
        except OSError as exc:
            if exc.errno in _OUR_FAULTS:
                raise StoreUnavailableError(
                    location, f"cannot be read ({exc.strerror})", "see to the machine or its mounts"
                ) from exc
            raise
        # Objects in S3 are measured here alone.
        if len(data) > cap:
            raise too_large(location, len(data), self.data)
        if kind := describe_no_image(data):
            raise Rejected("image_unreadable", f"{location} holds {kind}, and no image")
        return data

    @cached_property
    def _web(self) -> Web:
        return Web(self.data)

    def _read_http(self, url: str) -> bytes:
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return self._follow(url)
            except Again as exc:
                # A server that asks for longer gets no other try: an earlier one would disregard
                # its wish, and a later one would hold up the whole chunk.
                if attempt == _ATTEMPTS or (exc.wait_s or 0.0) > _LONGEST_WAIT_S:
                    tries = f"{attempt} {'try' if attempt == 1 else 'tries'}"
                    raise Rejected("http_error", f"{url}: {exc} ({tries})") from exc
                backoff = random.uniform(0, min(_LONGEST_BACKOFF_S, 0.1 * 2**attempt))
                time.sleep(backoff if exc.wait_s is None else exc.wait_s)
        raise AssertionError("the last attempt returns or raises")

    def _follow(self, url: str) -> bytes:
        seen = url
        for _ in range(MAX_REDIRECTS + 1):
            answer = self._get(seen)
            if isinstance(answer, bytes):
                if kind := describe_no_image(answer):
                    after = f" after redirects to {seen}" if seen != url else ""
                    raise Rejected(
                        "image_unreadable", f"{url}: the server sent {kind}, and no image{after}"
                    )
                return answer
            seen = next_hop(seen, answer)
        raise Rejected("http_error", f"{url}: more than {MAX_REDIRECTS} redirects")

    def _get(self, url: str) -> bytes | str:
        """One request: the body, or where it redirects to."""
        with self._turn(urlsplit(url).netloc), self._web.get(url) as answer:
            status, headers = answer.response.status, answer.response.headers
            # Before the status is looked at: an opt-out on a redirect counts too.
            if opt_out := opted_out(headers.getlist("X-Robots-Tag"), self.data.user_agent):
                raise Rejected("opted_out", f"{url} says {opt_out} in X-Robots-Tag")
            if status in REDIRECTS and headers.get("Location"):
                return str(headers["Location"])
            if status in {404, 410}:
                raise Rejected("image_missing", f"{url} answers {_phrase(status)}")
            if status in TRANSIENT:
                wait_s = retry_after(headers.get("Retry-After"), datetime.now(UTC))
                raise Again(
                    f"the server answers {_phrase(status)}"
                    + (f" and asks for {wait_s:.0f} s" if wait_s else ""),
                    wait_s,
                )
            if status != 200:
                # Addresses of many stores are signed for hours, and exports outlive them.
                signed = status in {400, 401, 403} and re.search(CREDENTIALS, url)
                late = ": it is signed, and the signature may have run out" if signed else ""
                raise Rejected("http_error", f"{url} answers {_phrase(status)}{late}")
            return answer.read()

    def _turn(self, host: str) -> Semaphore:
        # User info and capitals make no other host of it. Of threads that come at once, all get the
        # semaphore that was put first.
        name = host.rsplit("@", 1)[-1].lower()
        return self._turns.get(name) or self._turns.setdefault(
            name, Semaphore(self.data.fetch_per_host)
        )


def _results(
    arrived: SimpleQueue[_Arrival], running: int
) -> Iterator[tuple[ImageReference, StoredImage | Rejected]]:
    """Results as they come, until each of so many threads has nothing left and all that they have
    had is there."""
    expected = 0
    while running or expected:
        item = arrived.get()
        if isinstance(item, BaseException):
            raise item
        if isinstance(item, int):
            running -= 1
            expected += item
            continue
        expected -= 1
        reference, image = item
        if not isinstance(image, StoredImage | Rejected):
            raise image
        yield reference, image


def _phrase(status: int) -> str:
    """A status with the words of its standard, as in ``403 (Forbidden)``."""
    return f"{status} ({responses[status]})" if status in responses else str(status)


def opted_out(tags: Iterable[str], user_agent: str) -> str:
    """The opt-out from machine learning among the values of ``X-Robots-Tag`` that concerns us;
    empty when there is none.

    A value is a list of directives, for everyone or, after ``NAME:``, for the crawler of that name;
    ours is the first word of the user agent, without a version.
    """
    own = user_agent.split()[0].split("/")[0].lower() if user_agent.split() else ""
    for tag in tags:
        whose = ""
        for part in tag.lower().split(","):
            # A crawler's name holds for the directives after it too, until the next name.
            name, colon, rest = part.partition(":")
            if name.strip() in _VALUED:
                continue
            whose, directive = (name.strip(), rest) if colon else (whose, part)
            if whose in {"", own, "*"} and directive.strip() in _OPT_OUTS:
                return directive.strip()
    return ""


def retry_after(value: str | None, now: datetime) -> float | None:
    """Seconds that a ``Retry-After`` header asks for (a number, or a date of HTTP); None when it
    says nothing that can be read."""
    if value is None:
        return None
    try:
        # ASCII alone: other digits of Unicode, such as a superscript, are no number to `float`.
        if value.isascii() and value.strip().isdigit():
            return float(value)
        until = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    return max(0.0, (until.replace(tzinfo=until.tzinfo or UTC) - now).total_seconds())
