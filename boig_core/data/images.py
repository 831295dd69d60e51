"""Images: encoded bytes checked and made uniform, decoded to pixels, resized one way everywhere.

A stored image keeps its bytes when they are a plain RGB JPEG, PNG or WebP that stands upright, but
for their metadata: where and by whom a photograph was taken is nobody's business downstream.
Anything else is encoded anew, as a fine JPEG where it was lossy before, else as PNG; or every image
in the recipe's format. The SHA-256 of the stored bytes is the image's name. Leaves out: where bytes
come from (see `fetch`). Shape letters: H height, W width, C = 3 channels.
"""

from __future__ import annotations

import hashlib
import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, UnidentifiedImageError

from boig_core.data.duplicates import SIDE, fingerprint
from boig_core.data.rejects import Rejected

if TYPE_CHECKING:
    # The process that decodes (see `decoder`) starts without all that recipes need.
    from boig_core.config import ImageFormat

Pixels = NDArray[np.uint8]
"""RGB image, (H, W, 3)."""

# Formats that people post. The rest of Pillow's decoders are attack surface that no export needs.
_FORMATS: Final = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
# Our own limit of pixels holds; and filters are the process's own, so that threads do not set them
# for one another.
warnings.simplefilter("ignore", Image.DecompressionBombWarning)
# Pillow grumbles at every oddity of a foreign file; what matters is raised.
warnings.filterwarnings("ignore", category=UserWarning, module="PIL")

# Without MPO: a JPEG with a preview beside it, as phones store it, opens as an animated one.
_MOVING: Final = frozenset({"GIF", "PNG", "WEBP"})
_LOSSY: Final = frozenset({"JPEG", "MPO", "WEBP"})
_FINE: Final = 95
"""Quality of a JPEG that takes the place of a lossy image: a PNG would keep every artifact, at four
times the size."""
_SCAN: Final = 0xDA
_SCANS: Final = 100
"""Scans of a JPEG and of the previews in it. Encoders write ten; each goes over all pixels, also
one that has but a few bytes."""
_ORIENTATION: Final = 0x0112
_TURNS: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What undoes each orientation of EXIF."""


@dataclass(frozen=True)
class StoredImage:
    """An image as a dataset keeps it.

    Attributes:
        data: encoded bytes.
        sha256: of the bytes, 64 hex digits: its name.
        width: in pixels.
        height: in pixels.
        fingerprint: what near-duplicates have nearly in common (see `duplicates.fingerprint`).
    """

    data: bytes
    sha256: str
    width: int
    height: int
    fingerprint: str


def normalize(
    data: bytes, max_pixels: int, image_format: ImageFormat = "original", quality: int = 90
) -> StoredImage:
    """Check encoded bytes whole and bring them into the stored form.

    Args:
        data: content of an image file.
        max_pixels: largest width x height.
        image_format: ``original`` keeps plain bytes; any other encodes every image anew.
        quality: of JPEG and WebP.

    Raises:
        Rejected: ``image_unreadable`` (no image, truncated, another format), ``image_animated`` or
            ``image_too_large``.
    """
    try:
        with _decoding():
            opened = Image.open(io.BytesIO(data), formats=_FORMATS)
        with opened as image:
            return _checked(image, data, max_pixels, image_format, quality)
    # Pillow raises this from twice its own limit on, before `_checked` sees the image.
    except Image.DecompressionBombError as exc:
        raise Rejected(
            "image_too_large", f"more than the {max_pixels} pixels that are allowed"
        ) from exc
    except UnidentifiedImageError as exc:
        start = data[:256].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
        text = start.startswith((b"<svg", b"<?xml", b"<!doctype", b"<html", b"<!--"))
        what = "an SVG, HTML or XML text, which is" if text else f"{len(data)} bytes that are"
        raise Rejected("image_unreadable", f"{what} no {', '.join(_FORMATS)} image") from exc
    except (
        OSError,
        SyntaxError,
        ValueError,
        EOFError,
    ) as exc:  # what Pillow's decoders raise on broken files
        raise Rejected("image_unreadable", f"the image is broken ({exc})") from exc


@contextmanager
def _decoding() -> Iterator[None]:
    """Around Pillow's decoders alone: whatever their code meets in a foreign file (struct.error,
    KeyError, IndexError) is this image's end, never the run's. A machine short of memory is no
    fault of an image."""
    try:
        yield
    # Told by `normalize`, or no fault of the image.
    except (OSError, SyntaxError, ValueError, EOFError, MemoryError, Image.DecompressionBombError):
        raise
    except Exception as exc:
        raise Rejected(
            "image_unreadable", f"the image is broken ({type(exc).__name__}: {exc})"
        ) from exc


def _checked(
    image: ImageFile.ImageFile,
    data: bytes,
    max_pixels: int,
    image_format: ImageFormat,
    quality: int,
) -> StoredImage:
    """The stored form of an opened image; decoders raise errors of many kinds."""
    # The size stands in the headers, so a decompression bomb is refused before it is unpacked.
    if image.width * image.height > max_pixels:
        raise Rejected(
            "image_too_large",
            f"{image.width} x {image.height} pixels, at most {max_pixels} are allowed",
        )
    with _decoding():
        moving = image.format in _MOVING and getattr(image, "is_animated", False)
    if moving:
        raise Rejected(
            "image_animated", f"an animated {image.format}; a description is of one image"
        )
    if image.format in {"JPEG", "MPO"} and _count_scans(data) > _SCANS:
        raise Rejected(
            "image_unreadable", f"a JPEG of more than {_SCANS} scans, which is made to take long"
        )
    # Taken before a draft shrinks it.
    size = image.size
    if image.format != "JPEG":  # a PNG's orientation may follow its pixels
        with _decoding():
            image.load()
    turn = _turn_of(image)
    plain = (
        image_format == "original"
        and image.format in _STRIP
        and image.mode == "RGB"
        and turn is None
    )
    # Empty when the file is built in no regular way: then its pixels are encoded anew, since
    # metadata could hide where nobody looks.
    kept = _STRIP[str(image.format)](data) if plain else b""
    if kept and image.format == "JPEG":
        # Reads every coefficient, and spares most of the inverse transform.
        image.draft("RGB", (SIDE, SIDE))
    with _decoding():
        image.load()
    upright = image if kept else _flatten(image if turn is None else image.transpose(turn))
    # A turned image has other sides, and a draft a smaller size than the bytes that are kept.
    width, height = size if kept else upright.size
    lossy = image_format == "original" and image.format in _LOSSY
    kept = kept or _encode(upright, "jpeg" if lossy else image_format, _FINE if lossy else quality)
    return StoredImage(kept, hashlib.sha256(kept).hexdigest(), width, height, fingerprint(upright))


def _count_scans(data: bytes) -> int:
    """Scans of a JPEG, those of its previews included."""
    # By arrays: `bytes.count` takes four times as long, a thirtieth of the whole image's.
    file = np.frombuffer(data, np.uint8)
    return int(np.count_nonzero((file[:-1] == 0xFF) & (file[1:] == _SCAN)))


def _turn_of(image: Image.Image) -> Image.Transpose | None:
    """What brings an image upright; None: it stands so, or its metadata cannot be read."""
    # Read alone, never written back: odd values beside the orientation are nobody's business.
    try:
        return _TURNS.get(int(image.getexif().get(_ORIENTATION) or 1))
    except Exception:
        return None


def decode(data: bytes) -> Pixels:
    """Pixels of a stored image, (H, W, 3)."""
    with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
        return np.asarray(image.convert("RGB"))


def resize(image: Pixels | Image.Image, side: int) -> Pixels:
    """The whole image as a square of ``side`` pixels, (side, side, 3).

    Shrinking averages over pixel areas, enlarging is bicubic. An image that is no square is
    squeezed, not cut, so that a box scales back by width / side and height / side.
    """
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    if picture.size == (side, side):
        return np.asarray(picture)
    # Enlarged by areas, an image would show blocks.
    shrinks = min(picture.size) >= side
    return np.asarray(
        picture.resize((side, side), Image.Resampling.BOX if shrinks else Image.Resampling.BICUBIC)
    )


def _encode(image: Image.Image, image_format: ImageFormat, quality: int) -> bytes:
    # Pillow writes comments and profiles that it has read, and a profile may be of other colors.
    profile = image.info.get("icc_profile") or b""
    image.info = {"icc_profile": profile} if profile[16:20] == b"RGB " else {}
    buffer = io.BytesIO()
    if image_format in {"jpeg", "webp"}:
        image.save(
            buffer,
            format=image_format.upper(),
            quality=quality,
            **({"subsampling": 0} if quality >= _FINE else {}),
        )
    else:
        image.save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()


def _strip_jpeg(data: bytes) -> bytes:
    """A JPEG without EXIF, XMP, thumbnails, comments and what follows its end; empty when it is
    built in no regular way."""
    kept, at = [data[:2]], 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker, end = data[at + 1], at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if marker == 0xDA:  # a scan: its data go on up to the next marker
            next_marker = _MARKER.search(data, end)
            end = next_marker.start() if next_marker else len(data)
        if marker in _APPLICATION:
            kept.append(_plain_segment(data[at:end]))
        elif marker in _PICTURE:
            kept.append(data[at:end])
        else:
            return b""
        # The image ends here: previews and whole other files may follow.
        if data[end : end + 2] == b"\xff\xd9":
            return b"".join([*kept, b"\xff\xd9"])
        at = end
    return b""


def _plain_segment(segment: bytes) -> bytes:
    """Of an application's segment what decides about pixels, and nothing else: JFIF without its
    thumbnail, the color profile, Adobe's color transform."""
    marker, content = segment[1], segment[4:]
    if marker == 0xE0 and content.startswith(b"JFIF\0") and len(content) >= 14:
        content = content[:12] + b"\0\0"
    elif marker == 0xEE and content.startswith(b"Adobe") and len(content) >= 12:
        content = content[:12]
    elif not (marker == 0xE2 and content.startswith(b"ICC_PROFILE\0")):
        return b""
    return segment[:2] + (len(content) + 2).to_bytes(2, "big") + content


def _strip_png(data: bytes) -> bytes:
    """A PNG without texts, EXIF, time stamps and what follows its end: its pixels, and what says
    how colors are meant; empty when it is built in no regular way."""
    kept, at = [data[:8]], 8
    while at + 12 <= len(data):
        kind, end = data[at + 4 : at + 8], at + 12 + int.from_bytes(data[at : at + 4], "big")
        if kind in _PNG_CHUNKS:
            kept.append(data[at:end])
        elif kind[:1].isupper():  # one that must be understood, and that the standard has not
            return b""
        if kind == b"IEND":
            return b"".join(kept)
        at = end
    return b""


def _strip_webp(data: bytes) -> bytes:
    """A WebP without EXIF, XMP and what follows its end; empty when it is built in no regular
    way."""
    kept: list[bytes] = []
    at = 12
    while at + 8 <= len(data) and len(kept) < _WEBP_CHUNKS:
        kind, size = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        # Chunks start at even places; the byte in between is not in their size.
        end = at + 8 + size + size % 2
        if kind == b"VP8X" and size == 10:  # its flags say which chunks there are
            kept.append(
                data[at : at + 8] + bytes([data[at + 8] & ~_WEBP_METADATA]) + data[at + 9 : end]
            )
        elif kind in {b"VP8 ", b"VP8L", b"ICCP"}:
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


_PICTURE: Final = frozenset({0xC0, 0xC1, 0xC2, 0xC4, 0xCC, 0xDA, 0xDB, 0xDD})
"""Segments of a JPEG that its pixels are made of: frames, tables, intervals, scans."""
_APPLICATION: Final = frozenset({*range(0xE0, 0xF0), 0xFE})
"""Segments APP0 to APP15, and comments."""
# Within a scan FF 00 is an escaped FF, FF D0 to FF D7 are restarts, and FF FF is filling: none of
# them ends it.
_MARKER: Final = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_PNG_CHUNKS: Final = frozenset(
    {b"IHDR", b"PLTE", b"IDAT", b"IEND"}
    | {b"tRNS", b"gAMA", b"cHRM", b"sRGB", b"iCCP", b"cICP", b"sBIT"}
)
_WEBP_METADATA: Final = 0x0C  # EXIF and XMP
_WEBP_CHUNKS: Final = 16
_STRIP: Final = {"JPEG": _strip_jpeg, "PNG": _strip_png, "WEBP": _strip_webp}


def _flatten(image: Image.Image) -> Image.Image:
    """RGB without transparency: what is transparent shows white, as on a page."""
    if image.mode.startswith("I"):  # 16-bit gray; Pillow's own conversion would clip it to white
        # 65535 is 257 times 255, so white stays white.
        return Image.fromarray((np.asarray(image).clip(0, 65535) // 257).astype(np.uint8)).convert(
            "RGB"
        )
    # GIF, and PNG without an alpha channel, name a transparent color beside the pixels.
    if "transparency" in image.info or image.mode in {"RGBA", "LA", "PA"}:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image.convert("RGB")
