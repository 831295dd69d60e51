"""The export that the ingestion is measured on, what must become of each row, and whether it did.

A row's kind decides what the server does with its image (see `ingest_server`) or what is wrong with
the row itself. Leaves out: running anything.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from infra.evidence.data.ingest_server import HOSTS, THROTTLING_HOST

ACCEPTED: Final = "accepted"
UNACCOUNTED: Final = "in neither table"

KINDS: Final[dict[str, tuple[int, str]]] = {
    "gone-404": (200, "image_missing"),
    "gone-410": (50, "image_missing"),
    "forbidden-403": (30, "http_error"),
    "broken-500": (50, "http_error"),
    "busy-503": (50, ACCEPTED),
    "throttled-429": (20, ACCEPTED),
    "torn": (100, "image_unreadable"),
    "html": (100, "image_unreadable"),
    "svg": (30, "image_unreadable"),
    "moving-gif": (50, "image_animated"),
    "moving-webp": (20, "image_animated"),
    "bomb": (20, "image_too_large"),
    "noise": (50, "image_unreadable"),
    "empty": (30, "image_unreadable"),
    "endless": (10, "image_too_large"),
    "trickle": (2, "http_error"),
    "moved": (50, ACCEPTED),
    "circle": (20, "http_error"),
    "to-file": (20, "host_refused"),
    "elsewhere": (50, ACCEPTED),
    "noai": (50, "opted_out"),
    "reset": (20, "http_error"),
    "promised": (20, "http_error"),
    "cut": (20, "image_unreadable"),
    "row-torn": (10, "bad_json"),
    "row-no-kpi": (10, "bad_kpi"),
    "row-no-image": (10, "missing_field"),
    "row-twice": (10, "duplicate_id"),
}
"""By kind: how many of 10,000 rows, and what must become of them. The rest are good."""
_ACCOUNTS: Final = 40
_START: Final = datetime(2021, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Export:
    """An export on disk: the posts file, the URLs in it, and each line's kind."""

    posts: Path
    urls: tuple[str, ...]
    kinds: tuple[str, ...]

    @property
    def expected(self) -> dict[int, str]:
        """What must become of each line, from 1."""
        return {line: verdict_of(kind) for line, kind in enumerate(self.kinds, start=1)}


@dataclass(frozen=True)
class RowDifference:
    """A row that did not become what it must."""

    line: int
    kind: str
    expected: str
    found: str


def verdict_of(kind: str) -> str:
    """What must become of a row or URL of a kind."""
    return KINDS[kind][1] if kind in KINDS else ACCEPTED


def kind_of(url: str) -> str:
    """Kind of a URL."""
    return url.split("/")[3]


def write_export(folder: Path, rows: int, port: int, hostile: bool) -> Export:
    """Write ``posts.jsonl`` with ``rows`` lines; without ``hostile`` all are good.

    Each hostile kind has its share, and one row at least; where they stand is drawn, the same way
    every time.
    """
    folder.mkdir(parents=True, exist_ok=True)
    bad = (
        [
            kind
            for kind, (share, _) in KINDS.items()
            for _ in range(max(1, round(rows * share / 10_000)))
        ]
        if hostile
        else []
    )
    # Shuffled, so that no part of the export is more hostile than another.
    kinds = bad + ["good"] * (rows - len(bad))
    random.Random(0).shuffle(kinds)
    # The row that ``row-twice`` repeats comes first.
    kinds.insert(0, kinds.pop(kinds.index("good")))
    likes = random.Random(1)
    urls: list[str] = []
    path = folder / "posts.jsonl"
    with path.open("w") as file:
        for line, kind in enumerate(kinds, start=1):
            host = THROTTLING_HOST if kind == "throttled-429" else HOSTS[line % len(HOSTS)]
            url = f"http://{host}:{port}/{kind}/{line}.jpg"
            row: dict[str, Any] = {
                "id": f"p{line}",
                "account": f"brand_{line % _ACCOUNTS}",
                "company": f"Brand {line % _ACCOUNTS}",
                "timestamp": (_START + timedelta(minutes=7 * line)).isoformat(),
                "text": f"Post {line}: something to look at, and a sentence about it that is long enough to count. #number{line % 97}",
                "image": url,
                "likes": int(20 + 3000 * likes.random() ** 3),
            }
            if kind == "row-no-kpi":
                row["likes"] = "many"
            if kind == "row-no-image":
                del row["image"]
            # As of an export from before the likes came: the row with more of them counts.
            if kind == "row-twice":
                row |= {"id": "p1", "timestamp": _START.isoformat(), "likes": 0}
            text = json.dumps(row)
            file.write((text[: len(text) // 2] if kind == "row-torn" else text) + "\n")
            # What is wrong with a row itself is nothing that a mere downloader can see.
            if not kind.startswith("row-"):
                urls.append(url)
    return Export(path, tuple(urls), tuple(kinds))


def differences(
    export: Export, accepted: Iterable[str], rejected: Iterable[tuple[int, str]]
) -> list[RowDifference]:
    """Hold the tables of a dataset against the export, line by line.

    Args:
        export: what was ingested.
        accepted: ids of the posts among the labels.
        rejected: line and code of each reject.

    Returns:
        Every row that is in no table, in both, twice in one, or under another code than it must.
    """
    # Every line has its place from the start: one that stands in no table is found, too.
    result: dict[int, list[str]] = {line: [] for line in range(1, len(export.kinds) + 1)}
    for post in accepted:
        result.setdefault(int(post.removeprefix("p")), []).append(ACCEPTED)
    for line, code in rejected:
        result.setdefault(line, []).append(code)
    wanted = export.expected
    kinds = dict(enumerate(export.kinds, start=1))
    return [
        RowDifference(
            line,
            kinds.get(line, "no such line"),
            wanted.get(line, "nothing"),
            " and ".join(codes) or UNACCOUNTED,
        )
        for line, codes in sorted(result.items())
        if codes != [wanted.get(line)]
    ]


def by_kind(outcomes: Mapping[str, bool]) -> dict[str, dict[str, Any]]:
    """For a downloader that only knows success and failure: by kind of URL, how many succeeded, and
    how many should have."""
    total = Counter(kind_of(url) for url in outcomes)
    taken = Counter(kind_of(url) for url, success in outcomes.items() if success)
    return {
        kind: {"urls": total[kind], "taken": taken[kind], "must": verdict_of(kind)}
        for kind in sorted(total)
    }


def counts(codes: Sequence[str]) -> dict[str, int]:
    """How many rows by what became of them, sorted by name."""
    return dict(sorted(Counter(codes).items()))
