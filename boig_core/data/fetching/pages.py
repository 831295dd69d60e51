"""Pages: what hosts and exports hold in the place of a file that is gone, told from its first
bytes, so that a reader learns more than that it cannot be read.

Leaves out: images that are broken (see `images`), and pictures that say "no longer available",
which are images (see `card`).
"""

from __future__ import annotations

import html
import json
import re
from typing import Final

START: Final = 16_384
"""Bytes that are looked at."""
# Possessive, since what is looked at comes from strangers: a step back over comments could double
# the work with each.
_PAGE: Final = re.compile(
    rb"(?>(?:<\?xml[^>]*>|<!--.*?-->)\s*)*+<(?:!doctype html|html|head|body|title|script|meta)\b",
    re.IGNORECASE | re.DOTALL,
)
_FAULT: Final = re.compile(rb"(?:<\?xml[^>]*>\s*)?<Error>.*?<Code>([\w.-]{1,60})</Code>", re.DOTALL)
_PACKED: Final = {
    b"\x1f\x8b": "a file packed with gzip",
    b"PK\x03\x04": "a ZIP archive",
    b"%PDF-": "a PDF",
}
_LONGEST_TITLE: Final = 80


def describe_page(data: bytes) -> str | None:
    """What a file is by its start, if it is none that anybody meant: ``a web page ("Log in")``;
    None: it may be one."""
    start = data[:START].removeprefix(b"\xef\xbb\xbf").lstrip()
    if _PAGE.match(start):
        words = _title(start)
        return f'a web page ("{words[:_LONGEST_TITLE]}")' if words else "a web page"
    if fault := _FAULT.match(start):
        return f"an error of S3 ({fault[1].decode()})"
    if start.startswith(b"version https://git-lfs.github.com/spec/"):
        return "a pointer of Git LFS (`git lfs pull` brings the file)"
    return None


def describe_no_image(data: bytes) -> str | None:
    """Like `describe_page`, where an image was meant: JSON, an archive and an empty file are none,
    either."""
    if not data:
        return "nothing (0 bytes)"
    if data[:1] in {b"{", b"["} and len(data) <= START:
        try:
            json.loads(data)
        except (ValueError, RecursionError):
            return None
        return "JSON"
    kinds = (kind for start, kind in _PACKED.items() if data.startswith(start))
    return next(kinds, None) or describe_page(data)


def _title(page: bytes) -> str:
    """Title of a web page; empty: it has none."""
    # By search for fixed texts, which takes as long as the page is.
    begin = page.lower().find(b"<title")
    inner = page[begin:].partition(b">")[2] if begin >= 0 else b""
    words = html.unescape(inner.partition(b"<")[0].decode(errors="replace"))
    return " ".join(words.split())
