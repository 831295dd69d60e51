"""Images for measuring the ingestion: as heavy to decode as photographs, and a different one for
every number.

A few hundred pictures are painted and encoded once; what makes image ``n`` its own is put together
when it is asked for, in microseconds, and changes its pixels, so that neither stripped metadata nor
encoding anew makes two of them equal:

* JPEG: each picture is encoded twice, with different grain and a restart marker after every row of
  blocks. Rows of blocks can then be taken from the one or the other, which the bits of ``n``
  decide.
* PNG: the last row of pixels stands in a stored block of its own, and its first pixel spells ``n``.
* WebP: the alpha plane is a chunk of its own; planes and pictures are combined. So the WebPs are
  partly transparent.

Leaves out: serving them (see `ingest_server`).
"""

from __future__ import annotations

import io
import re
import struct
import zlib
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Pixels = NDArray[np.uint8]

_WEBP_SLOTS: Final = (7,)
_PNG_SLOTS: Final = (11, 37)
_SLOTS: Final = 50
"""Of 50 images in a row 47 are JPEG, 2 PNG and 1 is a WebP."""
_SIDE: Final = 512
_SCENE: Final = 704
_ALPHA_BITS: Final = 7
_RESTART: Final = re.compile(rb"\xff[\xd0-\xd7]")


@dataclass(frozen=True)
class _Jpeg:
    """A picture in two grains: the common header, and for each row of blocks its two encodings."""

    header: bytes
    rows: tuple[tuple[bytes, bytes], ...]

    def join(self, bits: int) -> bytes:
        """The JPEG whose row ``i`` of blocks has the grain of bit ``i``."""
        return b"".join((self.header, *(pair[(bits >> i) & 1] for i, pair in enumerate(self.rows))))


@dataclass(frozen=True)
class _Png:
    """A picture without its last row: the file up to there, the checksum of its pixels so far, and
    the row."""

    start: bytes
    adler: int
    row: bytes

    def join(self, number: int) -> bytes:
        """The PNG whose last row begins with ``number``."""
        row = b"\0" + number.to_bytes(4, "big") + self.row[4:]
        # The final block, not compressed: its length, the complement of that, the bytes, and the
        # checksum that goes on from the rows above.
        stored = (
            b"\x01"
            + struct.pack("<HH", len(row), len(row) ^ 0xFFFF)
            + row
            + struct.pack(">I", zlib.adler32(row, self.adler))
        )
        return self.start + _chunk(b"IDAT", stored) + _chunk(b"IEND", b"")


class Pool:
    """The pictures, and image ``n`` made from them.

    Args:
        size: number of JPEG pictures; there are a quarter as many WebP and an eighth as many PNG
            ones.
    """

    def __init__(self, size: int) -> None:
        rng = np.random.default_rng(0)
        scenes = [_scene(rng) for _ in range(max(2, min(16, size // 8)))]
        self._jpegs = [
            # Half of them carry metadata, which an ingestion has to strip.
            _jpeg(_picture(rng, scenes), rng, quality=int(rng.integers(78, 91)), exif=i % 2 == 0)
            for i in range(size)
        ]
        self._pngs = [_png(_grain(_picture(rng, scenes), rng)) for _ in range(max(1, size // 8))]
        square = (_SIDE, _SIDE)
        self._webps = [
            _webp_chunk(_grain(_picture(rng, scenes, square), rng), b"VP8 ")
            for _ in range(max(1, size // 4))
        ]
        self._alphas = [
            _webp_chunk(_veil(bits), b"ALPH", method=0) for bits in range(2**_ALPHA_BITS)
        ]
        self.animated_gif, self.animated_webp = (
            _animated(scenes[0][:96, :96], form) for form in ("GIF", "WEBP")
        )

    def image(self, n: int) -> tuple[bytes, str]:
        """Image ``n``, which no other number has, and its media type."""
        block, slot = divmod(n, _SLOTS)
        if slot in _WEBP_SLOTS:
            return self._webp(block * len(_WEBP_SLOTS) + _WEBP_SLOTS.index(slot)), "image/webp"
        if slot in _PNG_SLOTS:
            # Pictures may come again, since the last row spells the whole number.
            return self._pngs[(n // _SLOTS) % len(self._pngs)].join(n), "image/png"
        return self.jpeg(n), "image/jpeg"

    def jpeg(self, n: int) -> bytes:
        """JPEG ``n``."""
        # Numbers that share a picture differ in the bits of its rows.
        bits, which = divmod(n, len(self._jpegs))
        return self._jpegs[which].join(bits)

    def _webp(self, k: int) -> bytes:
        veil, which = divmod(k, len(self._webps))
        if veil >= len(self._alphas):
            raise ValueError(
                f"there are only {len(self._webps) * len(self._alphas)} different WebPs; make the pool larger"
            )
        # Size of the chunk, the flag of an alpha plane, and both sides less one: so WebP wants it.
        extended = (
            b"VP8X" + struct.pack("<I", 10) + b"\x10\0\0\0" + 2 * (_SIDE - 1).to_bytes(3, "little")
        )
        body = b"WEBP" + extended + self._alphas[veil] + self._webps[which]
        return b"RIFF" + struct.pack("<I", len(body)) + body


def bomb(side: int) -> bytes:
    """A PNG that claims ``side`` x ``side`` pixels and holds next to none."""
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", header)
        + _chunk(b"IDAT", zlib.compress(bytes(4096)))
        + _chunk(b"IEND", b"")
    )


def _scene(rng: np.random.Generator) -> Pixels:
    """Clouds of the statistics of photographs (power falls with frequency), with edges of shapes on
    them."""
    frequency = np.hypot(np.fft.fftfreq(_SCENE)[:, None], np.fft.rfftfreq(_SCENE)[None, :])
    # The mean has frequency 0, which nothing can be divided by.
    frequency[0, 0] = 1.0
    planes = []
    for scale in (46.0, 14.0, 14.0):  # lightness varies more than color
        phases = np.exp(2j * np.pi * rng.random(frequency.shape))
        plane = np.fft.irfft2(phases / frequency**1.25, s=(_SCENE, _SCENE))
        planes.append(scale * plane / plane.std())
    light, blue, red = planes
    picture = Image.fromarray(
        np.stack([128 + light + red, 128 + light, 128 + light + blue], axis=-1)
        .clip(0, 255)
        .astype(np.uint8)
    )
    draw = ImageDraw.Draw(picture, "RGBA")
    for _ in range(24):
        x, y = (int(v) for v in rng.integers(-60, _SCENE, 2))
        w, h = (int(v) for v in rng.integers(20, 220, 2))
        red_, green, blue_, alpha = (
            int(v) for v in rng.integers((0, 0, 0, 90), (256, 256, 256, 220))
        )
        shape: Any = draw.ellipse if rng.random() < 0.5 else draw.rectangle
        shape((x, y, x + w, y + h), fill=(red_, green, blue_, alpha))
    return np.asarray(picture)


def _picture(
    rng: np.random.Generator, scenes: list[Pixels], size: tuple[int, int] | None = None
) -> Pixels:
    """A piece of a scene, around 512 x 512."""
    height, width = size or (int(rng.integers(448, 577)), int(rng.integers(448, 577)))
    scene = scenes[int(rng.integers(len(scenes)))]
    top, left = int(rng.integers(_SCENE - height + 1)), int(rng.integers(_SCENE - width + 1))
    piece = scene[top : top + height, left : left + width]
    return piece[:, ::-1] if rng.random() < 0.5 else piece


def _grain(picture: Pixels, rng: np.random.Generator, strength: float = 4.0) -> Pixels:
    """A picture with the noise of a sensor."""
    noise = rng.standard_normal(picture.shape, np.float32) * strength
    return (picture + noise).clip(0, 255).astype(np.uint8)


def _jpeg(picture: Pixels, rng: np.random.Generator, quality: int, exif: bool) -> _Jpeg:
    halves = []
    tags = Image.Exif()
    tags[0x010F], tags[0x0131], tags[0x013B] = "A camera", "A program", "A photographer"
    for _ in range(2):
        buffer = io.BytesIO()
        extra = {"exif": tags.tobytes()} if exif else {}
        Image.fromarray(_grain(picture, rng)).save(
            buffer, format="JPEG", quality=quality, restart_marker_rows=1, **extra
        )
        data = buffer.getvalue()
        # The scan begins after its header, whose length it names. Inside it a byte 0xFF has a 0
        # behind it unless it begins a marker, so the split hits markers alone.
        scan = data.index(b"\xff\xda")
        scan += 2 + int.from_bytes(data[scan + 2 : scan + 4], "big")
        halves.append((data[:scan], _RESTART.split(data[scan:-2])))
    (header, ones), (other, twos) = halves
    # Rows can be exchanged only between files of the same tables and the same number of rows.
    if header != other or len(ones) != len(twos):
        raise ValueError("the two grains of a JPEG must have the same header and rows")
    # Restart markers count from 0 to 7 and begin anew; the last row ends the image.
    ends = [bytes([0xFF, 0xD0 + i % 8]) for i in range(len(ones) - 1)] + [b"\xff\xd9"]
    return _Jpeg(
        header,
        tuple((item + end, two + end) for item, two, end in zip(ones, twos, ends, strict=True)),
    )


def _png(picture: Pixels) -> _Png:
    """Rows filtered as PNG encoders do (by the Paeth predictor), all but the last compressed."""
    height, width = picture.shape[:2]
    # Signed, since guesses and differences leave the range of a byte; at the end they wrap, as PNG
    # wants it.
    rows = picture.reshape(height, -1).astype(np.int16)
    left, up, corner = np.zeros_like(rows), np.zeros_like(rows), np.zeros_like(rows)
    left[:, 3:], up[1:], corner[1:, 3:] = rows[:, :-3], rows[:-1], rows[:-1, :-3]
    guess = left + up - corner
    to_left, to_up, to_corner = abs(guess - left), abs(guess - up), abs(guess - corner)
    nearest = np.where(
        (to_left <= to_up) & (to_left <= to_corner), left, np.where(to_up <= to_corner, up, corner)
    )
    # Each row begins with its filter: 4 is Paeth's.
    filtered = np.concatenate([np.full((height, 1), 4, np.int16), rows - nearest], axis=1).astype(
        np.uint8
    )
    upper = filtered[:-1].tobytes()
    packer = zlib.compressobj(6)
    # A full flush ends at a whole byte and leaves the stream open for the last row's block.
    packed = packer.compress(upper) + packer.flush(zlib.Z_FULL_FLUSH)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", packed)
    return _Png(start, zlib.adler32(upper), picture[-1].tobytes())


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _veil(bits: int) -> Pixels:
    """A white square, half transparent in one patch for each bit that is set."""
    veil = np.full((_SIDE, _SIDE, 4), 255, np.uint8)
    for bit in range(_ALPHA_BITS):
        if (
            bits >> bit & 1 or bit == 0
        ):  # the first patch marks every veil, so that each has an alpha plane
            veil[16 + 8 * (bits & 1) : 48, 16 + 48 * bit : 48 + 48 * bit, 3] = 128
    return veil


def _webp_chunk(picture: Pixels, kind: bytes, method: int = 4) -> bytes:
    """One chunk of a picture's WebP, header and padding included."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="WEBP", quality=82, method=method)
    data = buffer.getvalue()
    at = 12
    while at < len(data):
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        # Chunks are padded to an even size, which their length does not tell.
        end = at + 8 + size + size % 2
        if data[at : at + 4] == kind:
            return data[at:end]
        at = end
    raise ValueError(f"the WebP has no chunk {kind!r}")


def _animated(picture: Pixels, form: str) -> bytes:
    frames = [Image.fromarray(np.roll(picture, 8 * i, axis=1)) for i in range(4)]
    buffer = io.BytesIO()
    frames[0].save(buffer, format=form, save_all=True, append_images=frames[1:], duration=100)
    return buffer.getvalue()
