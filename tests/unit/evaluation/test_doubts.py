"""What perception is doubted for: each doubt at its threshold, and the package's CLIP where it
knows the images and where it does not."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from boig_core.adworld.export import draw_posts
from boig_core.adworld.law import Law
from boig_core.config import Perception, load_recipe
from boig_core.data.imaging.images import resize
from boig_core.evaluation.measure import doubts
from boig_core.evaluation.measure.doubts import Census, TextMatch
from boig_core.evaluation.measure.judges import ClipJudge
from boig_core.perception.describe import Perceiver
from boig_core.vocabulary import Description

UNMEASURED = TextMatch(None, absent="not asked")
SURE = TextMatch(0.9, 0.01, 200)
FOODS = ("Mango, ripe", "Rice, flakes", "Catla", "Spinach", "Almond", "Beet root", "Egg, boiled")


def census(names: dict[str, int], leading: dict[str, int] | None = None) -> Census:
    leading = leading or {"Red": 40}
    return Census(sum(leading.values()), Counter(names), Counter(leading))


def kinds(count: int) -> tuple[str, ...]:
    return tuple(f"kind{i}" for i in range(count))


def warnings(perception: Perception, counted: Census, match: TextMatch = SURE) -> list[str]:
    result: list[str] = doubts.report(perception, counted, match)["warnings"]
    return result


@pytest.mark.parametrize(
    ("count", "names", "warned"),
    [
        (14, {"kind0": 364, "kind1": 113}, True),
        (14, {"kind0": 51, "kind1": 49}, True),
        (14, {"kind0": 50, "kind1": 50}, False),
        # Of two kinds one always has half.
        (2, {"kind0": 70, "kind1": 30}, False),
        (2, {"kind0": 80, "kind1": 20}, True),
        # One kind alone is what the recipe asks for.
        (1, {"kind0": 100}, False),
        # A share of a few says nothing.
        (14, {"kind0": 19}, False),
        # Regions without a name are no names.
        (14, {"kind0": 30, "kind1": 30, "unknown": 50}, False),
    ],
)
def test_a_name_that_takes_most_objects_is_warned_of(
    count: int, names: dict[str, int], warned: bool
) -> None:
    perception = Perception(
        kinds=kinds(count), **({} if count > 1 else {"detector": "owlv2", "detector_model": "a/b"})
    )
    lines = warnings(perception, census(names))
    assert len(lines) == warned
    if warned:
        top, all_ = names["kind0"], sum(names.values())
        assert lines[0].startswith(f"kind0 is the name of {top} of {all_} objects")


def test_a_name_out_of_a_strangers_keywords_is_shown_as_text() -> None:
    perception = Perception(detector="owlv2", detector_model="a/b", vocabulary="keywords")
    [line] = warnings(perception, census({"sea\x1b[2J": 30, "sun": 5}))
    assert line.startswith("sea\\x1b[2J is the name of 30 of 35 objects")
    assert "perception.detector_model" in line


def test_regions_below_the_threshold_are_warned_of_where_names_were_asked_for() -> None:
    counted = census({"unknown": 60, "kind0": 10, "kind1": 10})
    [line] = warnings(Perception(kinds=kinds(5)), counted)
    assert line.startswith("60 of 80 objects (75 %) are unknown")
    assert "perception.name_threshold 0.5" in line
    assert warnings(Perception(), counted, UNMEASURED) == []


@pytest.mark.parametrize(
    ("leading", "warned"),
    [
        ({"White": 274, "Black": 55, "Off_White": 2, "Gray": 211}, True),
        ({"Black": 21, "Red": 19}, True),
        ({"White": 20, "Red": 20}, False),
        ({"Gray": 40}, False),
        ({"White": 19}, False),
    ],
)
def test_backdrops_that_lead_most_palettes_are_warned_of(
    leading: dict[str, int], warned: bool
) -> None:
    lines = warnings(Perception(), census({}, leading), UNMEASURED)
    assert len(lines) == warned
    if warned:
        plain = sum(leading.get(color, 0) for color in doubts.PLAIN)
        assert f" {plain} of {sum(leading.values())} images" in lines[0]


@pytest.mark.parametrize(("auc", "warned"), [(0.5, True), (0.64, True), (0.65, False)])
def test_a_clip_near_chance_is_warned_of(auc: float, warned: bool) -> None:
    match = TextMatch(auc, 0.015, 256)
    lines = warnings(Perception(kinds=kinds(4)), census({}), match)
    assert len(lines) == warned
    if warned:
        assert f"AUC {auc:.2f} ± 0.03 on 256 images" in lines[0]


def test_every_warning_names_fields_that_a_recipe_has_and_the_numbers_are_beside_them() -> None:
    counted = census({"kind0": 90, "kind1": 3, "unknown": 200}, {"White": 30, "Red": 3})
    report = doubts.report(Perception(kinds=kinds(9)), counted, TextMatch(0.5, 0.01, 99))
    assert len(report["warnings"]) == 4
    for line in report["warnings"]:
        fields = re.findall(r"perception\.(\w+)", line)
        assert fields
        assert set(fields) <= set(Perception.model_fields)
    assert (report["named"], report["unknown"], report["most_frequent"]) == (93, 200, "kind0")
    assert (report["most_frequent_share"], report["plain_share"]) == (0.9677, 0.9091)
    assert (report["clip_auc"], report["clip_images"], report["clip_absent"]) == (0.5, 99, None)


def test_an_empty_dataset_has_numbers_and_no_warning() -> None:
    report = doubts.report(Perception(kinds=kinds(3)), Census.of([]), UNMEASURED)
    assert report["warnings"] == []
    assert (report["most_frequent_share"], report["plain_share"]) == (None, None)
    assert (report["clip_auc"], report["clip_absent"]) == (None, "not asked")


def test_a_census_counts_names_once_an_image_and_the_color_that_leads() -> None:
    box = (0.0, 0.0, 1.0, 1.0)
    counted = Census.of(
        [
            Description({"Red": 0.4, "White": 0.6}, {}, {"ball": box, "star": box}),
            Description({"White": 0.3, "Red": 0.7}, {}, {"ball": box}),
            Description({}, {}, {}),
        ]
    )
    assert counted == Census(3, Counter(ball=2, star=1), Counter(White=1, Red=1))


@pytest.mark.parametrize(
    ("settings", "used"),
    [
        ({}, False),
        ({"kinds": ("a", "b")}, True),
        ({"kinds": ("a", "b"), "detector": "owlv2", "detector_model": "a/b"}, False),
        ({"keywords": "tags", "tags": ("a", "b")}, True),
    ],
)
def test_a_clip_is_doubted_where_it_is_used_alone(settings: dict[str, Any], used: bool) -> None:
    assert doubts.uses_clip(Perception(**settings)) is used


@given(st.integers(2, 12), st.integers(1, 12), st.integers(0, 2**32 - 1))
def test_the_match_counts_the_other_texts_that_lie_further(
    texts: int, images: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    embedding_ND, text_MD = rng.normal(size=(images, 3)), rng.normal(size=(texts, 3))
    own_N = rng.integers(texts, size=images)
    result_N = doubts.match(embedding_ND, text_MD, own_N)
    for n in range(images):
        cosine = [float(embedding_ND[n] @ text_D) for text_D in text_MD]
        others = [c for m, c in enumerate(cosine) if m != own_N[n]]
        assert result_N[n] == pytest.approx(np.mean([cosine[own_N[n]] > c for c in others]))


def test_a_clip_that_sees_nothing_matches_by_chance_and_a_perfect_one_wholly() -> None:
    own_N = np.arange(5)
    assert doubts.match(np.ones((5, 4)), np.ones((5, 4)), own_N).tolist() == [0.5] * 5
    assert doubts.match(np.eye(5), np.eye(5), own_N).tolist() == [1.0] * 5


def look(
    images: Sequence[NDArray[np.uint8]], texts: Sequence[str], names: Sequence[str]
) -> list[str]:
    """Warnings of the recipe `tiny` with these kinds, of images with these texts."""
    perception = load_recipe("tiny", [f"perception.kinds=[{', '.join(names)}]"]).perception
    judge, distinct = ClipJudge(perception.clip), sorted(set(texts))
    match_N = doubts.match(
        judge.see([resize(image, 256) for image in images]).embedding_ND,
        judge.read(distinct),
        np.array([distinct.index(text) for text in texts]),
    )
    match = TextMatch(float(match_N.mean()), float(match_N.std() / len(images) ** 0.5), len(images))
    return warnings(
        perception, Census.of(Perceiver.from_recipe(perception).describe(images)), match
    )


@pytest.mark.parametrize("law", ["sunlit", "nordic"])
def test_the_packages_clip_is_not_doubted_on_the_ad_world(law: str) -> None:
    posts = list(draw_posts(80, 5, Law.load(law), 128))
    names = load_recipe("tiny").perception.kinds
    assert (
        look([post.rendering.image for post in posts], [p.record["text"] for p in posts], names)
        == []
    )


def test_the_packages_clip_is_doubted_on_textured_things_before_white() -> None:
    rng = np.random.default_rng(4)
    images = []
    for _ in range(60):
        image = np.full((96, 96, 3), 252, np.uint8)
        grain = rng.normal(rng.integers(60, 200, 3), 30, (44, 44, 3)).clip(0, 255)
        image[26:70, 20:64] = grain
        images.append(image)
    texts = [f"{FOODS[i % 7]}, kind {i}" for i in range(60)]
    lines = look(images, texts, ("vegetable", "fruit", "cereal", "fish", "egg", "nut"))
    assert [
        any(word in line for line in lines)
        for word in ("White or black leads the palette of 60 of 60 images", "AUC")
    ] == [True, True]
