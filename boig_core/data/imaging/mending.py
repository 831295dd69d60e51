"""Broken image files whose pixels are whole: what is broken beside the pixels never costs an image.

A text too large, a check sum that does not fit, EXIF that ends early or an end marker that is
missing are mended in a copy of the file, which is then decoded like any other. Leaves out: files
that decode as they come, which are never touched, and pixels that are lost.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from boig_core.data.imaging.stripping import (
    JPEG_END,
    JPEG_SEGMENTS,
    PNG_COLORS,
    PNG_PIXELS,
    SCAN,
    jpeg_segments,
    plain_segment,
    png_chunks,
    strip_webp,
)
from boig_core.data.rejects import Rejected

_ORIENTATION: Final = 0x0112
_PNG_START: Final = b"\x89PNG\r\n\x1a\n"
_PNG_FRAMES: Final = frozenset({b"acTL", b"fcTL", b"fdAT"})
_LOST: Final = 1 / 32
"""Share of the pixels that may be missing: a file without its last bytes lacks a block or two."""
_BLOCK_ROWS: Final = 16
"""Rows that a JPEG decodes at a time, at most."""
_RESTART: Final = 64


def mended(data: bytes) -> Iterator[bytes]:
    """Copies of a file that have less beside the pixels, of metadata the orientation alone: the
    first keeps what is said of colors, the second not even that. None where there is nothing to
    leave out."""
    for colors in (True, False):
        if data.startswith(b"\xff\xd8\xff"):
            copy = _bare_jpeg(data, colors)
        elif data.startswith(_PNG_START):
            copy = _bare_png(data, colors)
        elif data.startswith(b"RIFF"):
            copy = strip_webp(data, colors)
        else:
            return
        if copy and copy != data:
            yield copy
            data = copy


def is_cut(data: bytes) -> bool:
    """Whether a JPEG ends before its end marker. One that is built oddly is the decoder's to
    judge."""
    if data.endswith(JPEG_END):
        return False
    scans = 0
    # Not any two such bytes are the end: previews within the metadata end as well.
    for marker, _, end in jpeg_segments(data):
        scans += marker == SCAN
        if marker not in JPEG_SEGMENTS or (marker == SCAN and data[end : end + 2] == JPEG_END):
            return False
    return scans > 0


def with_end(data: bytes, shape: tuple[int, int]) -> bytes:
    """A JPEG with the end marker that it lacks.

    A decoder that is short of data makes up pixels, and which depends on what comes next. So the
    file is decoded with two endings: where the pixels differ they are not in the file.

    Args:
        data: the file.
        shape: width and height.

    Raises:
        Rejected: ``image_unreadable``: pixels are missing as well.
    """
    # A download that stopped may be filled up with zeros, which would be decoded.
    data = data.rstrip(b"\0").removesuffix(b"\xff")
    width, height = shape
    if _has_all_scans(data):
        ended, other = (_pixels(data + tail + JPEG_END) for tail in (b"", _noise(data)))
        differs = (ended != other).any(axis=2)
        first = int(differs.any(axis=1).argmax()) if differs.any() else height
        # Below the rows of the first block that is missing all is missing, also what two endings
        # leave alike.
        missing = int(differs[first : first + _BLOCK_ROWS].sum())
        missing += width * max(0, height - first - _BLOCK_ROWS)
        share = missing / (width * height)
        if share <= _LOST:
            return data + JPEG_END
        raise Rejected("image_unreadable", f"the image is cut off ({share:.0%} is missing)")
    raise Rejected("image_unreadable", "the image is cut off (whole scans are missing)")


def _bare_jpeg(data: bytes, colors: bool) -> bytes:
    kept, exif, end = [data[:2]], b"", 2
    for marker, start, segment_end in jpeg_segments(data):
        if marker == SCAN:
            break
        segment, end = data[start:segment_end], segment_end
        if marker == 0xE1 and segment[4:].startswith(b"Exif\0\0"):
            exif = exif or _orientation(segment[4:])
        if 0xE0 <= marker <= 0xEF or marker == 0xFE:
            # A profile's segment has two numbers behind its name.
            kept.append(plain_segment(segment, colors and len(segment) > 18))
        else:
            kept.append(segment)
    if exif:
        kept.insert(1, b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif)
    return b"".join([*kept, data[end:]])


def _bare_png(data: bytes, colors: bool) -> bytes:
    needed = PNG_PIXELS | _PNG_FRAMES | (PNG_COLORS if colors else frozenset())
    kept, exif, rest = [data[:8]], b"", 8
    for kind, start, end in png_chunks(data):
        rest = end
        if kind == b"IDAT" and end > len(data):  # nothing beside the pixels is at fault
            return b""
        # Wrong sums of pixels stay, for the decoder to refuse.
        sound = zlib.crc32(data[start + 4 : end - 4]).to_bytes(4, "big") == data[end - 4 : end]
        if kind == b"acTL" and end - start < 20:  # says nothing of how many frames there are
            continue
        if kind[:1].isupper() or (kind in needed and sound):
            kept.append(data[start:end])
        elif kind == b"eXIf":
            exif = exif or _orientation(b"Exif\0\0" + data[start + 8 : end - 4]).removeprefix(
                b"Exif\0\0"
            )
    if exif:
        chunk = b"eXIf" + exif
        kept.insert(2, len(exif).to_bytes(4, "big") + chunk + zlib.crc32(chunk).to_bytes(4, "big"))
    return b"".join([*kept, data[rest:]])


def _orientation(exif: bytes) -> bytes:
    """EXIF of an orientation alone; empty when there is none that can be read."""
    bare = Image.Exif()
    try:
        whole = Image.Exif()
        whole.load(exif)
        bare[_ORIENTATION] = int(whole[_ORIENTATION])
    except Exception:
        return b""
    return b"Exif\0\0" + bare.tobytes()


def _has_all_scans(data: bytes) -> bool:
    """Whether each component's coefficients are all there, down to their last bit."""
    components, left = 0, dict[tuple[int, int], int]()
    for marker, start, _ in jpeg_segments(data):
        segment = data[start : start + 32]
        if marker in {0xC0, 0xC1, 0xC2} and len(segment) > 9:
            components = segment[9]
        elif marker == SCAN and len(segment) >= 8 + 2 * segment[4]:
            names = segment[5 : 5 + 2 * segment[4] : 2]
            first, last, bits = segment[5 + 2 * segment[4] : 8 + 2 * segment[4]]
            left |= {
                (name, k): bits & 15 for name in names for k in range(first, min(last, 63) + 1)
            }
    return 0 < len(left) == 64 * components and not any(left.values())


def _noise(data: bytes) -> bytes:
    """An ending that no image has; long enough to show what is missing."""
    size = len(data) // 8 + 4096
    noise = np.random.default_rng(0).integers(0, 255, size, np.uint8).tobytes()
    if b"\xff\xdd\0\4" not in data:
        return noise
    # Where there are restarts, a decoder waits for the next one, by its number.
    scan = max((start for marker, start, _ in jpeg_segments(data) if marker == SCAN), default=0)
    restarts = sum(data.count(bytes([0xFF, 0xD0 + i]), scan) for i in range(8))
    return b"".join(
        noise[at : at + _RESTART] + bytes([0xFF, 0xD0 + (restarts + at // _RESTART) % 8])
        for at in range(0, size, _RESTART)
    )


def _pixels(data: bytes) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(data), formats=["JPEG"]) as image:
        return np.atleast_3d(np.asarray(image))
