"""Files with faults that nobody has thought of: small valid ones whose bytes are turned, cut, moved
and exchanged, as often in the header as in all the rest.

A mutation is a function of the random numbers that it draws, so that a test which draws them by
hypothesis can shrink it, and a script repeat it. Leaves out: what must become of such a file.
"""

from __future__ import annotations

import io
import json
import random
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo

_HEADER: Final = 64
_EDGES: Final = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 2**63 - 1)
"""Numbers at which lengths and counts go wrong."""
_WORDS: Final = (
    b"\xff\xd9",
    b"\xff\xda",
    b"\xff\xe1\x00\x08Exif\x00\x00",
    b"IEND",
    b"acTL",
    b"VP8X",
    b"colrnclx\0\x0c\0\x04",
    b"\0\0\0\4cICP\x0c\x04\0\1",
    b"\xff\xe2\x00\x12ICC_PROFILE\0\1\1",
    b'"',
    b"\\ud800",
    b"\xed\xa0\x80",
    b"\x00",
    b"NaN",
    b"1e999",
    b"1" * 5000,
    b"-0",
    b"[" * 3000,
    b'{"a":' * 1500,
    b"null",
    b"true",
    b"\xef\xbb\xbf",
    b"\r\n",
    b",",
    b"=",
    b"://",
    b"..",
    b"%00",
    b"@",
    b"[::1]",
    b"9" * 400,
)
"""What parsers trip over."""


_ODD: Final[tuple[Any, ...]] = (
    *(None, True, "", " ", 0, -1, 1e308, 10**30, 0.5, "12", "1_000", "NaN", float("nan")),
    *(
        "\ud800",
        "\0",
        "\r\n",
        "\u202e",
        "x" * 9000,
        "0001-01-01T00:00:00+23:59",
        "9999-12-31",
        "=1+1",
    ),
    *(
        [],
        {},
        [[]],
        {"a": {}},
        ["a.png"] * 3,
        ["a.png", None],
        [1],
        ["../a.png", "/dev/zero", "b.png"],
    ),
    *("file:///dev/zero", "s3:///x", "data:,x", "//a.png", "a\\b.png", "%00", "C:a.png"),
)
"""Values that some column does not expect."""


def mutate(seed: bytes, others: Sequence[bytes], draw: random.Random) -> bytes:
    """A file with one to four faults.

    Args:
        seed: a valid file.
        others: files that pieces are taken from.
        draw: the source of chance.
    """
    data = bytearray(seed)
    for _ in range(draw.randint(1, 4)):
        draw.choice(_FAULTS)(data, others, draw)
    return bytes(data)


def _place(data: bytearray, draw: random.Random) -> int:
    """Somewhere in a file; half of the time in its header."""
    end = min(len(data), _HEADER) if draw.randint(0, 1) else len(data)
    return draw.randint(0, max(0, end - 1))


def _flip(data: bytearray, others: Sequence[bytes], draw: random.Random) -> None:
    if data:
        data[_place(data, draw)] ^= 1 << draw.randint(0, 7)


def _set(data: bytearray, others: Sequence[bytes], draw: random.Random) -> None:
    if data:
        data[_place(data, draw)] = draw.randint(0, 255)


def _number(data: bytearray, others: Sequence[bytes], draw: random.Random) -> None:
    size, at = draw.choice((1, 2, 4, 8)), _place(data, draw)
    value = draw.choice(_EDGES) % 2 ** (8 * size)
    data[at : at + size] = value.to_bytes(size, draw.choice(("big", "little")))


def _cut(data: bytearray, others: Sequence[bytes], draw: random.Random) -> None:
    del data[_place(data, draw) :]


def _drop(data: bytearray, others: Sequence[bytes], draw: random.Random) -> None:
    at = _place(data, draw)
    del data[at : at + draw.randint(1, 64)]


def _repeat(data: bytearray, others: Sequence[bytes], draw: random.Random) -> None:
    at = _place(data, draw)
    piece = data[at : at + draw.randint(1, 64)]
    data[at:at] = piece * draw.choice((1, 2, 100))


def _insert(data: bytearray, others: Sequence[bytes], draw: random.Random) -> None:
    at = _place(data, draw)
    data[at:at] = draw.choice(_WORDS)


def _splice(data: bytearray, others: Sequence[bytes], draw: random.Random) -> None:
    other = draw.choice(others)
    data[_place(data, draw) :] = other[draw.randint(0, len(other)) :]


_FAULTS: Final[tuple[Callable[[bytearray, Sequence[bytes], random.Random], None], ...]] = (
    _flip,
    _set,
    _number,
    _cut,
    _drop,
    _repeat,
    _insert,
    _splice,
)


def image_seeds() -> list[bytes]:
    """Small images of each format that is read, in the ways in which they are written, and a TIFF,
    which is not read."""
    import pillow_heif

    pillow_heif.register_heif_opener()
    rng = np.random.default_rng(0)
    blobs = Image.fromarray(rng.integers(0, 256, (4, 6, 3), np.uint8))
    picture = blobs.resize((48, 32), Image.Resampling.BICUBIC)
    clear = picture.convert("RGBA")
    clear.putalpha(picture.convert("L"))
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a picture"
    exif.get_ifd(0x8825)[2] = (52.0, 31.0, 12.0)
    texts = PngInfo()
    texts.add_text("Author", "a name")
    texts.add_itxt("XML:com.adobe.xmp", "<x:xmpmeta/>", zip=True)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    # Red and green change places: one that has to be applied.
    other = profile.replace(b"rXYZ", b"_XYZ").replace(b"gXYZ", b"rXYZ").replace(b"_XYZ", b"gXYZ")
    moving: dict[str, Any] = {"save_all": True, "append_images": [picture.rotate(180)]}
    written: list[tuple[Image.Image, str, dict[str, Any]]] = [
        (picture, "JPEG", {}),
        (picture, "JPEG", {"progressive": True, "exif": exif, "comment": b"by a name"}),
        (picture, "JPEG", {"restart_marker_rows": 1, "icc_profile": profile}),
        (picture.convert("CMYK"), "JPEG", {}),
        (picture.convert("L"), "JPEG", {"exif": exif}),
        (picture, "MPO", moving),
        (picture, "PNG", {}),
        (picture, "PNG", {"exif": exif, "pnginfo": texts, "icc_profile": profile}),
        (picture.quantize(16), "PNG", {"transparency": 3}),
        (Image.fromarray(rng.integers(0, 65536, (8, 8), np.uint16)), "PNG", {}),
        (clear, "PNG", {}),
        (picture.convert("1"), "PNG", {}),
        (picture, "PNG", moving),
        (picture, "GIF", {"comment": b"by a name"}),
        (picture, "GIF", moving),
        (picture, "WEBP", {"exif": exif, "xmp": b"<x:xmpmeta/>"}),
        (picture, "WEBP", {"lossless": True, "icc_profile": profile}),
        (clear, "WEBP", {}),
        (picture, "WEBP", moving),
        (picture, "BMP", {}),
        (picture.quantize(16), "BMP", {}),
        (picture, "TIFF", {}),
        (picture, "JPEG", {"icc_profile": other, "exif": exif}),
        (picture, "PNG", {"icc_profile": other}),
        (clear, "WEBP", {"icc_profile": other}),
        (picture, "AVIF", {"exif": exif.tobytes()}),
        (clear, "AVIF", {"icc_profile": other}),
        (picture, "AVIF", moving),
        (picture, "HEIF", {"exif": exif.tobytes()}),
        (clear, "HEIF", {"icc_profile": other}),
        (picture, "HEIF", moving),
    ]
    return [_encoded(image, form, options) for image, form, options in written]


def _encoded(image: Image.Image, form: str, options: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=form, **options)
    return buffer.getvalue()


def row_seeds() -> list[bytes]:
    """Lines of an export: rows as they come, one of odd values, and a page of the X API; the post's
    id is ``p1`` in each."""
    row: dict[str, Any] = {
        "id": "p1",
        "account": "brand",
        "company": "Brand",
        "timestamp": "2021-03-04T05:06:07Z",
        "text": "A text that is long enough to count, with a link https://x.example/y and a #tag",
        "images": ["a.png", "https://host.example/b.jpg?x=1"],
        "likes": 120,
    }
    page = {
        "data": [
            {
                "id": "p1",
                "author_id": "7",
                "created_at": "2021-03-04T05:06:07.000Z",
                "text": row["text"],
                "attachments": {"media_keys": ["3_1"]},
                "public_metrics": {"like_count": 5, "retweet_count": 1},
            }
        ],
        "includes": {
            "users": [{"id": "7", "username": "brand", "name": "Brand"}],
            "media": [{"media_key": "3_1", "type": "photo", "url": "https://host.example/c.jpg"}],
        },
        "meta": {"result_count": 1},
    }
    odd = row | {"image": "b.png", "images": None, "likes": "12", "keywords": "a, b;c"}
    nested = row | {"licence": {"name": ["x"]}, "timestamp": 1614834367}
    return [json.dumps(item).encode() for item in (row, odd, nested, page)]


def odd_rows() -> list[bytes]:
    """Rows that are valid JSON, and have one odd value."""
    row = json.loads(row_seeds()[0])
    return [json.dumps(row | {name: value}).encode() for name in row for value in _ODD] + [
        json.dumps({name: row[name] for name in row if name != missing}).encode() for missing in row
    ]
