"""Broken files: what is broken beside the pixels never costs an image; lost pixels always do."""

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from boig_core.data.imaging.images import decode, normalize
from boig_core.data.rejects import Rejected
from tests.unit.data.color_spaces import profile

RNG = np.random.default_rng(0)
BLOBS = Image.fromarray(RNG.integers(0, 255, (10, 14, 3), np.uint8))
PICTURE = BLOBS.resize((224, 160), Image.Resampling.BICUBIC)


def encoded(image: Image.Image = PICTURE, form: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=form, **options)
    return buffer.getvalue()


def chunk(kind: bytes, content: bytes, wrong: bool = False) -> bytes:
    check = zlib.crc32(kind + content) ^ wrong
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)


def png(*more: bytes, **options: Any) -> bytes:
    """A PNG with more chunks, behind its header."""
    whole = encoded(**options)
    return whole[:33] + b"".join(more) + whole[33:]


TEXT = zlib.compress(b" " * (2**22 + 1))


@pytest.mark.parametrize(
    "more",
    [
        [chunk(b"zTXt", b"Comment\0\0" + TEXT)],
        [chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + TEXT)],
        [chunk(b"zTXt", b"C%d\0\0" % i + zlib.compress(b" " * 2**22)) for i in range(17)],
        [chunk(b"tEXt", b"Raw profile type exif\0\nexif\n   8\nnothex!!\n")],
        [chunk(b"zTXt", b"Comment\0\7xx")],
        *([chunk(kind, b"a\0\0\0", wrong=True)] for kind in (b"tEXt", b"zTXt", b"pHYs", b"tIME")),
        *(
            [chunk(kind, b"\1", wrong=True)]
            for kind in (b"gAMA", b"iCCP", b"tRNS", b"cICP", b"eXIf")
        ),
        *(
            [chunk(kind, b"")]
            for kind in (b"gAMA", b"cHRM", b"pHYs", b"sRGB", b"eXIf", b"tEXt", b"iCCP")
        ),
        [chunk(b"iCCP", b"name\0\0" + TEXT)],
        [chunk(b"iCCP", b"name\0\5xxxx")],
        [chunk(b"iCCP", b"name\0\0xxxx")],
        [chunk(b"pHYs", bytes(9)), chunk(b"pHYs", bytes(2))],
        [chunk(b"acTL", b"")],
    ],
)
def test_no_chunk_beside_the_pixels_costs_a_png(more: list[bytes]) -> None:
    assert np.array_equal(decode(normalize(png(*more), 50_000).data), np.asarray(PICTURE))


def test_a_broken_text_makes_no_still_of_what_moves() -> None:
    moving: dict[str, Any] = {"save_all": True, "append_images": [PICTURE.rotate(180)]}
    with pytest.raises(Rejected, match="animated"):
        normalize(png(chunk(b"tEXt", b"a", wrong=True), **moving), 50_000)


def test_a_mended_png_keeps_its_colors_and_its_orientation() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    options: dict[str, Any] = {"exif": exif, "icc_profile": profile("prophoto")}
    broken = png(chunk(b"zTXt", b"Comment\0\0" + TEXT), **options)
    assert normalize(broken, 50_000) == normalize(encoded(**options), 50_000)


@pytest.mark.parametrize("cut", [1, 8, 12, 13, 16])
def test_a_png_without_its_end_is_whole(cut: int) -> None:
    assert np.array_equal(decode(normalize(encoded()[:-cut], 50_000).data), np.asarray(PICTURE))


def test_a_wrong_sum_of_pixels_is_a_reject() -> None:
    whole = bytearray(encoded())
    whole[whole.index(b"IDAT") + 40] ^= 1
    with pytest.raises(Rejected, match="broken"):
        normalize(bytes(whole), 50_000)


def segment(marker: int, content: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content


@pytest.mark.parametrize(
    "content",
    [
        *(
            (0xE1, b"Exif\0\0" + tail)
            for tail in (b"", b"II", b"II*\0\xff\xff\xff\xff", b"http://n")
        ),
        (0xE1, b"Exif\0\0Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0"),
        (0xE1, b"http://ns.adobe.com/xap/1.0/\0<x tiff:Orientation="),
        (0xE1, b"http://ns.adobe.com/xap/1.0/\0" + b"\xff\xfe\0" * 9),
        *((0xE0, b"JFIF\0" + tail) for tail in (b"", b"\1")),
        *(
            (0xE2, b"ICC_PROFILE\0" + tail)
            for tail in (b"", b"\1", b"\1\1", b"\1\2x", b"\0\0x", b"\7\1x")
        ),
        *((0xE2, b"MPF\0" + tail) for tail in (b"", b"II*\0", b"MM\0*\0\0\0\x08\0\1")),
        *((0xED, b"Photoshop 3.0\0" + tail) for tail in (b"", b"8BIM", b"8BIM\3\xed\0\0\0\0\0\1x")),
        *((0xEE, b"Adobe" + tail) for tail in (b"", b"\0", b"\0\x64\0\0\0\0")),
        (0xFE, b""),
        (0xE5, b"\xff\xd9" * 50),
    ],
)
def test_no_segment_beside_the_pixels_costs_a_jpeg(content: tuple[int, bytes]) -> None:
    whole = encoded(form="JPEG", quality=95)
    want = decode(whole).astype(int)
    for at in (2, whole.index(b"\xff\xdb")):
        stored = normalize(whole[:at] + segment(*content) + whole[at:], 50_000)
        assert np.abs(decode(stored.data) - want).mean() < 1


def test_a_mended_jpeg_keeps_its_colors_and_its_orientation() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    whole = encoded(form="JPEG", exif=exif, icc_profile=profile("prophoto"))
    broken = whole[:2] + segment(0xEE, b"Adobe") + whole[2:]
    assert normalize(broken, 50_000) == normalize(whole, 50_000)


JPEGS = {
    "plain": encoded(form="JPEG", quality=95),
    "progressive": encoded(form="JPEG", quality=95, progressive=True),
    "restarts": encoded(form="JPEG", quality=95, restart_marker_rows=1),
    "blocks": encoded(form="JPEG", quality=95, restart_marker_blocks=1),
    "gray": encoded(PICTURE.convert("L"), "JPEG", quality=95),
    "ink": encoded(PICTURE.convert("CMYK"), "JPEG", quality=95),
}


@pytest.mark.parametrize("tail", [b"", b"\xff", b"\0" * 3000])
@pytest.mark.parametrize("kind", JPEGS)
def test_a_jpeg_that_lacks_its_end_marker_alone_is_whole(kind: str, tail: bytes) -> None:
    whole = JPEGS[kind]
    assert normalize(whole[:-2] + tail, 50_000) == normalize(whole, 50_000)


@pytest.mark.parametrize("junk", [b"\0" * 900, b"junk", b"\r\n", b"\xff\xd8\xff\xe0junk"])
@pytest.mark.parametrize("kind", JPEGS)
def test_what_follows_a_jpeg_is_nothing_to_it(kind: str, junk: bytes) -> None:
    assert normalize(JPEGS[kind] + junk, 50_000) == normalize(JPEGS[kind], 50_000)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(JPEGS)), st.floats(0.1, 0.9), st.sampled_from([b"", b"\0" * 50_000]))
def test_a_jpeg_that_lacks_a_part_of_its_pixels_is_a_reject(
    kind: str, share: float, tail: bytes
) -> None:
    whole = JPEGS[kind]
    pixels = whole.index(b"\xff\xda") + 14
    with pytest.raises(Rejected) as caught:
        normalize(whole[: pixels + int(share * (len(whole) - pixels))] + tail, 50_000)
    assert caught.value.code == "image_unreadable"


def test_the_reject_says_how_much_is_missing() -> None:
    whole = JPEGS["plain"]
    with pytest.raises(Rejected, match=r"the image is cut off \([345]\d% is missing\)"):
        normalize(whole[: len(whole) * 6 // 10], 50_000)


def test_scans_that_are_missing_whole_are_missed() -> None:
    whole = JPEGS["progressive"]
    for scan in range(1, whole.count(b"\xff\xda")):
        at = -1
        for _ in range(scan + 1):
            at = whole.index(b"\xff\xda", at + 1)
        tables = whole.rfind(b"\xff\xc4", 0, at)  # of the scan that follows
        with pytest.raises(Rejected):
            normalize(whole[:tables], 50_000)


def test_a_jpeg_without_a_few_last_bytes_lacks_a_block() -> None:
    stored = normalize(JPEGS["plain"][:-8], 50_000)
    assert np.abs(decode(stored.data)[:-32].astype(int) - decode(JPEGS["plain"])[:-32]).max() == 0


@pytest.mark.parametrize(("form", "stored_as"), [("webp", "JPEG"), ("jpeg", "PNG")])
@pytest.mark.parametrize("turned", [False, True])
def test_a_side_too_long_for_a_format_makes_the_next_one(
    form: Any, stored_as: str, turned: bool
) -> None:
    side = {"webp": 16_384, "jpeg": 65_501}[form]
    wide = Image.new("RGB", (side, 2), (10, 200, 30))
    stored = normalize(
        encoded(wide.transpose(Image.Transpose.ROTATE_90) if turned else wide), 10**6, form
    )
    with Image.open(io.BytesIO(stored.data)) as image:
        assert (image.format, max(image.size)) == (stored_as, side)
        assert image.getpixel((0, 0))[1] > 190  # type: ignore[index]


def test_a_gif_of_the_longest_side_that_there_is_comes_in() -> None:
    wide = Image.new("P", (65_535, 1), 1)
    wide.putpalette([0, 0, 0, 10, 20, 30])
    assert normalize(encoded(wide, "GIF"), 10**6, "jpeg").width == 65_535
