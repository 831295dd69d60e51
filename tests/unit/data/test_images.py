"""Images: what is kept, what is made uniform, what is refused."""

import hashlib
import io
import struct
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageFile, ImageOps
from PIL.PngImagePlugin import PngInfo

from boig_core.config import ImageFormat
from boig_core.data.imaging.decoding import load
from boig_core.data.imaging.images import decode, normalize, resize
from boig_core.data.rejects import Rejected
from boig_core.errors import InputError

RNG = np.random.default_rng(0)
PICTURE = Image.fromarray(RNG.integers(0, 255, (12, 20, 3), np.uint8))


def encoded(image: Image.Image = PICTURE, form: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=form, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
def test_a_plain_image_keeps_its_bytes(form: str) -> None:
    data = encoded(form=form)
    stored = normalize(data, 1000)
    assert (stored.data, stored.sha256) == (data, hashlib.sha256(data).hexdigest())
    assert (stored.width, stored.height) == (20, 12)


def test_metadata_goes_and_pixels_stay() -> None:
    exif = Image.Exif()
    exif[0x9286] = "taken at home"  # user comment
    exif.get_ifd(0x8825)[2] = (52.0, 31.0, 12.0)  # latitude
    texts = PngInfo()
    texts.add_text("Author", "a name")
    texts.add_itxt("XML:com.adobe.xmp", "<x:xmpmeta/>")
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    photograph = encoded(
        form="JPEG", exif=exif, comment=b"by a name", icc_profile=profile, progressive=True
    )
    drawing = encoded(exif=exif, pnginfo=texts, icc_profile=profile)
    post = encoded(
        form="WEBP", exif=exif, xmp=b"<x:xmpmeta>a name</x:xmpmeta>", icc_profile=profile
    )
    for data in (
        item + tail for item in (photograph, drawing, post) for tail in (b"", b"appended")
    ):
        stored = normalize(data, 1000)
        with Image.open(io.BytesIO(stored.data)) as bare, Image.open(io.BytesIO(data)) as full:
            assert not bare.getexif()
            assert bare.info["icc_profile"] == profile
            assert not {"comment", "Author", "XML:com.adobe.xmp", "xmp"} & bare.info.keys()
            assert np.array_equal(np.asarray(bare), np.asarray(full))
        assert b"a name" not in stored.data
        assert b"appended" not in stored.data
        assert normalize(stored.data, 1000) == stored


SECRET = b"taken at home by a name"


def segment(marker: int, content: bytes) -> bytes:
    return bytes([0xFF, marker]) + (len(content) + 2).to_bytes(2, "big") + content


@pytest.mark.parametrize("name", [b"", b"JFIF\0", b"JFXX\0", b"Exif\0\0", b"MPF\0", b"Adobe"])
@pytest.mark.parametrize("marker", [*range(0xE0, 0xF0), 0xFE, 0xF0, 0xFD, 0xDE, 0xBF])
def test_no_segment_of_a_jpeg_carries_more_than_its_picture(marker: int, name: bytes) -> None:
    whole = encoded(form="JPEG", quality=100)
    more = segment(marker, name + bytes(20) + SECRET)
    for at in (2, whole.index(b"\xff\xdb"), whole.index(b"\xff\xda")):
        with suppress(Rejected):  # Pillow does not open a JPEG of every such segment
            assert SECRET not in normalize(whole[:at] + more + whole[at:], 1000).data


def test_a_thumbnail_in_jfif_goes_and_its_densities_stay() -> None:
    whole = encoded(form="JPEG", dpi=(72, 72))
    jfif = whole[: whole.index(b"\xff\xdb")]
    thumbnail = segment(0xE0, jfif[6:18] + b"\x03\x03" + SECRET.ljust(27, b" "))
    assert normalize(whole[:2] + thumbnail + whole[len(jfif) :], 1000).data == whole


def test_filling_between_segments_hides_nothing() -> None:
    """A reader that takes filling for a marker passes over just this one, and keeps it."""
    whole = encoded(form="JPEG", quality=100)
    hidden = b"\xff" + segment(0xE1, SECRET.ljust(0xE1E0 - 2))
    assert SECRET not in normalize(whole[:2] + hidden + whole[2:], 1000).data


def chunk(kind: bytes, content: bytes) -> bytes:
    check = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)


@pytest.mark.parametrize(
    "kind", [b"tEXt", b"iTXt", b"eXIf", b"tIME", b"caBX", b"prVt", b"MiNe", b"PRvt", b"JDAT"]
)
def test_no_chunk_of_a_png_carries_more_than_its_picture(kind: bytes) -> None:
    whole = encoded()
    with suppress(Rejected):
        assert SECRET not in normalize(whole[:33] + chunk(kind, SECRET) + whole[33:], 1000).data


@pytest.mark.parametrize("kind", [b"EXIF", b"XMP ", b"META", b"ANIM", b"C2PA"])
def test_no_chunk_of_a_webp_carries_more_than_its_picture(kind: bytes) -> None:
    extended = encoded(form="WEBP", xmp=b"<x/>")
    more = kind + len(SECRET).to_bytes(4, "little") + SECRET + bytes(len(SECRET) % 2)
    for at in (30, len(extended)):
        body = extended[8:at] + more + extended[at:]
        data = b"RIFF" + len(body).to_bytes(4, "little") + body
        with suppress(Rejected):
            assert SECRET not in normalize(data, 1000).data


@pytest.mark.parametrize("image_format", ["original", "jpeg", "png", "webp"])
@pytest.mark.parametrize("form", ["JPEG", "GIF", "PNG", "WEBP"])
def test_an_image_that_is_encoded_anew_carries_its_picture_alone(
    form: str, image_format: ImageFormat
) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x9286] = 6, SECRET.decode()
    texts = PngInfo()
    texts.add_text("Comment", SECRET.decode())
    options: dict[str, Any] = {
        "JPEG": {"exif": exif, "comment": SECRET, "quality": 100},
        "GIF": {"comment": SECRET},
        "PNG": {"exif": exif, "pnginfo": texts},
        "WEBP": {"exif": exif, "xmp": SECRET},
    }[form]
    assert SECRET not in normalize(encoded(form=form, **options), 1000, image_format).data


def test_a_profile_of_other_colors_does_not_stay() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    gray = encoded(PICTURE.convert("L"), icc_profile=profile)
    assert b"iCCP" not in normalize(gray, 1000).data


def test_a_jpeg_of_very_many_scans_is_refused_before_it_is_decoded() -> None:
    whole = encoded(LARGE, "JPEG", progressive=True)
    at, end = whole.rindex(b"\xff\xda"), len(whole) - 2
    scans = whole.count(b"\xff\xda")
    assert normalize(whole[:end] + whole[at:end] * (100 - scans) + whole[end:], 30_000).width == 160
    with pytest.raises(Rejected, match="more than 100 scans"):
        normalize(whole[:end] + whole[at:end] * (101 - scans) + whole[end:], 30_000)


def test_transparency_shows_white() -> None:
    clear = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    assert (decode(normalize(encoded(clear), 1000).data) == 255).all()
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    assert (decode(normalize(encoded(palette), 1000).data) == (10, 20, 30)).all()
    assert (decode(normalize(encoded(palette, transparency=1), 1000).data) == 255).all()
    named = encoded(Image.new("RGB", (4, 4), (10, 20, 30)), transparency=(10, 20, 30))
    assert (decode(normalize(named, 1000).data) == 255).all()


def test_gray_in_16_bits_keeps_its_brightness() -> None:
    gray = Image.fromarray(np.full((4, 4), 0x8000, np.uint16))
    assert abs(int(decode(normalize(encoded(gray), 1000).data)[0, 0, 0]) - 127) <= 1


def test_print_colors_become_rgb() -> None:
    data = encoded(PICTURE.convert("CMYK"), "JPEG", quality=95)
    stored = normalize(data, 1000)
    with Image.open(io.BytesIO(stored.data)) as kept:
        assert (kept.format, kept.mode) == ("JPEG", "RGB")
    assert np.abs(decode(stored.data).astype(int) - np.asarray(PICTURE)).mean() < 12


def test_an_image_is_turned_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = normalize(encoded(form="JPEG", exif=exif, quality=100), 1000)
    assert (stored.width, stored.height) == (12, 20)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_undone_as_pillow_does_it(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(form="PNG", exif=exif)
    stored = decode(normalize(data, 1000).data)
    with Image.open(io.BytesIO(data)) as image:
        assert np.array_equal(stored, np.asarray(ImageOps.exif_transpose(image).convert("RGB")))


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_there_is_none_of_turns_nothing(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = normalize(encoded(form="JPEG", exif=exif, quality=100), 1000)
    assert (stored.width, stored.height) == PICTURE.size


@pytest.mark.parametrize(
    "error", [struct.error("odd"), KeyError("x"), IndexError("y"), TypeError("z")]
)
def test_whatever_a_decoder_raises_is_that_images_reject(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(self: object) -> None:
        raise error

    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    with pytest.raises(Rejected, match=type(error).__name__) as caught:
        normalize(encoded(form="GIF"), 1000)
    assert caught.value.code == "image_unreadable"


def test_metadata_that_cannot_be_read_turns_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def getexif(self: object) -> None:
        raise struct.error("unpack requires a buffer of 12 bytes")

    monkeypatch.setattr(Image.Image, "getexif", getexif)
    assert normalize(encoded(form="JPEG", quality=100), 1000).width == PICTURE.width


def test_a_machine_short_of_memory_is_no_fault_of_an_image(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def load(self: object) -> None:
        raise MemoryError

    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    with pytest.raises(MemoryError):
        normalize(encoded(form="GIF"), 1000)


@pytest.mark.parametrize("frames", [1, 2])
def test_a_gif_that_is_cut_anywhere_is_a_reject(frames: int) -> None:
    more = [PICTURE.rotate(90)] * (frames - 1)
    whole = encoded(form="GIF", save_all=True, append_images=more, duration=100)
    for cut in range(8, len(whole) - 8, 7):
        with suppress(Rejected):
            stored = normalize(whole[:-cut], 1000)
            assert decode(stored.data).shape == (stored.height, stored.width, 3)
    with pytest.raises(Rejected) as caught:
        normalize(whole[: len(whole) // 3], 1000)
    assert caught.value.code == "image_unreadable"


@pytest.mark.parametrize("form", ["GIF", "BMP"])
def test_other_formats_are_stored_as_png(form: str) -> None:
    assert normalize(encoded(form=form), 1000).data.startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "image_unreadable"),
        (b"<html>not found</html>", "image_unreadable"),
        (encoded()[:200], "image_unreadable"),
        (encoded(form="JPEG")[:-300], "image_unreadable"),
        (encoded(form="TIFF"), "image_unreadable"),
        (encoded(Image.new("RGB", (40, 40))), "image_too_large"),
        *(
            (
                encoded(form=form, save_all=True, append_images=[PICTURE.rotate(180)]),
                "image_animated",
            )
            for form in ("GIF", "PNG", "WEBP")
        ),
    ],
)
def test_broken_and_large_images_are_rejected(data: bytes, code: str) -> None:
    with pytest.raises(Rejected) as caught:
        normalize(data, 1000)
    assert caught.value.code == code


@pytest.mark.parametrize(
    "text",
    [
        b"\xef\xbb\xbf <svg xmlns='x'/>",
        b"<?xml version='1.0'?><svg/>",
        b"<!DOCTYPE html><p>gone</p>",
    ],
)
def test_text_that_poses_as_an_image_is_named(text: bytes) -> None:
    with pytest.raises(Rejected, match="SVG, HTML or XML text"):
        normalize(text, 1000)


def test_a_photograph_of_two_pictures_is_its_first() -> None:
    """Phones store a preview beside the photograph: JPEG's multi-picture format, which moves
    nothing."""
    stored = normalize(
        encoded(form="MPO", save_all=True, append_images=[PICTURE.rotate(180)], quality=100), 1000
    )
    off = [
        np.abs(decode(stored.data).astype(int) - np.asarray(item)).mean()
        for item in (PICTURE, PICTURE.rotate(180))
    ]
    assert off[0] < off[1] / 1.5


LARGE = PICTURE.resize((160, 150), Image.Resampling.BICUBIC)
WHOLE = [encoded(form=form) for form in ("PNG", "JPEG", "WEBP", "GIF", "BMP")]
WHOLE += [
    encoded(LARGE, "JPEG"),
    encoded(LARGE, "JPEG", progressive=True),
    encoded(LARGE, "JPEG", restart_marker_rows=1),
    encoded(LARGE, "WEBP"),
]


@settings(max_examples=300)
@given(
    st.sampled_from(WHOLE),
    st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=12),
    st.integers(0, 400),
)
def test_bytes_that_were_tampered_with_give_an_image_or_a_reject(
    data: bytes, flips: list[tuple[int, int]], cut: int
) -> None:
    torn = bytearray(data[: max(1, len(data) - cut)])
    for at, value in flips:
        torn[at % len(torn)] = value
    with suppress(Rejected):
        stored = normalize(bytes(torn), 30_000)
        assert decode(stored.data).shape == (stored.height, stored.width, 3)


def test_resize_averages_areas_and_keeps_the_whole_image() -> None:
    wide = np.zeros((4, 8, 3), np.uint8)
    wide[:, 4:] = 200
    assert resize(wide, 2).tolist() == [[[0] * 3, [200] * 3]] * 2
    assert resize(wide, 16).shape == (16, 16, 3)
    same = np.asarray(PICTURE.resize((8, 8)))
    assert np.array_equal(resize(same, 8), same)


def test_load_says_what_is_wrong_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no image")
    for path in (tmp_path / "a.png", tmp_path / "none.png", tmp_path):
        with pytest.raises(InputError) as caught:
            load(path)
        assert "\n" not in str(caught.value)
