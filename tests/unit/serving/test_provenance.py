"""The origin of an image, written and read."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from boig_core.errors import InputError
from boig_core.serving.provenance import SOURCE_TYPE, ImageOrigin, png_of, read_origin, xmp_of

ORIGIN = ImageOrigin("id", "models/boigsd/v1", "ab" * 32, "cd" * 32, 5)
# What XML 1.0 can hold; places and digests are less than that.
WORDS = st.text(
    st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\ufffe\uffff"), min_size=1
)


@given(WORDS, WORDS, WORDS, WORDS, st.integers(0, 2**32 - 1))
def test_what_is_written_is_read(
    generation: str, model: str, manifest: str, prompt: str, seed: int
) -> None:
    origin = ImageOrigin(generation, model, manifest, prompt, seed)
    image = np.zeros((4, 4, 3), np.uint8)
    assert read_origin(png_of(image, origin)) == origin


def test_pixels_are_kept() -> None:
    image = np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8)
    with Image.open(io.BytesIO(png_of(image, ORIGIN))) as opened:
        assert (np.asarray(opened) == image).all()


def test_programs_for_pictures_read_that_a_model_made_it() -> None:
    packet = xmp_of(ORIGIN)
    assert f"<Iptc4xmpExt:DigitalSourceType>{SOURCE_TYPE}<" in packet
    assert packet.startswith("<?xpacket begin=")
    assert packet.endswith('<?xpacket end="r"?>')


def test_other_images_have_no_origin(tmp_path: Path) -> None:
    for form in ("PNG", "JPEG"):
        Image.new("RGB", (4, 4)).save(tmp_path / form, form)
        assert read_origin((tmp_path / form).read_bytes()) is None


@pytest.mark.parametrize(
    "change",
    [
        ("<boig:seed>5<", "<boig:seed>five<"),
        ("<boig:seed>5</boig:seed>", ""),
        ("</rdf:RDF>", ""),
        ("<x:xmpmeta", '<!DOCTYPE x [<!ENTITY a "b">]><x:xmpmeta'),
    ],
)
def test_a_damaged_origin_is_told(change: tuple[str, str]) -> None:
    about, file = PngInfo(), io.BytesIO()
    packet = xmp_of(ORIGIN)
    assert change[0] in packet
    about.add_itxt("XML:com.adobe.xmp", packet.replace(*change))
    Image.new("RGB", (4, 4)).save(file, "PNG", pnginfo=about)
    with pytest.raises(InputError, match="cannot be read"):
        read_origin(file.getvalue())
