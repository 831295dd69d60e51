"""Colors and tones: the palette names itself, coverages sum to 1, edges invent no color."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from boig_core.perception.colors import NAMES, name_colors, to_hundredths, to_oklab, unmix
from boig_core.perception.tones import measure_tones
from boig_core.vocabulary import PALETTE


def plain(name: str, side: int = 8) -> NDArray[np.uint8]:
    return np.full((1, side, side, 3), PALETTE[name], np.uint8)


def names(image_BHWC: NDArray[np.uint8], max_colors: int = 5, min_coverage: float = 0.04) -> dict[str, float]:
    return name_colors(unmix(image_BHWC), max_colors, min_coverage)[0]


def test_oklab_of_known_colors() -> None:
    """Reference values of Ottosson's article."""
    white, red = to_oklab(np.array([[255, 255, 255], [255, 0, 0]], np.uint8))
    assert white == pytest.approx([1, 0, 0], abs=1e-3)
    assert red == pytest.approx([0.628, 0.225, 0.126], abs=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_every_color_of_the_palette_is_called_by_its_name(name: str) -> None:
    assert names(plain(name)) == {name: 1.0}


def test_coverage_and_order() -> None:
    image = plain("Blue", 10)
    image[:, :3] = PALETTE["Yellow"]
    image[:, 3, :] = PALETTE["Red"]
    assert list(names(image).items()) == [("Blue", 0.6), ("Yellow", 0.3), ("Red", 0.1)]


def test_small_colors_are_folded_into_the_one_that_looks_most_like_them() -> None:
    image = plain("Blue", 10)
    image[:, :3] = PALETTE["Yellow"]
    image[0, 0, :2] = PALETTE["Gold"]
    assert names(image) == {"Blue": 0.7, "Yellow": 0.3}
    assert names(image, min_coverage=0.01) == {"Blue": 0.7, "Yellow": 0.28, "Gold": 0.02}
    assert names(image, max_colors=1) == {"Blue": 1.0}


def test_a_blurred_edge_between_two_colors_is_no_third_one() -> None:
    image = plain("Red", 12).astype(np.float32)
    image[:, :, 6:] = PALETTE["Blue"]
    image[:, :, 6] = (np.array(PALETTE["Red"]) + PALETTE["Blue"]) / 2
    assert names(image.astype(np.uint8), min_coverage=0.01).keys() == {"Red", "Blue"}


def test_a_thin_line_is_kept() -> None:
    image = plain("White", 12)
    image[:, :, 5] = PALETTE["Black"]
    assert names(image) == {"White": 0.92, "Black": 0.08}


def test_a_batch_is_measured_image_by_image() -> None:
    batch = np.concatenate([plain("Red"), plain("Olive"), plain("White")])
    assert name_colors(batch, 5, 0.04) == [{"Red": 1.0}, {"Olive": 1.0}, {"White": 1.0}]


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=8).filter(any))
def test_hundredths_sum_to_one(weights: list[int]) -> None:
    shares = to_hundredths(weights)
    assert sum(round(100 * share) for share in shares) == 100
    assert shares == pytest.approx(np.array(weights) / sum(weights), abs=0.01)


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1))
def test_any_pixels_give_one_to_five_names_that_sum_to_one(seed: int) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (1, 16, 16, 3), np.uint8)
    found = names(image)
    assert 1 <= len(found) <= 5
    assert round(100 * sum(found.values())) == 100
    assert found.keys() <= PALETTE.keys()


@pytest.mark.parametrize(
    ("tone", "colors"),
    [
        ("warm", ["Red", "Orange", "Yellow", "Brown", "Pink", "Gold", "Tan", "Maroon", "Cream"]),
        ("neutral", ["Black", "White", "Gray", "Silver", "Dark_Gray", "Off_White"]),
        ("cool", ["Blue", "Green", "Cyan", "Purple", "Violet", "Turquoise", "Dark_Green", "Light_Blue"]),
    ],
)
def test_tones(tone: str, colors: list[str]) -> None:
    for name in colors:
        assert measure_tones(to_oklab(plain(name)))[0][tone] == 1.0, name


def test_tones_are_shares() -> None:
    image = plain("Blue", 10)
    image[:, :3] = PALETTE["Orange"]
    image[:, 3:5] = PALETTE["White"]
    assert measure_tones(to_oklab(image)) == [{"warm": 0.3, "neutral": 0.2, "cool": 0.5}]
