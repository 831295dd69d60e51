"""Images: encoded bytes checked and made uniform, decoded to pixels, resized one way everywhere.

A stored image keeps its bytes, but for their metadata, when they are a plain RGB JPEG, PNG or WebP
that stands upright and is meant as sRGB. Anything else is encoded anew in sRGB, as a fine JPEG
where it was lossy before, else as PNG; or every image in the recipe's format. The SHA-256 of the
stored bytes is the image's name. Leaves out: where bytes come from (see `fetch`), metadata
(`stripping`), broken files (`mending`) and what colors mean (`color_profiles`). Shape letters: H
height, W width, C = 3 channels.
"""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, PngImagePlugin, UnidentifiedImageError

from boig_core.data.imaging.color_profiles import LARGEST_PROFILE, read_colors, to_srgb
from boig_core.data.imaging.duplicates import SIDE, fingerprint
from boig_core.data.imaging.heic import box_formats
from boig_core.data.imaging.mending import is_cut, mended, with_end
from boig_core.data.imaging.stripping import STRIP
from boig_core.data.rejects import Rejected

if TYPE_CHECKING:
    # The process that decodes (see `decoder`) starts without all that recipes need.
    from boig_core.config import ImageFormat

Pixels = NDArray[np.uint8]
"""RGB image, (H, W, 3)."""

READABLE: Final = "JPEG, PNG, WebP, GIF, BMP, AVIF or HEIC"
"""Formats that people post. The rest of Pillow's decoders are attack surface that no export
needs."""
_STORED: Final = ("JPEG", "PNG", "WEBP")
_FORMATS: Final = (*_STORED, "GIF", "BMP")
# Our own limit of pixels holds; and filters are the process's own, so that threads do not set them
# for one another.
warnings.simplefilter("ignore", Image.DecompressionBombWarning)
# Pillow grumbles at every oddity of a foreign file; what matters is raised.
warnings.filterwarnings("ignore", category=UserWarning, module="PIL")
# The limit of a profile in a PNG is the one of its texts.
PngImagePlugin.MAX_TEXT_CHUNK = LARGEST_PROFILE

# Without MPO: a JPEG with a preview beside it, as phones store it, opens as an animated one.
_MOVING: Final = frozenset({"GIF", "PNG", "WEBP", "AVIF"})
_LOSSY: Final = frozenset({"JPEG", "MPO", "WEBP", "AVIF", "HEIF"})
_FINE: Final = 95
"""Quality of a JPEG that takes the place of a lossy image: a PNG would keep every artifact, at four
times the size."""
_LONGEST: Final = {"webp": 16_383, "jpeg": 65_500}
"""Pixels of a side that a format, as its encoder has it, can hold; a PNG holds any."""
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
        return _normalize(data, max_pixels, image_format, quality)
    except Rejected as exc:
        # What is cut off has been looked at already.
        if exc.code != "image_unreadable" or is_cut(data):
            raise
        for copy in mended(data):
            try:
                return _normalize(copy, max_pixels, image_format, quality)
            except Rejected as told:
                if told.code != "image_unreadable":
                    raise
        raise


def _normalize(
    data: bytes, max_pixels: int, image_format: ImageFormat, quality: int
) -> StoredImage:
    """The stored form of a file as it is."""
    try:
        with _open(data) as image:
            _check_size(image, max_pixels)
            if image.format not in {"JPEG", "MPO"}:
                return _checked(image, data, max_pixels, image_format, quality)
            if _count_scans(data) > _SCANS:
                raise Rejected(
                    "image_unreadable",
                    f"a JPEG of more than {_SCANS} scans, which is made to take long",
                )
            if not is_cut(data):
                return _checked(image, data, max_pixels, image_format, quality)
            with _decoding():
                data = with_end(data, image.size)
        with _open(data) as image:
            return _checked(image, data, max_pixels, image_format, quality)
    # Pillow raises this from twice its own limit on, before the image's size is seen here.
    except Image.DecompressionBombError as exc:
        raise Rejected(
            "image_too_large", f"more than the {max_pixels} pixels that are allowed"
        ) from exc
    except UnidentifiedImageError as exc:
        start = data[:256].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
        text = start.startswith((b"<svg", b"<?xml", b"<!doctype", b"<html", b"<!--"))
        what = "an SVG, HTML or XML text, which is" if text else f"{len(data)} bytes that are"
        raise Rejected("image_unreadable", f"{what} no {READABLE} image") from exc
    except (
        OSError,
        SyntaxError,
        ValueError,
        EOFError,
    ) as exc:  # what Pillow's decoders raise on broken files
        raise Rejected("image_unreadable", f"the image is broken ({exc})") from exc


def _open(data: bytes) -> ImageFile.ImageFile:
    formats = box_formats(data) or _FORMATS
    with _decoding():
        return Image.open(io.BytesIO(data), formats=formats)


def _check_size(image: Image.Image, max_pixels: int) -> None:
    """Raises Rejected, ``image_too_large``."""
    if image.width * image.height > max_pixels:
        raise Rejected(
            "image_too_large",
            f"{image.width} x {image.height} pixels, at most {max_pixels} are allowed",
        )


@contextmanager
def _decoding() -> Iterator[None]:
    """Around Pillow's decoders alone: whatever their code meets in a foreign file (struct.error,
    KeyError, IndexError) is this image's end, never the run's. A machine short of memory is no
    fault of an image."""
    try:
        yield
    # Told by `normalize`, or no fault of the image.
    except (
        *(OSError, SyntaxError, ValueError, EOFError),
        *(MemoryError, Image.DecompressionBombError, Rejected),
    ):
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
    with _decoding():
        moving = image.format in _MOVING and getattr(image, "is_animated", False)
    if moving:
        raise Rejected(
            "image_animated", f"an animated {image.format}; a description is of one image"
        )
    # Taken before a draft shrinks it.
    size = image.size
    if image.format != "JPEG":  # a PNG's orientation may follow its pixels
        with _decoding():
            image.load()
        # The headers of a HEIC may say another.
        _check_size(image, max_pixels)
    turn, colors = _turn_of(image), read_colors(image, data)
    plain = (
        image_format == "original"
        and image.format in STRIP
        and image.mode == "RGB"
        and "transparency" not in image.info
        and turn is None
        and not colors.profile
    )
    # Empty when the file is built in no regular way: then its pixels are encoded anew, since
    # metadata could hide where nobody looks.
    kept = STRIP[str(image.format)](data, colors.stays) if plain else b""
    if kept and image.format == "JPEG":
        # Reads every coefficient, and spares most of the inverse transform.
        image.draft("RGB", (SIDE, SIDE))
    with _decoding():
        image.load()
    profile = image.info.get("icc_profile") if colors.stays else None
    if not kept:
        upright = image if turn is None else image.transpose(turn)
        upright = _flatten(upright, colors.profile)
        lossy = image_format == "original" and image.format in _LOSSY
        upright.info = {"icc_profile": profile} if (profile or b"")[16:20] == b"RGB " else {}
        kept = _encode(upright, "jpeg" if lossy else image_format, _FINE if lossy else quality)
        return _stored(kept, upright.size, upright)
    # A draft is smaller than the bytes that are kept.
    return _stored(kept, size, image)


def _stored(data: bytes, size: tuple[int, int], image: Image.Image) -> StoredImage:
    return StoredImage(data, hashlib.sha256(data).hexdigest(), *size, fingerprint(image))


def _count_scans(data: bytes) -> int:
    """Scans of a JPEG, those of its previews included."""
    # By arrays: `bytes.count` takes four times as long, a thirtieth of the whole image's.
    file = np.frombuffer(data, np.uint8)
    return int(np.count_nonzero((file[:-1] == 0xFF) & (file[1:] == _SCAN)))


def _turn_of(image: Image.Image) -> Image.Transpose | None:
    """What brings an image upright; None: it stands so, or its metadata cannot be read."""
    if image.format == "HEIF":  # its decoder turns it, and what EXIF says is told twice
        return None
    # Read alone, never written back: odd values beside the orientation are nobody's business.
    try:
        return _TURNS.get(int(image.getexif().get(_ORIENTATION) or 1))
    except Exception:
        return None


def decode(data: bytes) -> Pixels:
    """Pixels of a stored image, (H, W, 3)."""
    with Image.open(io.BytesIO(data), formats=_STORED) as image:
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
    """A file of RGB pixels and the profile that the image has; in the next format of which a side
    is not too long for it."""
    side = max(image.size)
    if image_format == "webp" and side > _LONGEST["webp"]:
        image_format = "jpeg"
    if image_format == "jpeg" and side > _LONGEST["jpeg"]:
        image_format = "png"
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


def _flatten(image: Image.Image, profile: bytes) -> Image.Image:
    """RGB of sRGB colors without transparency: what is transparent shows white, as on a page."""
    if image.mode.startswith("I"):  # 16-bit gray; Pillow's own conversion would clip it to white
        # 65535 is 257 times 255, so white stays white.
        image = Image.fromarray((np.asarray(image).clip(0, 65535) // 257).astype(np.uint8))
    # GIF, and PNG without an alpha channel, name a transparent color beside the pixels.
    clear = "transparency" in image.info or image.mode in {"RGBA", "RGBa", "LA", "PA"}
    if clear:
        image = image.convert("RGBA")
    elif image.mode == "1":
        image = image.convert("L")
    elif image.mode not in {"L", "CMYK", "RGB"}:
        image = image.convert("RGB")
    if profile:
        image = to_srgb(image, profile)
    if clear:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")
