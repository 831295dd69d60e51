"""Colors and tones: the palette names itself, coverages sum to 1, edges invent no color; one pass
counts what a plain reading counts."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from boig_core.perception.census import EDGE_SIDE, count, measure
from boig_core.perception.colors import NAMES, cell_names, to_hundredths, to_oklab, unmix
from boig_core.perception.tones import NEUTRAL_CHROMA, WARM_HUES, tones_of
from boig_core.vocabulary import PALETTE, TONES


def plain(name: str, side: int = 8) -> NDArray[np.uint8]:
    return np.full((1, side, side, 3), PALETTE[name], np.uint8)


def names(
    image_BHWC: NDArray[np.uint8], max_colors: int = 5, min_coverage: float = 0.04
) -> dict[str, float]:
    return measure(image_BHWC, max_colors, min_coverage)[0][0]


def tones(image_BHWC: NDArray[np.uint8]) -> dict[str, float]:
    return measure(image_BHWC, 5, 0.04)[1][0]


def plain_reading(
    rgb_BHWC: NDArray[np.uint8], max_colors: int, min_coverage: float
) -> tuple[list[dict[str, float]], list[dict[str, float]]]:
    """What `measure` means, in a straight line: OKLab of every pixel for its tone, of its cell's
    middle for its name; no table."""
    palette_PC = to_oklab(np.array(list(PALETTE.values()), np.uint8))
    apart_PP = ((palette_PC[:, None] - palette_PC) ** 2).sum(axis=-1)
    named, toned = [], []
    for rgb_HWC in unmix(rgb_BHWC) if max(rgb_BHWC.shape[1:3]) <= EDGE_SIDE else rgb_BHWC:
        middle_NC = to_oklab(rgb_HWC.reshape(-1, 3) // 4 * 4 + 2)
        pixels_P = np.bincount(
            ((palette_PC**2).sum(axis=1) - 2 * middle_NC @ palette_PC.T).argmin(axis=1),
            minlength=len(NAMES),
        )
        ranked = sorted(range(len(NAMES)), key=lambda p: (-pixels_P[p], p))
        kept = sorted(
            p
            for p in ranked[:max_colors]
            if p == ranked[0] or pixels_P[p] >= max(1, min_coverage * pixels_P.sum())
        )
        folded = [0.0] * len(kept)
        for p, pixels in enumerate(pixels_P):
            folded[min(range(len(kept)), key=lambda k: apart_PP[p, kept[k]])] += pixels
        shares = {
            NAMES[p]: share
            for p, share in zip(kept, to_hundredths(folded), strict=True)
            if share > 0
        }
        named.append(dict(sorted(shares.items(), key=lambda item: (-item[1], item[0]))))

        _, a, b = np.moveaxis(to_oklab(rgb_HWC), -1, 0)
        hue = np.degrees(np.arctan2(b, a))
        neutral = a**2 + b**2 < NEUTRAL_CHROMA**2
        warm = ~neutral & (hue >= WARM_HUES[0]) & (hue <= WARM_HUES[1])
        toned.append(
            dict(
                zip(
                    TONES,
                    to_hundredths([warm.sum(), neutral.sum(), (~warm & ~neutral).sum()]),
                    strict=True,
                )
            )
        )
    return named, toned


def pictures(rng: np.random.Generator, side: int) -> NDArray[np.uint8]:
    """Noise, noise around a grey, and downsized blocks, gradients and stripes of colors of the
    palette."""
    wide, palette_PC = 3 * side, np.array(list(PALETTE.values()), np.float64)
    down, across = np.mgrid[:wide, :wide] / wide
    picked_NC = palette_PC[rng.permutation(len(NAMES))]
    blocks = picked_NC[
        (rng.integers(0, 4, (5, 5)))[(5 * down).astype(int), (5 * across).astype(int)]
    ]
    gradient = picked_NC[5] + across[..., None] * (picked_NC[6] - picked_NC[5])
    stripes = picked_NC[7 + (across * rng.integers(4, side)).astype(int) % 3]
    drawn = np.stack([blocks, gradient, stripes]) + rng.normal(0, 2, (3, wide, wide, 3))
    drawn = drawn.reshape(3, side, 3, side, 3, 3).mean(axis=(2, 4))
    noise = np.stack(
        [rng.uniform(0, 256, (side, side, 3)), 128 + rng.normal(0, 12, (side, side, 3))]
    )
    return np.clip(np.concatenate([drawn, noise]), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("side", [16, 32, 33, EDGE_SIDE, EDGE_SIDE + 1, 300])
def test_one_pass_counts_what_a_plain_reading_counts(side: int) -> None:
    for seed in range(6 if side < EDGE_SIDE else 2):
        images = pictures(np.random.default_rng([side, seed]), side)
        for max_colors, min_coverage in ((5, 0.04), (5, 0.015), (3, 0.0), (1, 0.3)):
            assert measure(images, max_colors, min_coverage) == plain_reading(
                images, max_colors, min_coverage
            )


def test_every_rgb_value_has_the_name_of_its_cell_and_its_own_tone() -> None:
    green, blue = np.mgrid[:256, :256].astype(np.uint8)
    for red in range(256):
        rgb_HWC = np.stack([np.full_like(green, red), green, blue], axis=-1)
        expected = (
            tones_of(to_oklab(rgb_HWC.reshape(-1, 3))) * len(NAMES)
            + cell_names()[tuple(np.moveaxis(rgb_HWC // 4, -1, 0))].ravel()
        )
        # The whole slice at once: an error in one value would have to be made up for by another of
        # the same name.
        assert (
            count(rgb_HWC).ravel() == np.bincount(expected, minlength=len(TONES) * len(NAMES))
        ).all(), red


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
    assert measure(batch, 5, 0.04)[0] == [{"Red": 1.0}, {"Olive": 1.0}, {"White": 1.0}]


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=8).filter(any))
def test_hundredths_sum_to_one(weights: list[int]) -> None:
    shares = to_hundredths(weights)
    assert sum(round(100 * share) for share in shares) == 100
    assert shares == pytest.approx(np.array(weights) / sum(weights), abs=0.01)


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1))
def test_any_pixels_give_one_to_five_names_that_sum_to_one(seed: int) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (1, 16, 16, 3), np.uint8)
    result = names(image)
    assert 1 <= len(result) <= 5
    assert round(100 * sum(result.values())) == 100
    assert result.keys() <= PALETTE.keys()


@pytest.mark.parametrize(
    ("tone", "colors"),
    [
        ("warm", ["Red", "Orange", "Yellow", "Brown", "Pink", "Gold", "Tan", "Maroon", "Cream"]),
        ("neutral", ["Black", "White", "Gray", "Silver", "Dark_Gray", "Off_White"]),
        (
            "cool",
            ["Blue", "Green", "Cyan", "Purple", "Violet", "Turquoise", "Dark_Green", "Light_Blue"],
        ),
    ],
)
def test_tones(tone: str, colors: list[str]) -> None:
    for name in colors:
        assert tones(plain(name))[tone] == 1.0, name


def test_tones_are_shares() -> None:
    image = plain("Blue", 10)
    image[:, :3] = PALETTE["Orange"]
    image[:, 3:5] = PALETTE["White"]
    assert tones(image) == {"warm": 0.3, "neutral": 0.2, "cool": 0.5}
