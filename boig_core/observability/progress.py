"""Progress of long work on many items, as lines of a log: how many of how many, how fast, what was rejected, and how long it will take."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable


class Progress:
    """Counts items and reports at most every ``every_s`` seconds, and at the end.

    Args:
        what: plural of the items.
        total: how many there are.
        say: takes the line.
        every_s: least seconds between two lines.
    """

    def __init__(self, what: str, total: int, say: Callable[[str], object], every_s: float = 10.0) -> None:
        self._what, self._total, self._say, self._every_s = what, total, say, every_s
        self._started = self._said = time.monotonic()
        self._done = 0
        self._rejected: Counter[str] = Counter()

    def add(self, codes: Iterable[str | None]) -> None:
        """Count items: none for one that is good, else why it was rejected."""
        for code in codes:
            self._done += 1
            if code is not None:
                self._rejected[code] += 1
        if time.monotonic() - self._said >= self._every_s:
            self._said = time.monotonic()
            self._say(self.line())

    def close(self) -> None:
        """Say how it ended."""
        self._say(self.line())

    def line(self) -> str:
        """Such as ``1200 of 20000 images · 410/s · 1188 accepted · rejected: image_missing 12 · about 0:45 left``."""
        rate = self._done / max(1e-9, time.monotonic() - self._started)
        parts = [f"{self._done} of {self._total} {self._what}", f"{rate:.0f}/s", f"{self._done - self._rejected.total()} accepted"]
        if self._rejected:
            parts.append("rejected: " + ", ".join(f"{code} {count}" for code, count in self._rejected.most_common()))
        if 0 < self._done < self._total:
            seconds = round((self._total - self._done) / rate)
            parts.append(f"about {seconds // 60}:{seconds % 60:02} left")
        return " · ".join(parts)
