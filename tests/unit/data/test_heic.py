"""HEIC and AVIF: what phones and browsers write."""

import io
import struct
import sys
from typing import Any

import numpy as np
import pillow_heif
import pytest
from PIL import Image

from boig_core.data.imaging import heic
from boig_core.data.imaging.images import decode, normalize
from boig_core.data.rejects import Rejected
from tests.unit.data.color_spaces import from_srgb, profile

pillow_heif.register_heif_opener()
QUARTERS = np.array([[(200, 60, 60), (60, 160, 60)], [(60, 80, 180), (230, 230, 230)]], np.uint8)
PIXELS = QUARTERS.repeat(32, axis=0).repeat(48, axis=1)
PICTURE = Image.fromarray(PIXELS)
BEST: dict[str, dict[str, Any]] = {
    "HEIF": {"quality": 95, "chroma": 444},
    "AVIF": {"quality": 95, "subsampling": "4:4:4"},
}
FORMS = pytest.mark.parametrize("form", BEST)


def encoded(form: str, image: Image.Image = PICTURE, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=form, **BEST[form], **options)
    return buffer.getvalue()


def off(data: bytes, want: Any = PIXELS) -> float:
    """Levels by which a stored picture differs from another, on average."""
    pixels = decode(normalize(data, 10_000).data)
    assert pixels.shape == np.asarray(want).shape
    return float(np.abs(pixels.astype(int) - np.asarray(want)).mean())


@FORMS
def test_they_are_stored_as_fine_jpegs(form: str) -> None:
    stored = normalize(encoded(form), 10_000)
    with Image.open(io.BytesIO(stored.data)) as image:
        assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (96, 64))
    assert off(encoded(form)) < 4
    assert normalize(encoded(form), 10_000, "png").data.startswith(b"\x89PNG")


@FORMS
@pytest.mark.parametrize("orientation", range(1, 9))
def test_they_are_turned_once(form: str, orientation: int) -> None:
    """A writer turns EXIF's orientation into boxes, and may leave it in EXIF as well."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = decode(normalize(png(exif), 10_000).data)
    assert off(encoded(form, exif=exif.tobytes()), turned) < 4


def png(exif: Image.Exif) -> bytes:
    buffer = io.BytesIO()
    PICTURE.save(buffer, "PNG", exif=exif)
    return buffer.getvalue()


def test_an_orientation_that_stands_in_the_exif_of_a_heic_alone_turns_nothing() -> None:
    """Its boxes decide, and readers apply them."""
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded("HEIF", exif=exif.tobytes())
    assert normalize(data, 10_000).width == 64
    still = data.replace(b"irot", b"free").replace(b"imir", b"free")
    assert normalize(still, 10_000).width == 96


def test_of_several_images_the_primary_counts() -> None:
    other = Image.new("RGB", (32, 32), "black")
    options: dict[str, Any] = {"save_all": True, "append_images": [other]}
    for primary, want in ((0, PIXELS), (1, np.zeros((32, 32, 3)))):
        assert off(encoded("HEIF", primary_index=primary, **options), want) < 4


@pytest.mark.parametrize("brand", [b"hevc", b"hevx", b"msf1"])
def test_a_sequence_is_animated(brand: bytes) -> None:
    data = encoded("HEIF")
    with pytest.raises(Rejected, match="animated HEIC") as caught:
        normalize(data[:8] + brand + data[12:], 10_000)
    assert caught.value.code == "image_animated"


def test_an_avif_that_moves_is_animated() -> None:
    moving = encoded("AVIF", save_all=True, append_images=[PICTURE.rotate(180)])
    with pytest.raises(Rejected, match="animated AVIF"):
        normalize(moving, 10_000)
    assert off(encoded("AVIF", save_all=True)) < 4


@FORMS
def test_what_is_transparent_shows_white(form: str) -> None:
    clear = PICTURE.convert("RGBA")
    alpha = np.full((64, 96), 255, np.uint8)
    alpha[:32] = 0
    clear.putalpha(Image.fromarray(alpha))
    assert off(encoded(form, clear), np.where(alpha[..., None], PIXELS, 255)) < 4


@FORMS
def test_the_profile_of_a_phone_is_applied(form: str) -> None:
    wide = Image.fromarray(from_srgb(PIXELS, "p3"))
    assert off(encoded(form, wide, icc_profile=profile("p3"))) < 4
    assert off(encoded(form, wide)) > 6


def test_codes_of_a_heic_are_applied() -> None:
    wide = Image.fromarray(from_srgb(PIXELS, "p3"))
    data = encoded("HEIF", wide, color_primaries=12, transfer_characteristics=4)
    assert off(data) < 4
    # Brightness beyond white is not mapped: it counts as sRGB, and costs no image.
    assert off(encoded("HEIF", color_primaries=9, transfer_characteristics=16)) < 4


@pytest.mark.parametrize("mode", ["L", "I;16"])
def test_gray_and_ten_bits(mode: str) -> None:
    gray = np.asarray(PICTURE.convert("L"))
    image = Image.fromarray(gray if mode == "L" else gray.astype(np.uint16) * 257)
    buffer = io.BytesIO()
    image.save(buffer, format="HEIF", quality=95)
    want = gray[..., None].repeat(3, axis=2)
    assert off(buffer.getvalue(), want) < 4


def test_ten_bits_in_color() -> None:
    deep = (PIXELS.astype(np.uint16) * 257).astype("<u2")
    file = pillow_heif.from_bytes("RGB;16", (96, 64), deep.tobytes())
    buffer = io.BytesIO()
    file.save(buffer, quality=95, chroma=444)
    assert off(buffer.getvalue()) < 4


@FORMS
@pytest.mark.parametrize("cut", [3, 0.2, 0.5, 0.9])
def test_a_part_of_a_file_is_a_reject(form: str, cut: float) -> None:
    whole = encoded(form)
    with pytest.raises(Rejected) as caught:
        normalize(whole[: int(cut * len(whole)) if cut < 1 else -int(cut)], 10_000)
    assert caught.value.code == "image_unreadable"


@FORMS
def test_too_many_pixels_are_refused_before_they_are_decoded(form: str) -> None:
    with pytest.raises(Rejected) as caught:
        normalize(encoded(form), 1000)
    assert caught.value.code == "image_too_large"


def test_sides_that_the_head_understates_are_refused() -> None:
    data = encoded("HEIF")
    small = data.replace(
        b"ispe" + bytes(4) + struct.pack(">II", 96, 64),
        b"ispe" + bytes(4) + struct.pack(">II", 8, 8),
    )
    with pytest.raises(Rejected):
        normalize(small, 100)


def test_without_its_library_a_heic_is_a_reject_that_names_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = encoded("HEIF")
    heic._ready_heic.cache_clear()
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(Rejected, match="pillow-heif") as caught:
        normalize(data, 10_000)
    assert caught.value.code == "image_unreadable"


def test_a_container_of_another_brand_is_no_image() -> None:
    for brand in (b"isom", b"mp42", b"qt  ", b"jp2 "):
        with pytest.raises(Rejected, match="AVIF or HEIC"):
            normalize(b"\0\0\0\x18ftyp" + brand + bytes(4) + brand * 2 + bytes(90), 10_000)
