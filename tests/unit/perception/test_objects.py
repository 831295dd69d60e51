"""Objects: regions found on real renders of the ad world, and named through whatever names
crops."""

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from boig_core.adworld.drawing import render
from boig_core.adworld.scene import sample_scene
from boig_core.config import Perception
from boig_core.data.imaging.images import resize
from boig_core.errors import InputError
from boig_core.perception.describe import Perceiver
from boig_core.perception.naming import ClipNamer
from boig_core.perception.objects import UNKNOWN, SalientRegions, find_regions, fit_background
from boig_core.vocabulary import Box


def overlap(a: Box, b: Box) -> float:
    """Intersection over union."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    inside = max(0.0, width) * max(0.0, height)
    return inside / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inside)


def disc(side: int = 32) -> NDArray[np.uint8]:
    image = np.full((side, side, 3), (35, 80, 210), np.uint8)
    y, x = np.mgrid[:side, :side]
    image[(x - 20) ** 2 + (y - 9) ** 2 < 25] = (250, 230, 40)
    return image


def test_objects_of_real_renders_are_found() -> None:
    scenes, boxes, images = [], [], []
    for i in range(150):
        rng = np.random.default_rng([11, i])
        scenes.append(sample_scene(rng))
        rendering = render(scenes[-1], 128, rng)
        boxes.append([tuple(edge / 4 for edge in box) for box in rendering.boxes.values()])
        images.append(resize(rendering.image, 32))
    result = find_regions(np.stack(images), min_area=0.01, max_objects=3)
    pairs = list(zip(boxes, result, strict=True))
    best = [
        max([overlap(box, other) for other in regions], default=0.0)
        for truth, regions in pairs
        for box in truth
    ]
    invented = sum(
        max(overlap(other, box) for box in truth) < 0.3
        for truth, regions in pairs
        for other in regions
    )
    assert np.mean(best) > 0.8
    assert np.mean(np.array(best) < 0.4) < 0.01
    assert invented == 0


def test_a_gradient_is_background() -> None:
    ramp = np.linspace(0, 255, 32).astype(np.uint8)
    image = np.stack(
        [
            np.tile(ramp[:, None], (1, 32)),
            np.full((32, 32), 80, np.uint8),
            np.tile(255 - ramp[:, None], (1, 32)),
        ],
        axis=-1,
    )
    assert find_regions(image[None], 0.01, 3) == [[]]
    assert np.abs(fit_background(image[None])[0] - image).max() < 2


def test_an_object_that_reaches_the_border_is_no_background() -> None:
    image = np.full((32, 32, 3), 240, np.uint8)
    image[:12, :12] = (200, 20, 30)
    assert find_regions(image[None], 0.01, 3) == [[(0.0, 0.0, 12.0, 12.0)]]


def test_an_image_without_anything_has_no_object() -> None:
    noise = np.random.default_rng(0).normal(0, 3, (32, 32, 3)) + 120
    assert find_regions(noise.clip(0, 255).astype(np.uint8)[None], 0.01, 3) == [[]]


def test_small_regions_and_too_many_are_left_out_the_largest_first() -> None:
    image = np.full((32, 32, 3), 240, np.uint8)
    for x, y, side in ((2, 2, 5), (20, 3, 6), (4, 20, 7), (22, 22, 2)):
        image[y : y + side, x : x + side] = (20, 20, 160)
    assert find_regions(image[None], 0.01, 2) == [[(4.0, 20.0, 11.0, 27.0), (20.0, 3.0, 26.0, 9.0)]]


class BySize:
    """Names a crop by its width."""

    def name(self, crops: Sequence[Image.Image]) -> list[tuple[str, float]]:
        return [("wide" if crop.width > 10 else "narrow", 1.0) for crop in crops]


def test_names_go_to_the_right_boxes_and_the_largest_of_a_name_stays() -> None:
    first, second = disc(), np.full((32, 32, 3), 240, np.uint8)
    second[3:9, 2:8] = second[20:27, 20:26] = (200, 20, 30)
    detector = SalientRegions(BySize(), 0.01, 3)
    assert [
        [region.name for region in regions]
        for regions in detector.detect(np.stack([first, second]))
    ] == [
        ["wide"],
        ["narrow", "narrow"],
    ]
    seen = Perceiver(32, 5, 0.01, detector).describe([first, second])
    assert seen[0].objects == {"wide": (16.0, 5.0, 25.0, 14.0)}
    assert seen[1].objects == {"narrow": (20.0, 20.0, 26.0, 27.0)}


def test_without_kinds_a_region_is_unknown_and_boxes_scale_with_the_image() -> None:
    perceiver = Perceiver.from_recipe(Perception(side=32, kinds=()))
    small, large = perceiver.describe(
        [disc(), np.asarray(Image.fromarray(disc()).resize((128, 64), Image.Resampling.NEAREST))]
    )
    assert small == large
    assert small.objects == {UNKNOWN: (16.0, 5.0, 25.0, 14.0)}
    assert small.scaled(4, 2).objects == {UNKNOWN: (64.0, 10.0, 100.0, 28.0)}
    assert small.colors == {"Blue": 0.93, "Yellow": 0.07}
    assert perceiver.describe([]) == []


def test_a_name_does_not_depend_on_the_other_crops() -> None:
    """Whatever the shipped CLIP says, it says the same alone and in company."""
    namer = ClipNamer("package:clip", ("ball", "box", "star"), threshold=0)
    rng = np.random.default_rng(0)
    crops = [Image.fromarray(rng.integers(0, 255, (9, 9, 3), np.uint8)) for _ in range(70)]
    together = namer.name(crops)
    assert len(together) == 70
    assert [namer.name([crop])[0] for crop in crops[::23]] == together[::23]
    assert namer.name([]) == []


def test_an_unlikely_name_is_unknown() -> None:
    crops = [Image.fromarray(disc())]
    [(name, probability)] = ClipNamer("package:clip", ("ball", "box", "star"), threshold=1.0).name(
        crops
    )
    assert (name, probability < 1) == (UNKNOWN, True)


def test_bad_settings_are_one_clear_error() -> None:
    with pytest.raises(InputError, match="at least two kinds"):
        ClipNamer("package:clip", ("ball",), 0.5)
    with pytest.raises(InputError, match="no such model"):
        ClipNamer("package:clap", ("ball", "box"), 0.5)
