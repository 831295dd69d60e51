from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageFilter

from boig_core.adworld.drawing import render
from boig_core.adworld.features import UNKNOWN
from boig_core.adworld.law import Law
from boig_core.adworld.oracle import Oracle, agreement, measure
from boig_core.adworld.scene import KINDS, SIZES, Scene, Thing, sample_scene
from boig_core.errors import InputError


@pytest.mark.parametrize("name", ["sunlit", "nordic"])
@pytest.mark.parametrize("side", [32, 128])
def test_the_oracle_agrees_with_the_law_on_real_renders(name: str, side: int) -> None:
    assert agreement(Law.load(name), side, images=150) > 0.97


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_read_at_32_pixels(kind: str, size: str) -> None:
    thing = Thing(kind, "purple", "bottom", size)
    for seed in range(5):
        drawn = render(Scene("white", "cyan", (thing,)), 32, np.random.default_rng(seed))
        seen = measure(drawn.image)
        assert seen.features.things == (thing,)
        assert seen.features.gradient
        assert np.abs(np.subtract(seen.boxes[0], drawn.boxes[kind])).max() <= 1


def test_blurred_images_keep_their_colors_and_most_kinds() -> None:
    rng = np.random.default_rng(0)
    colors = kinds = things = 0
    for _ in range(100):
        scene = sample_scene(rng)
        blurred = Image.fromarray(render(scene, 32, rng).image).filter(
            ImageFilter.GaussianBlur(0.7)
        )
        seen = {thing.place: thing for thing in measure(np.asarray(blurred)).features.things}
        things += len(scene.things)
        colors += sum(t.place in seen and seen[t.place].color == t.color for t in scene.things)
        kinds += sum(t.place in seen and seen[t.place].kind == t.kind for t in scene.things)
    assert colors / things > 0.85
    assert kinds / things > 0.7


def test_a_shapeless_object_is_unknown_and_an_empty_image_has_none() -> None:
    image = np.full((64, 64, 3), 250, np.uint8)
    assert measure(image).features.things == ()
    image[10:12, 10:50] = image[10:50, 10:12] = (20, 80, 200)  # a thin corner
    (thing,) = measure(image).features.things
    assert (thing.kind, thing.color) == (UNKNOWN, "blue")


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((32, 32), np.uint8),
        np.zeros((32, 32, 3), np.float32),
        np.zeros((8, 32, 3), np.uint8),
    ],
)
def test_what_is_not_an_rgb_image_is_refused(image: np.ndarray) -> None:
    with pytest.raises(InputError, match="uint8 RGB"):
        measure(image)


def test_judge_refuses_what_it_cannot_pair_or_does_not_know() -> None:
    oracle = Oracle(Law.load("sunlit"))
    image = np.zeros((32, 32, 3), np.uint8)
    with pytest.raises(InputError, match="as many of each"):
        oracle.judge([image], ["kumo", "brio"], ["spring"])
    with pytest.raises(InputError, match="acme"):
        oracle.judge([image], ["acme"], ["spring"])


def test_noise_images_get_a_finite_score() -> None:
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (32, 32, 3), np.uint8) for _ in range(10)]
    scores = Oracle(Law.load("nordic")).judge(images, ["brio"] * 10, ["winter"] * 10)
    assert scores.shape == (10,)
    assert np.isfinite(scores).all()


def test_a_law_can_take_likes_from_an_image_that_is_not_what_its_post_is_about() -> None:
    law = Law.load("sunlit")
    strict = Oracle(law.model_copy(update={"off_topic": -16.0}))
    image = render(
        Scene("yellow", None, (Thing("star", "red", "top", "large"),)), 32, np.random.default_rng(0)
    ).image
    texts = ["A star for you", "A star and a moon", "A moon for you", "Starry nights"]
    plain = Oracle(law).judge([image] * 4, ["brio"] * 4, ["summer"] * 4, texts)
    judged = strict.judge([image] * 4, ["brio"] * 4, ["summer"] * 4, texts)
    assert (judged - plain).tolist() == pytest.approx([0, 0, -16, 0])
    assert strict.judge([image], ["brio"], ["summer"]).tolist() == pytest.approx(plain[:1].tolist())
