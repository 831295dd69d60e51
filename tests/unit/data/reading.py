"""Rows of an export, read as an ingestion reads them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from boig_core.config import Data
from boig_core.data.posts import Post, Reject, accept
from boig_core.data.reading.sources import read_export

GOOD: dict[str, Any] = {
    "id": "1",
    "account": "verde_official",
    "company": "verde",
    "timestamp": "2019-03-04T05:06:07Z",
    "text": "A long enough text about a green tent in a quiet forest, more at https://verde.example/x?y=1 for you",
    "image": "images/1.png",
    "likes": 12,
}


def read_all(location: Path | str, **rules: Any) -> tuple[list[tuple[int, Post]], list[Reject]]:
    data = Data(**rules)
    result = [
        item for file, rows in read_export(str(location), data) for item in accept(file, rows, data)
    ]
    return [item[:2] for item in result if not isinstance(item, Reject)], [
        item for item in result if isinstance(item, Reject)
    ]


def read(
    folder: Path, *rows: dict[str, Any] | bytes, **rules: Any
) -> tuple[list[Post], list[Reject]]:
    lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
    (folder / "posts.jsonl").write_bytes(b"\n".join(lines))
    posts, rejects = read_all(folder, **rules)
    return [post for _, post in posts], rejects
