"""Image files without their metadata, their pixels untouched byte by byte.

What is kept is what decides about pixels and colors; everything else goes, known or not: where and
by whom a photograph was taken is nobody's business downstream. Leaves out: files that are broken
(see `mending`), and which files are stripped (see `images`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Final

JPEG_END: Final = b"\xff\xd9"
SCAN: Final = 0xDA
"""Marker of a JPEG's segment that its pixels follow."""
PNG_PIXELS: Final = frozenset({b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS"})
PNG_COLORS: Final = frozenset({b"gAMA", b"cHRM", b"sRGB", b"iCCP", b"cICP"})
_PICTURE: Final = frozenset({0xC0, 0xC1, 0xC2, 0xC4, 0xCC, SCAN, 0xDB, 0xDD})
"""Segments of a JPEG that its pixels are made of: frames, tables, intervals, scans."""
_APPLICATION: Final = frozenset({*range(0xE0, 0xF0), 0xFE})
"""Segments APP0 to APP15, and comments."""
JPEG_SEGMENTS: Final = _PICTURE | _APPLICATION
# Within a scan FF 00 is an escaped FF, FF D0 to FF D7 are restarts, and FF FF is filling: none of
# them ends it.
_MARKER: Final = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_WEBP_METADATA: Final = 0x0C  # EXIF and XMP
_WEBP_PROFILE: Final = 0x20
_WEBP_CHUNKS: Final = 16


def strip_jpeg(data: bytes, colors: bool) -> bytes:
    """A JPEG without EXIF, XMP, thumbnails, comments and what follows its end.

    Args:
        data: the file.
        colors: keep what it says of its colors.

    Returns:
        Empty when it is built in no regular way.
    """
    kept = [data[:2]]
    for marker, start, end in jpeg_segments(data):
        if marker in _APPLICATION:
            kept.append(plain_segment(data[start:end], colors))
        elif marker in _PICTURE:
            kept.append(data[start:end])
        else:
            return b""
        # The image ends here: previews and whole other files may follow.
        if data[end : end + 2] == JPEG_END:
            return b"".join([*kept, JPEG_END])
    return b""


def jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Marker, start and end of each segment of a JPEG after its start, as far as it is built
    regularly. A scan's pixels are of its segment."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker, end = data[at + 1], at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if marker == SCAN:  # its data go on up to the next marker
            next_marker = _MARKER.search(data, end)
            end = next_marker.start() if next_marker else len(data)
        yield marker, at, end
        at = end


def plain_segment(segment: bytes, colors: bool) -> bytes:
    """Of an application's segment what decides about pixels, and nothing else: JFIF without its
    thumbnail, Adobe's color transform, and with ``colors`` the color profile."""
    marker, content = segment[1], segment[4:]
    if marker == 0xE0 and content.startswith(b"JFIF\0") and len(content) >= 14:
        content = content[:12] + b"\0\0"
    elif marker == 0xEE and content.startswith(b"Adobe") and len(content) >= 12:
        content = content[:12]
    elif not (colors and marker == 0xE2 and content.startswith(b"ICC_PROFILE\0")):
        return b""
    return segment[:2] + (len(content) + 2).to_bytes(2, "big") + content


def strip_png(data: bytes, colors: bool) -> bytes:
    """A PNG without texts, EXIF, time stamps and what follows its end; see `strip_jpeg`."""
    kept, wanted = [data[:8]], PNG_PIXELS | {b"sBIT"} | (PNG_COLORS if colors else frozenset())
    for kind, start, end in png_chunks(data):
        if kind in wanted:
            kept.append(data[start:end])
        elif kind[:1].isupper():  # one that must be understood, and that the standard has not
            return b""
        if kind == b"IEND":
            return b"".join(kept)
    return b""


def png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Kind, start and end of each chunk of a PNG; the last may end behind the file."""
    at = 8
    while at + 12 <= len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        yield data[at + 4 : at + 8], at, end
        at = end


def strip_webp(data: bytes, colors: bool) -> bytes:
    """A WebP without EXIF, XMP and what follows its end; see `strip_jpeg`."""
    kept: list[bytes] = []
    gone = _WEBP_METADATA if colors else _WEBP_METADATA | _WEBP_PROFILE
    at = 12
    while at + 8 <= len(data) and len(kept) < _WEBP_CHUNKS:
        kind, size = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        # Chunks start at even places; the byte in between is not in their size.
        end = at + 8 + size + size % 2
        if (
            kind == b"VP8X" and size == 10 and end <= len(data)
        ):  # its flags say which chunks there are
            kept.append(data[at : at + 8] + bytes([data[at + 8] & ~gone]) + data[at + 9 : end])
        elif kind in {b"VP8 ", b"VP8L"} or (colors and kind == b"ICCP"):
            kept.append(data[at:end])
        if end >= len(data) or kind in {b"VP8 ", b"VP8L"}:
            body = b"WEBP" + b"".join(kept)
            return (
                b"RIFF" + len(body).to_bytes(4, "little") + body
                if kind in {b"VP8 ", b"VP8L"} and end <= len(data)
                else b""
            )
        at = end
    return b""


STRIP: Final[Mapping[str, Callable[[bytes, bool], bytes]]] = {
    "JPEG": strip_jpeg,
    "PNG": strip_png,
    "WEBP": strip_webp,
}
"""By Pillow's name of the formats that a dataset keeps."""
