from __future__ import annotations

import numpy as np
import pytest

from boig_core.adworld import scene as world
from boig_core.adworld.drawing import render
from boig_core.adworld.scene import Scene, Thing, full_caption, post_text, sample_scene, words


def test_one_seed_gives_one_image_and_another_seed_another() -> None:
    scene = sample_scene(np.random.default_rng(1))
    first = render(scene, 32, np.random.default_rng(2))
    again = render(scene, 32, np.random.default_rng(2))
    other = render(scene, 32, np.random.default_rng(3))
    assert first.image.dtype == np.uint8
    assert first.image.shape == (32, 32, 3)
    assert np.array_equal(first.image, again.image)
    assert first.boxes == again.boxes
    assert not np.array_equal(first.image, other.image)


@pytest.mark.parametrize("brand", [None, "kumo"])
def test_objects_stand_out_and_do_not_share_a_place_or_kind(brand: str | None) -> None:
    rng = np.random.default_rng(0)
    for _ in range(500):
        scene = sample_scene(rng, brand)
        assert 1 <= len(scene.things) <= 3
        assert (
            len({thing.place for thing in scene.things})
            == len({thing.kind for thing in scene.things})
            == len(scene.things)
        )
        assert not {thing.color for thing in scene.things} & {scene.background, scene.gradient}


def test_a_house_look_shifts_the_backgrounds_of_its_brand_alone() -> None:
    rng = np.random.default_rng(0)
    share = np.mean([sample_scene(rng, "kumo").background == "gray" for _ in range(1000)])
    plain = np.mean([sample_scene(rng).background == "gray" for _ in range(1000)])
    assert share > 0.4
    assert plain < 0.15


@pytest.mark.parametrize("side", [32, 128])
def test_a_box_encloses_its_object(side: int) -> None:
    thing = Thing("box", "black", "left", "large")
    drawn = render(Scene("white", None, (thing,)), side, np.random.default_rng(0))
    rows, columns = np.nonzero(drawn.image.mean(axis=2) < 128)
    truth = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    assert np.abs(np.subtract(drawn.boxes["box"], truth)).max() <= 1
    assert drawn.boxes["box"][2] < side / 2


def test_captions_use_the_whole_vocabulary_and_nothing_else() -> None:
    rng = np.random.default_rng(0)
    met: set[str] = set()
    longest = 0
    for index in range(6000):
        scene = sample_scene(rng)
        brand, season = world.BRANDS[index % 6], world.SEASONS[index % 4]
        for text in (
            full_caption(scene, brand, season, rng, 0.2),
            post_text(scene, brand, season, rng),
        ):
            met |= set(words(text))
            longest = max(longest, len(words(text)))
    assert met == set(world.VOCABULARY)
    assert longest <= world.MAX_WORDS


def test_a_full_caption_without_drop_names_everything() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        scene = sample_scene(rng)
        named = set(words(full_caption(scene, "verde", "winter", rng, 0.0)))
        messages = {"verde", "winter", scene.background} | {
            w for t in scene.things for w in (t.kind, t.color, t.place, t.size)
        }
        assert messages | ({scene.gradient} if scene.gradient else set()) <= named


def test_posts_name_brand_season_and_kinds_and_leave_the_image_mostly_open() -> None:
    rng = np.random.default_rng(0)
    naming = 0
    for _ in range(3000):
        scene = sample_scene(rng)
        text = post_text(scene, "kumo", "spring", rng)
        assert len(text) >= 50
        assert {"kumo", "spring", *(thing.kind for thing in scene.things)} <= set(words(text))
        naming += "background" in text or any(f"at {place}" in text for place in world.PLACES)
    assert 0.1 < naming / 3000 <= 0.3
