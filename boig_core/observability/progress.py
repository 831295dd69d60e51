"""Progress of long work, as lines of a log: how much of how much is done, how fast, and how long
the rest will take.

All of them are logged under one name, `LOGGER`, whoever writes them and whichever process they come
from. So a reader of a kept log knows a line of progress by the logger that it names, and not by its
words.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Final

from boig_core.escapes import visible
from boig_core.observability.logs import get_logger

LOGGER: Final = "boig_core.progress"
"""Logger of all progress; what several do at once, each under its own subject, has a child of
it."""

_PART: Final = " · "
_LEFT: Final = " left"
# Reads what `LineFormat` writes, which pads the level with spaces: the two change together.
_LINE: Final = re.compile(
    rf"^\d\d:\d\d:\d\d INFO +{re.escape(LOGGER)}(?:\.(?P<subject>\S+))?: (?P<line>.+)$",
    re.MULTILINE,
)


def progress_log(subject: str = "") -> Callable[[str], None]:
    """What takes lines of progress.

    Args:
        subject: what the lines are about, where a stage does one thing after another or several at
            once; they begin with it. A new line stands for the older ones of its subject.
    """
    # The name of a logger: a dot would part it, and a space would end the subject in `_LINE`.
    key = re.sub(r"[^a-z0-9_]+", "-", subject.lower()).strip("-")
    log = get_logger(f"{LOGGER}.{key}" if key else LOGGER)

    def say(line: str) -> None:
        log.info("%s%s", subject and subject + _PART, line)

    return say


def newest_lines(text: str) -> dict[str, str]:
    """The newest line of progress by subject in a part of a kept log, the newest of all last."""
    newest: dict[str, str] = {}
    for match in _LINE.finditer(text):
        subject = match["subject"] or ""
        # A key that is set again keeps its place in a dict; taken out first, it moves to the end.
        newest.pop(subject, None)
        newest[subject] = match["line"]
    return newest


def goes_on(line: str) -> bool:
    """Whether a line says that something is left to do."""
    return line.endswith(_LEFT)


def fitted(line: str, width: int) -> str:
    """A line within a width: shorter words first, then fewer parts; its beginning and the time left
    stay longest."""
    line = visible(line)
    if len(line) <= width:
        return line
    parts = re.sub(r"(\d+) of (\d+)", r"\1/\2", line).replace("about ", "").split(_PART)
    while len(_PART.join(parts)) > width and len(parts) > 1:
        del parts[-2 if goes_on(line) and len(parts) > 2 else -1]
    short = _PART.join(parts)
    return short if len(short) <= width else short[: max(0, width - 2)].rpartition(" ")[0] + " …"


class Progress:
    """Counts items and reports at most every ``every_s`` seconds, and at the end.

    Args:
        what: plural of the items.
        total: how many there are.
        say: takes the line.
        every_s: least seconds between two lines.
    """

    def __init__(
        self, what: str, total: int, say: Callable[[str], object], every_s: float = 10.0
    ) -> None:
        self._what, self._total, self._say, self._every_s = what, total, say, every_s
        self._started = self._said = time.monotonic()
        self._done, self._reported = 0, -1
        self._rejected: Counter[str] = Counter()

    def add(self, codes: Iterable[str | None]) -> None:
        """Count items: none for one that is good, else why it was rejected."""
        for code in codes:
            self._done += 1
            if code is not None:
                self._rejected[code] += 1
        if time.monotonic() - self._said >= self._every_s:
            self._report()

    def close(self) -> None:
        """Say how it ended, unless that was said already."""
        if self._reported < self._done:
            self._report()

    def _report(self) -> None:
        self._said, self._reported = time.monotonic(), self._done
        self._say(self.line())

    def line(self) -> str:
        """Such as ``1200 of 20000 images · 410/s · 1188 accepted · rejected: image_missing 12 ·
        about 0:45 left``."""
        # The clock may not have moved between two readings.
        rate = self._done / max(1e-9, time.monotonic() - self._started)
        parts = [f"{self._done} of {self._total} {self._what}"]
        if self._done:
            parts.append(f"{_shown(rate)}/s")
        if self._rejected:
            parts.append(f"{self._done - self._rejected.total()} accepted")
            parts.append(
                "rejected: "
                + ", ".join(f"{code} {count}" for code, count in self._rejected.most_common())
            )
        if 0 < self._done < self._total:
            parts.append(left((self._total - self._done) / rate))
        return _PART.join(parts)


class Steps:
    """Reports how a training goes: after the first step that it makes, then at most every
    ``every_s`` seconds, and after the last of all.

    Args:
        total: steps of the whole training.
        done: steps that were made before.
        each: items of a step.
        what: plural of the items.
        say: takes the line.
        every_s: least seconds between two lines.
    """

    def __init__(
        self,
        total: int,
        done: int,
        each: int,
        what: str,
        say: Callable[[str], object],
        every_s: float = 10.0,
    ) -> None:
        self._total, self._each, self._what, self._say, self._every_s = (
            total,
            each,
            what,
            say,
            every_s,
        )
        # Speed counts from here: steps of an earlier process took time that this one has not seen.
        self._told, self._said = done, time.monotonic()
        self._due = self._said

    def made(self, done: int, loss: float) -> None:
        """Take note of a step; says, of the steps since the last line, ``step 40 of 90 · loss 1.2 ·
        212 samples/s · about 0:45 left``."""
        now = time.monotonic()
        if now < self._due and done < self._total:
            return
        rate = (done - self._told) / max(1e-9, now - self._said)
        parts = [
            f"step {done} of {self._total}",
            f"loss {loss:.4g}",
            f"{_shown(rate * self._each)} {self._what}/s",
        ]
        if done < self._total:
            parts.append(left((self._total - done) / rate))
        self._told, self._said, self._due = done, now, now + self._every_s
        self._say(_PART.join(parts))

    def end(self, done: int) -> None:
        """Say so where a training ends before its last step."""
        if done < self._total:
            self._say(f"step {done} of {self._total}{_PART}ended early")


def _shown(rate: float) -> str:
    return f"{rate:.0f}" if rate >= 10 else f"{rate:.2g}"


def left(seconds: float) -> str:
    """How long it will take: ``about 0:45 left``, ``about 2 h 05 left``."""
    # Rounded before it is parted: 59.6 s are 1:00, not 0:60.
    minutes, rest = divmod(round(seconds), 60)
    return (
        f"about {minutes}:{rest:02}"
        if minutes < 60
        else f"about {minutes // 60} h {minutes % 60:02}"
    ) + _LEFT
