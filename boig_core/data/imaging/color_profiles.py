"""Colors: what the numbers of a foreign image mean, and how they become sRGB.

An image says it by an ICC profile, by the chunks of a PNG, by the codes of AVIF and HEIC, or by
EXIF; all but the first become profiles here, so that there is one way for all. The profile is a
stranger's: it is read in the process that decodes, up to a size, and one that is broken or belongs
to other pixels is ignored. Leaves out: brightness beyond white (PQ and HLG) and gain maps, which
need a mapping of tones and not of colors: such an image counts as sRGB.
"""

from __future__ import annotations

import functools
import io
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

if TYPE_CHECKING:
    from PIL import ImageCms

LARGEST_PROFILE: Final = 4 * 2**20
"""Bytes of a profile that is read. Those of printing presses have half a MiB to three."""
_EQUAL: Final = 3
"""Levels of 256 that a profile which counts as sRGB may move a color: writers round their curves,
and JPEG itself moves colors further."""
_STEPS: Final = 9
"""Levels of each channel in the colors that a profile is tried on."""

_Point = tuple[float, float]
_D50: Final = np.array([0.9642, 1.0, 0.8249])
_D65: Final = (0.3127, 0.3290)
_SRGB_PRIMARIES: Final = ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06))
_PRIMARIES: Final[Mapping[int, tuple[_Point, _Point, _Point]]] = {
    1: _SRGB_PRIMARIES,
    2: _SRGB_PRIMARIES,  # not said
    5: ((0.64, 0.33), (0.29, 0.60), (0.15, 0.06)),
    6: ((0.63, 0.34), (0.31, 0.595), (0.155, 0.07)),
    9: ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046)),
    12: ((0.68, 0.32), (0.265, 0.69), (0.15, 0.06)),
}
"""Red, green and blue by their code in H.273, under daylight: television, BT.2020, Display P3."""
_SRGB_CURVE: Final = 0.0
_CURVES: Final[Mapping[int, float]] = {
    # A camera's curve (1, 6, 14, 15) is shown as sRGB, as browsers do.
    **dict.fromkeys((1, 2, 6, 13, 14, 15), _SRGB_CURVE),
    4: 2.2,
    5: 2.8,
    8: 1.0,
}
"""Exponent from numbers to light by the code in H.273."""
_ADOBE_GREEN: Final = (0.21, 0.71)
_ADOBE_GAMMA: Final = 563 / 256
_EXIF_IFD, _INTEROP_IFD, _COLOR_SPACE = 0x8769, 0xA005, 0xA001
_UNCALIBRATED: Final = frozenset({2, 0xFFFF})

_MODES: Final = {b"RGB ": "RGB", b"GRAY": "L", b"CMYK": "CMYK"}
_GRAYS: Final = frozenset({"1", "L", "LA", "I", "I;16", "I;16B", "I;16L", "I;16N"})


@dataclass(frozen=True)
class Colors:
    """What an image's numbers mean.

    Attributes:
        profile: ICC profile that `to_srgb` is to apply; empty: the numbers are sRGB, or count as
            it.
        stays: what the file says of its colors agrees with this, so that it may stay in the file.
    """

    profile: bytes
    stays: bool


_SRGB: Final = Colors(b"", stays=True)
_IGNORED: Final = Colors(b"", stays=False)


def read_colors(image: Image.Image, data: bytes) -> Colors:
    """What an opened image says of its colors.

    Args:
        image: as Pillow has opened it; of a PNG only what stands before its pixels is looked at.
        data: the file.
    """
    if image.format == "PNG" and (codes := _png_codes(data)) is not None:
        return _judge(codes, image.mode)
    if "icc_profile" in image.info:
        # None where the file has a profile that cannot be put together.
        return _judge(image.info["icc_profile"] or b"?", image.mode)
    if image.format == "PNG":
        return _judge(_png_profile(image.info), image.mode)
    if image.format == "HEIF":
        nclx = image.info.get("nclx_profile") or {}
        code_points = nclx.get("color_primaries", 2), nclx.get("transfer_characteristics", 2)
        return _judge(_profile_of_codes(*code_points) or b"?", image.mode)
    if image.format == "AVIF":
        # Pillow does not tell them. In the box of colors, of which the first is the picture's.
        at = data.find(b"colrnclx") + 8
        code_points = (
            struct.unpack(">HH", data[at : at + 4]) if 8 <= at <= len(data) - 4 else (2, 2)
        )
        return _judge(_profile_of_codes(*code_points) or b"?", image.mode)
    if _is_adobe_rgb(image):
        red, _, blue = _SRGB_PRIMARIES
        return _judge(_make_profile((red, _ADOBE_GREEN, blue), _D65, _ADOBE_GAMMA), image.mode)
    return _SRGB


def to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """An image in sRGB, RGB or RGBA as it came; its pixels may be changed in place.

    Args:
        image: L, RGB, RGBA or CMYK.
        profile: of its `Colors`.
    """
    gray = _MODES[profile[16:20]] == "L"
    if gray and image.mode == "RGBA":
        opaque = to_srgb(image.getchannel("R"), profile)
        opaque.putalpha(image.getchannel("A"))
        return opaque
    if image.mode == "L" and not gray:
        image = image.convert("RGB")
    transform = _transform(profile, image.mode)
    # In place, since an image may be near the limit of memory.
    return transform.apply(image, image if image.mode in {"RGB", "RGBA"} else None)


def _judge(profile: bytes, mode: str) -> Colors:
    """What a profile makes of pixels of a mode; empty: nothing is said."""
    if not profile:
        return _SRGB
    kind = _MODES.get(profile[16:20])
    fits = {"CMYK": mode == "CMYK", "L": mode in _GRAYS, "RGB": mode != "CMYK"}
    if kind is None or not fits[kind] or len(profile) > LARGEST_PROFILE:
        return _IGNORED
    moved = _largest_move(profile, kind)
    if moved is None:
        return _IGNORED
    return _SRGB if moved <= _EQUAL else Colors(profile, stays=False)


# Keyed by the profile itself, which Python hashes: what counts is how few differ. A handful, since
# each may hold megabytes.
@functools.lru_cache(maxsize=16)
def _largest_move(profile: bytes, mode: str) -> int | None:
    """Levels by which a profile moves the color that it moves most; None: it is broken."""
    if mode == "CMYK":
        colors = Image.new("CMYK", (1, 1))
    elif mode == "L":
        colors = Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    else:
        levels = np.linspace(0, 255, _STEPS).round().astype(np.uint8)
        cube = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1)
        colors = Image.fromarray(cube.reshape(1, -1, 3))
    try:
        shown = _transform(profile, mode).apply(colors)
    except MemoryError:
        raise
    # Whatever lcms meets in a profile costs the profile, never the image.
    except Exception:
        return None
    if mode == "CMYK":  # ink is never the same as light
        return 256
    return int(np.abs(np.asarray(shown, int) - np.asarray(colors.convert("RGB"), int)).max())


@functools.lru_cache(maxsize=16)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform:
    from PIL import ImageCms

    return ImageCms.buildTransform(
        ImageCms.ImageCmsProfile(io.BytesIO(profile)),
        ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")),
        mode,
        "RGBA" if mode == "RGBA" else "RGB",
        ImageCms.Intent.RELATIVE_COLORIMETRIC,
        ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )


def _png_codes(data: bytes) -> bytes | None:
    """The profile that a PNG's cICP chunk stands for, which counts before any other; None: there
    is none, or one of what is not done here."""
    at = data.find(b"\0\0\0\4cICP", 8, data.find(b"IDAT"))
    # The matrix must be 0, RGB, and the range full.
    if at < 0 or data[at + 10 : at + 12] != b"\0\1":
        return None
    return _profile_of_codes(data[at + 8], data[at + 9])


def _png_profile(info: Mapping[str | tuple[int, int], Any]) -> bytes:
    """The profile that a PNG's chunks gAMA and cHRM stand for; empty: they say nothing."""
    gamma = info.get("gamma")
    if "srgb" in info or not gamma:
        return b""
    white, *primaries = _pairs(info.get("chromaticity") or ())
    # The standard writes sRGB's own curve as an exponent of 1 / 2.2.
    curve = _SRGB_CURVE if 0.45 < gamma < 0.46 else 1 / gamma
    if curve and not 0.1 <= curve <= 10:
        return b"?"
    try:
        return _make_profile(tuple(primaries), white, curve)
    except (ArithmeticError, ValueError):
        return b"?"


def _pairs(numbers: tuple[float, ...]) -> list[_Point]:
    """Points of a cHRM chunk, white first; sRGB's where there are none."""
    if len(numbers) != 8:
        return [_D65, *_SRGB_PRIMARIES]
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def _profile_of_codes(primaries: int, curve: int) -> bytes | None:
    """The profile of two codes of H.273; None: they are of what is not done here."""
    if primaries not in _PRIMARIES or curve not in _CURVES:
        return None
    return _make_profile(_PRIMARIES[primaries], _D65, _CURVES[curve])


def _is_adobe_rgb(image: Image.Image) -> bool:
    """Whether EXIF alone says so, as cameras do that write no profile."""
    # The search is for speed: few have it.
    if b"R03\0" not in (image.info.get("exif") or b""):
        return False
    try:
        exif = image.getexif()
        return (
            exif.get_ifd(_EXIF_IFD).get(_COLOR_SPACE) in _UNCALIBRATED
            and str(exif.get_ifd(_INTEROP_IFD).get(1)).strip("\0 ") == "R03"
        )
    except Exception:
        return False


@functools.lru_cache(maxsize=16)
def _make_profile(primaries: tuple[_Point, ...], white: _Point, curve: float) -> bytes:
    """An ICC profile of a display.

    Args:
        primaries: x and y of red, green and blue.
        white: x and y of white.
        curve: exponent from numbers to light, or `_SRGB_CURVE`.

    Raises:
        ValueError, ArithmeticError: there is no such display.
    """
    columns = _adapted(np.array([_xyz(point) for point in primaries]).T, _xyz(white))
    # ICC's parametric curves: 0 is a power, 3 one with a straight start.
    shape = (
        (0, curve)
        if curve != _SRGB_CURVE
        else (3, 2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
    )
    light = struct.pack(">4sIHH", b"para", 0, int(shape[0]), 0) + _fixed(*shape[1:])
    tags = {
        b"desc": struct.pack(">4sIIIHHII", b"mluc", 0, 1, 12, 0x656E, 0x5553, 2, 28) + b"\0-\0\0",
        b"wtpt": b"XYZ \0\0\0\0" + _fixed(*_D50),
        **{
            name: b"XYZ \0\0\0\0" + _fixed(*column)
            for name, column in zip((b"rXYZ", b"gXYZ", b"bXYZ"), columns.T, strict=True)
        },
        **dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), light),
    }
    directory, content = struct.pack(">I", len(tags)), b""
    start = 128 + 4 + 12 * len(tags)
    for name, value in tags.items():
        directory += struct.pack(">4sII", name, start + len(content), len(value))
        content += value
    header = struct.pack(
        ">II I4s4s4s 12x 4s 28x 12s 48x",
        start + len(content),
        0,
        0x04200000,
        b"mntr",
        b"RGB ",
        b"XYZ ",
        b"acsp",
        _fixed(*_D50),
    )
    return header + directory + content


def _xyz(point: _Point) -> NDArray[np.float64]:
    """A color of brightness 1 by its x and y."""
    x, y = point
    return np.array([x / y, 1.0, (1 - x - y) / y])


def _adapted(
    primaries_33: NDArray[np.float64], white_3: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Primaries in columns, as bright as makes white of them, as the eye sees them under D50
    (Bradford)."""
    cones_33 = np.array(
        [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]]
    )
    try:
        lit_33 = primaries_33 * np.linalg.solve(primaries_33, white_3)
    except np.linalg.LinAlgError as exc:
        raise ValueError("primaries that lie on a line") from exc
    scale_3 = (cones_33 @ _D50) / (cones_33 @ white_3)
    return np.asarray(np.linalg.solve(cones_33, scale_3[:, None] * (cones_33 @ lit_33)))


def _fixed(*values: float) -> bytes:
    """Numbers as ICC's s15Fixed16.

    Raises:
        ValueError: one is out of range.
    """
    if not all(abs(value) < 2**15 for value in values):
        raise ValueError("a number that a profile cannot hold")
    return struct.pack(f">{len(values)}i", *(round(value * 2**16) for value in values))
