"""Color spaces for tests: profiles written byte by byte, and colors brought into them by arithmetic
of its own."""

from __future__ import annotations

import struct
from typing import Final

import numpy as np
from numpy.typing import NDArray

SPACES: Final = {
    "p3": ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060), (0.3127, 0.3290), 2.2),
    "adobe_rgb": ((0.64, 0.33), (0.21, 0.71), (0.15, 0.06), (0.3127, 0.3290), 2.199),
    "prophoto": ((0.7347, 0.2653), (0.1596, 0.8404), (0.0366, 0.0001), (0.3457, 0.3585), 1.8),
    "srgb": ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06), (0.3127, 0.3290), 0.0),
}
"""x and y of red, green, blue and white, and the exponent; 0: sRGB's curve."""
_D50: Final = np.array([0.9642, 1.0, 0.8249])
_CONES: Final = np.array(
    [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]]
)
_TABLE: Final = 1024


def profile(space: str) -> bytes:
    """An ICC profile, version 2, its curve a table."""
    curve = b"curv" + bytes(4) + struct.pack(">I", _TABLE)
    curve += (_light(np.linspace(0, 1, _TABLE), space) * 65535).round().astype(">u2").tobytes()
    tags = {b"wtpt": _point(_D50), **dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)}
    tags |= {
        name: _point(column)
        for name, column in zip((b"rXYZ", b"gXYZ", b"bXYZ"), matrix(space).T, strict=True)
    }
    return _assemble(b"RGB ", b"XYZ ", tags)


def gray_profile(exponent: float) -> bytes:
    """Of gray pixels."""
    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, round(exponent * 256)) + bytes(2)
    return _assemble(b"GRAY", b"XYZ ", {b"wtpt": _point(_D50), b"kTRC": curve})


def ink_profile() -> bytes:
    """Of CMYK pixels, as a table of two levels of each ink: cyan ink is green here, so that it is
    seen whether the profile is applied."""
    lut = (
        b"mft1"
        + bytes(4)
        + bytes([4, 3, 2, 0])
        + struct.pack(">9i", *(np.eye(3, dtype=int) * 65536).ravel())
    )
    lut += bytes(range(256)) * 4
    for number in range(16):
        cyan, magenta, yellow, black = (number >> bit & 1 for bit in (3, 2, 1, 0))
        light = 0 if black else 255 - 60 * (cyan + magenta + yellow)
        # L, a and b, of which 128 is neutral.
        lut += bytes([light, 128 - 60 * cyan + 60 * magenta, 128 + 60 * yellow])
    lut += bytes(range(256)) * 3
    return _assemble(b"CMYK", b"Lab ", {b"wtpt": _point(_D50), b"A2B0": lut}, b"prtr")


def matrix(space: str) -> NDArray[np.float64]:
    """Light of red, green and blue to XYZ under D50."""
    *primaries, white, _ = SPACES[space]
    columns = np.array([_xyz(*point) for point in primaries]).T
    lit = columns * np.linalg.solve(columns, _xyz(*white))
    scale = np.diag((_CONES @ _D50) / (_CONES @ _xyz(*white)))
    return np.asarray(np.linalg.inv(_CONES) @ scale @ _CONES @ lit)


def from_srgb(pixels: NDArray[np.uint8], space: str) -> NDArray[np.uint8]:
    """The numbers that show the colors of sRGB pixels in a space."""
    light = _light(pixels / 255, "srgb") @ matrix("srgb").T @ np.linalg.inv(matrix(space)).T
    exponent = SPACES[space][-1]
    light = light.clip(0, 1)
    curved = np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)
    numbers = light ** (1 / exponent) if exponent else curved
    return (numbers * 255).round().astype(np.uint8)


def _light(numbers: NDArray[np.float64], space: str) -> NDArray[np.float64]:
    if exponent := SPACES[space][-1]:
        return numbers**exponent
    return np.where(numbers <= 0.04045, numbers / 12.92, ((numbers + 0.055) / 1.055) ** 2.4)


def _xyz(x: float, y: float) -> NDArray[np.float64]:
    return np.array([x / y, 1.0, (1 - x - y) / y])


def _point(values: NDArray[np.float64]) -> bytes:
    return b"XYZ " + bytes(4) + struct.pack(">3i", *(round(value * 65536) for value in values))


def _assemble(
    space: bytes, connection: bytes, tags: dict[bytes, bytes], kind: bytes = b"mntr"
) -> bytes:
    tags = {b"desc": b"desc" + bytes(4) + struct.pack(">I", 5) + b"test\0" + bytes(78), **tags}
    tags[b"cprt"] = b"text" + bytes(4) + b"none\0"
    start, directory, content = 132 + 12 * len(tags), b"", b""
    for name, value in tags.items():
        directory += name + struct.pack(">II", start + len(content), len(value))
        content += value + bytes(-len(value) % 4)
    size = start + len(content)
    head = struct.pack(">I4xI", size, 0x02100000) + kind + space + connection + bytes(12) + b"acsp"
    head += bytes(28) + struct.pack(">3i", *(round(value * 65536) for value in _D50))
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + directory + content
