"""Colors: whatever a file says its numbers mean, what is stored shows the same colors as sRGB."""

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from boig_core.data.imaging.color_profiles import LARGEST_PROFILE
from boig_core.data.imaging.images import decode, normalize
from tests.unit.data.color_spaces import (
    SPACES,
    from_srgb,
    gray_profile,
    ink_profile,
    matrix,
    profile,
)

# Colors well within every space here: near an edge a level more is many levels in another space.
COLORS = np.array(
    [
        [(70, 165, 110), (200, 140, 60), (190, 75, 130)],
        [(250, 250, 250), (90, 90, 90), (60, 80, 160)],
    ],
    np.uint8,
)
PICTURE = COLORS.repeat(16, axis=0).repeat(16, axis=1)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
WIDE = [space for space in SPACES if space != "srgb"]


def encoded(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=form, **options)
    return buffer.getvalue()


def in_space(space: str, form: str = "PNG", mode: str = "RGB", **options: Any) -> bytes:
    image = Image.fromarray(from_srgb(PICTURE, space)).convert(mode)
    return encoded(image, form, icc_profile=profile(space), **options)


def off(data: bytes, want: Any = PICTURE) -> int:
    """Levels by which what is stored of a file differs most from what it shows."""
    stored = normalize(data, 10_000)
    assert normalize(stored.data, 10_000).data == stored.data
    with Image.open(io.BytesIO(stored.data)) as image:
        assert "icc_profile" not in image.info
    pixels = decode(stored.data)
    # Away from edges, where lossy formats ring.
    inner = (slice(4, None, 8), slice(4, None, 8))
    return int(np.abs(pixels[inner].astype(int) - np.asarray(want)[inner]).max())


LOSSY: dict[str, dict[str, Any]] = {
    "JPEG": {"quality": 100, "subsampling": 0},
    "WEBP": {"quality": 100},
    "AVIF": {"quality": 100},
}


@pytest.mark.parametrize("space", WIDE)
@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "AVIF"])
def test_a_profile_is_applied_before_it_is_dropped(space: str, form: str) -> None:
    assert off(in_space(space, form, **LOSSY.get(form, {}))) <= 8
    # As it is read without one, it shows other colors.
    assert np.abs(from_srgb(PICTURE, space).astype(int) - PICTURE).max() > 20


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_profile_counts_for_an_image_that_is_turned(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    plain = normalize(encoded(Image.fromarray(PICTURE), exif=exif), 10_000)
    assert off(in_space("prophoto", exif=exif), decode(plain.data)) <= 4


@pytest.mark.parametrize("image_format", ["png", "jpeg", "webp"])
def test_a_recipes_format_gets_the_colors_as_well(image_format: Any) -> None:
    stored = normalize(in_space("p3"), 10_000, image_format, 100)
    assert np.abs(decode(stored.data)[8::16, 8::16].astype(int) - COLORS).max() <= 8


def test_a_palette_and_transparency_have_the_colors_of_the_profile() -> None:
    image = Image.fromarray(from_srgb(PICTURE, "prophoto"))
    palette = image.quantize(16)
    clear = image.convert("RGBA")
    alpha = np.full(PICTURE.shape[:2], 255, np.uint8)
    alpha[:16] = 0
    clear.putalpha(Image.fromarray(alpha))
    want = np.where(alpha[..., None] == 255, PICTURE, 255)
    assert off(encoded(palette, icc_profile=profile("prophoto"))) <= 6
    assert off(encoded(clear, icc_profile=profile("prophoto")), want) <= 4
    assert off(encoded(clear, "WEBP", lossless=True, icc_profile=profile("prophoto")), want) <= 4


@pytest.mark.parametrize("mode", ["L", "LA", "1", "I;16"])
def test_a_gray_profile_is_applied(mode: str) -> None:
    gray = Image.fromarray(np.full((32, 32), 255 if mode == "1" else 128, np.uint8))
    image = (
        Image.fromarray(np.full((32, 32), 128 * 257, np.uint16))
        if mode == "I;16"
        else gray.convert(mode)
    )
    light = (1 if mode == "1" else 128 / 255) ** 1.0
    want = round((1.055 * light ** (1 / 2.4) - 0.055) * 255)
    assert off(encoded(image, icc_profile=gray_profile(1.0)), np.full((32, 32, 3), want)) <= 1


def test_gray_pixels_may_have_a_profile_of_three_colors() -> None:
    gray = np.full((32, 32), 128, np.uint8)
    light = (128 / 255) ** 1.8
    want = round((1.055 * light ** (1 / 2.4) - 0.055) * 255)
    data = encoded(Image.fromarray(gray), "JPEG", quality=100, icc_profile=profile("prophoto"))
    assert off(data, np.full((32, 32, 3), want)) <= 2


def test_ink_is_shown_as_its_profile_says() -> None:
    cyan = Image.new("CMYK", (32, 32), (255, 0, 0, 0))
    with_profile = decode(normalize(encoded(cyan, "JPEG", icc_profile=ink_profile()), 2000).data)
    red, green, blue = with_profile[16, 16]
    assert green > red + 40
    assert green > blue + 20
    without = decode(normalize(encoded(cyan, "JPEG"), 2000).data)[16, 16]
    assert abs(int(without[1]) - int(without[2])) < 10  # plain cyan
    paper = Image.new("CMYK", (32, 32))
    assert (
        decode(normalize(encoded(paper, "JPEG", icc_profile=ink_profile()), 2000).data) > 250
    ).all()


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("icc", [SRGB, profile("srgb")])
def test_a_profile_that_is_srgb_by_any_name_changes_no_byte(form: str, icc: bytes) -> None:
    data = encoded(Image.fromarray(PICTURE), form, icc_profile=icc)
    assert normalize(data, 10_000).data == data


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize(
    "icc",
    [
        b"?",
        b"\0" * 200,
        profile("p3")[:300],
        profile("p3")[:200] + b"\xff" * 200,
        b"\xff" * 16 + b"RGB " + b"\xff" * 400,
        gray_profile(1.0),
        ink_profile(),
        ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes(),
        profile("p3") + bytes(LARGEST_PROFILE),
    ],
)
def test_a_profile_that_is_broken_or_of_other_pixels_is_ignored_and_goes(
    form: str, icc: bytes
) -> None:
    image = Image.fromarray(PICTURE)
    options: dict[str, Any] = {"lossless": True} if form == "WEBP" else {}
    stored = normalize(encoded(image, form, icc_profile=icc, **options), 10_000)
    assert stored.data == normalize(encoded(image, form, **options), 10_000).data or form == "WEBP"
    with Image.open(io.BytesIO(stored.data)) as kept:
        assert not kept.info.get("icc_profile")
        assert np.array_equal(np.asarray(kept), decode(encoded(image, form, **options)))


def chunks(*more: tuple[bytes, bytes], space: str = "srgb", icc: bytes | None = None) -> bytes:
    """A PNG of the picture with chunks that say something about colors."""
    data = encoded(Image.fromarray(from_srgb(PICTURE, space)), icc_profile=icc)
    said = b"".join(
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in more
    )
    return data[:33] + said + data[33:]


def chromaticities(space: str) -> bytes:
    red, green, blue, white, _ = SPACES[space]
    return struct.pack(
        ">8I", *(round(v * 1e5) for point in (white, red, green, blue) for v in point)
    )


GAMMA = b"gAMA", struct.pack(">I", 45455)
SRGB_CHUNK = b"sRGB", b"\0"


@pytest.mark.parametrize(
    "more",
    [
        [GAMMA],
        [GAMMA, (b"cHRM", chromaticities("srgb"))],
        [SRGB_CHUNK, GAMMA],
        [SRGB_CHUNK, (b"gAMA", struct.pack(">I", 100_000))],
        [(b"cHRM", chromaticities("p3"))],  # without gAMA it says nothing, as in browsers
        [(b"cICP", bytes([1, 13, 0, 1]))],
        [(b"cICP", bytes([1, 1, 0, 1])), (b"gAMA", struct.pack(">I", 100_000))],
    ],
)
def test_a_png_that_says_srgb_by_its_chunks_changes_no_byte(
    more: list[tuple[bytes, bytes]],
) -> None:
    data = chunks(*more)
    assert normalize(data, 10_000).data == data


@pytest.mark.parametrize(
    ("more", "space"),
    [
        ([(b"gAMA", struct.pack(">I", 55556)), (b"cHRM", chromaticities("prophoto"))], "prophoto"),
        ([GAMMA, (b"cHRM", chromaticities("adobe_rgb"))], "adobe_rgb"),
        ([GAMMA, (b"cHRM", chromaticities("p3"))], "p3"),
        ([(b"cICP", bytes([12, 4, 0, 1]))], "p3"),
        ([(b"cICP", bytes([12, 4, 0, 1])), SRGB_CHUNK], "p3"),
    ],
)
def test_chunks_of_a_png_are_applied(more: list[tuple[bytes, bytes]], space: str) -> None:
    # sRGB's curve stands in for an exponent of 1 / 2.2, which tells in dark colors.
    assert off(chunks(*more, space=space)) <= 8


def test_of_two_that_a_png_says_the_first_of_the_standard_counts() -> None:
    said = chunks((b"gAMA", struct.pack(">I", 100_000)), space="prophoto", icc=profile("prophoto"))
    assert off(said) <= 4


@pytest.mark.parametrize(
    "more",
    [
        [(b"gAMA", bytes(4))],
        [(b"gAMA", b"\xff" * 4)],
        [GAMMA, (b"cHRM", bytes(32))],
        [GAMMA, (b"cHRM", b"\xff" * 32)],
        [GAMMA, (b"cHRM", struct.pack(">8I", *[31270, 32900] * 4))],
        [(b"cICP", bytes([9, 16, 0, 1]))],  # brightness beyond white, which is not done
        [(b"cICP", b"\xff" * 4)],
    ],
)
def test_chunks_without_sense_cost_no_image(more: list[tuple[bytes, bytes]]) -> None:
    stored = normalize(chunks(*more), 10_000)
    assert np.array_equal(decode(stored.data), PICTURE)


def camera_exif(space: int, index: bytes) -> bytes:
    """EXIF of a camera: a color space, and the index of interoperability."""
    entry = struct.pack(">HHI", 0x8769, 4, 1) + struct.pack(">I", 26)
    inner = struct.pack(">HHIHH", 0xA001, 3, 1, space, 0) + struct.pack(">HHII", 0xA005, 4, 1, 56)
    interop = struct.pack(">HHI", 1, 2, 4) + index
    return (
        b"Exif\0\0MM\0*\0\0\0\x08"
        + struct.pack(">H", 1)
        + entry
        + bytes(4)
        + struct.pack(">H", 2)
        + inner
        + bytes(4)
        + struct.pack(">H", 1)
        + interop
        + bytes(4)
    )


@pytest.mark.parametrize(
    ("space", "index", "applies"),
    [
        (0xFFFF, b"R03\0", True),
        (2, b"R03\0", True),
        (1, b"R98\0", False),
        (1, b"R03\0", False),
        (0xFFFF, b"R98\0", False),
    ],
)
def test_a_camera_says_adobe_rgb_by_exif_alone(space: int, index: bytes, applies: bool) -> None:
    said = "adobe_rgb" if applies else "srgb"
    image = Image.fromarray(from_srgb(PICTURE, said))
    data = encoded(image, "JPEG", exif=camera_exif(space, index), quality=100, subsampling=0)
    assert off(data) <= 6
    if not applies:
        assert normalize(data, 10_000) == normalize(
            encoded(image, "JPEG", quality=100, subsampling=0), 10_000
        )


def test_codes_of_an_avif_are_applied() -> None:
    data = encoded(
        Image.fromarray(from_srgb(PICTURE, "p3")), "AVIF", quality=100, subsampling="4:4:4"
    )
    at = data.index(b"colrnclx") + 8
    assert off(data[:at] + struct.pack(">HH", 12, 4) + data[at + 4 :]) <= 8


def test_the_spaces_of_these_tests_are_themselves_right() -> None:
    """White is the same everywhere, and sRGB's matrix is the published one."""
    for space in SPACES:
        assert np.allclose(matrix(space).sum(axis=1), [0.9642, 1, 0.8249], atol=1e-3)
    assert np.allclose(matrix("srgb")[1], [0.2225, 0.7169, 0.0606], atol=1e-3)
