"""The perceiver with trained models: what it hands to them, in whose pixels boxes come back, where
keywords come from."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from boig_core.config import Perception, parse_recipe
from boig_core.errors import InputError, RecipeError
from boig_core.perception.describe import Perceiver
from boig_core.perception.objects import Region, SalientRegions
from boig_core.perception.pixels import to_arrays

Pictures = Callable[[int], list[NDArray[np.uint8]]]


class Right:
    """Sees one object in the right half of whatever it is shown, under the first name that it is
    asked for."""

    def __init__(self, wants_originals: bool) -> None:
        self.wants_originals = wants_originals
        self.seen: list[tuple[int, ...]] = []

    def detect(
        self,
        images: Sequence[NDArray[np.uint8]],
        vocabularies: Sequence[Sequence[str]] | None = None,
    ) -> list[list[Region]]:
        self.seen = [image.shape for image in images]
        names = [words[0] for words in vocabularies] if vocabularies else ["thing"] * len(images)
        sizes = [image.shape[:2] for image in images]
        return [
            [Region(name, (width / 2, 0.0, float(width), float(height)), 1.0)]
            for name, (height, width) in zip(names, sizes, strict=True)
        ]


class Parrot:
    """Captions that say how large the image is."""

    def caption(self, images: Sequence[NDArray[np.uint8]]) -> list[str]:
        return [
            f"photo of {'wide' if image.shape[1] > image.shape[0] else 'tall'} things"
            for image in images
        ]


@pytest.mark.parametrize("originals", [True, False])
def test_boxes_come_back_in_the_measured_square(originals: bool) -> None:
    detector = Right(originals)
    images = [np.zeros((100, 50, 3), np.uint8), np.zeros((30, 90, 3), np.uint8)]
    seen = Perceiver(32, 5, 0.04, detector).describe(images)
    assert detector.seen == ([(100, 50, 3), (30, 90, 3)] if originals else [(32, 32, 3)] * 2)
    assert [description.objects for description in seen] == [{"thing": (16.0, 0.0, 32.0, 32.0)}] * 2


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.bfloat16])
def test_a_tensor_is_seen_like_its_arrays(dtype: torch.dtype) -> None:
    rng = np.random.default_rng(0)
    levels = [0, 64, 128, 255] if dtype != torch.bfloat16 else [0, 255]  # what eight digits can say
    arrays = rng.choice(np.array(levels, np.uint8), (3, 40, 24, 3))
    tensor_BCHW = torch.from_numpy(arrays).permute(0, 3, 1, 2)
    if dtype.is_floating_point:
        tensor_BCHW = (tensor_BCHW / 255).to(dtype)
    assert np.array_equal(np.stack(to_arrays(tensor_BCHW)), arrays)
    perceiver = Perceiver.from_recipe(Perception(side=32))
    assert (
        perceiver.describe(tensor_BCHW)
        == perceiver.describe(list(arrays))
        == perceiver.describe(arrays)
    )
    assert perceiver.describe(tensor_BCHW[:0]) == []


def test_floats_out_of_range_are_clamped() -> None:
    [array] = to_arrays(torch.tensor([-0.2, 0.5, 1.3]).reshape(1, 3, 1, 1))
    assert array.reshape(-1).tolist() == [0, 128, 255]


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros((4, 4, 3)),
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
    ],
)
def test_what_is_no_image_is_refused(bad: NDArray[np.uint8]) -> None:
    with pytest.raises(InputError, match="must be uint8"):
        to_arrays([bad])
    with pytest.raises(InputError, match="must be uint8"):
        to_arrays(torch.zeros(2, 4, 8, 8))


def test_keywords_steer_the_detector_only_where_the_recipe_says_so() -> None:
    images = [np.zeros((20, 40, 3), np.uint8), np.zeros((40, 20, 3), np.uint8)]
    words = [("cat",), ("dog",)]
    fixed = Perceiver(32, 5, 0.04, Right(True))
    assert [list(seen.objects) for seen in fixed.describe(images, words)] == [["thing"], ["thing"]]
    by_post = Perceiver(32, 5, 0.04, Right(True), by_keywords=True)
    assert [list(seen.objects) for seen in by_post.describe(images, words)] == [["cat"], ["dog"]]
    few = replace(by_post, max_keywords=1)
    many = [("dog", "cat"), ("cat", "dog", "cat")]
    assert [list(seen.objects) for seen in few.describe(images, many)] == [["cat"], ["cat"]]
    for missing in (None, [("cat",), None]):
        with pytest.raises(
            InputError, match=r"perception.vocabulary = keywords needs those of each"
        ):
            by_post.describe(images, missing)
    by_caption = Perceiver(
        32, 5, 0.04, Right(True), Parrot(), keyword_source="caption", by_keywords=True
    )
    assert [list(seen.objects) for seen in by_caption.describe(images)] == [["wide"], ["tall"]]
    assert [list(seen.objects) for seen in by_caption.describe(images, words)] == [["cat"], ["dog"]]


def test_captions_and_keywords() -> None:
    images = [np.zeros((20, 40, 3), np.uint8)]
    plain = Perceiver(32, 5, 0.04, Right(True))
    assert plain.caption(images) == [None]
    assert plain.keywords(images) == [None]
    spoken = Perceiver(32, 5, 0.04, Right(True), Parrot(), keyword_source="caption", max_keywords=2)
    assert spoken.caption(images) == ["photo of wide things"]
    assert spoken.keywords(images) == [("wide", "things")]
    assert spoken.keywords(images, ["one red hat"]) == [("one", "red")]


def test_salient_regions_cannot_be_asked_for_names() -> None:
    with pytest.raises(InputError, match=r"names out of perception.kinds alone"):
        SalientRegions(None, 0.01, 3).detect(np.zeros((1, 32, 32, 3), np.uint8), [("cat",)])


@pytest.mark.parametrize("detector", ["grounding_dino", "owlv2"])
def test_a_recipe_with_every_model(
    detector: str, blip: Path, request: pytest.FixtureRequest, pictures: Pictures
) -> None:
    folder = str(request.getfixturevalue(detector))
    perception = Perception(
        detector=detector,
        detector_model=folder,
        box_threshold=0,
        vocabulary="keywords",
        captioner="blip",
        caption_model=str(blip),
        caption_prompt="a red star",
        caption_tokens=4,
        keywords="caption",
        batch=2,
    )
    perceiver, images = Perceiver.from_recipe(perception), pictures(3)
    captions = perceiver.caption(images)
    words = perceiver.keywords(images, captions)
    assert [result[:2] for result in words if result] == [("red", "star")] * 3
    seen = perceiver.describe(images, words)
    assert seen == perceiver.describe(images)
    for description, result in zip(seen, words, strict=True):
        assert description.objects
        assert description.objects.keys() <= set(result or ())
        assert all(
            0 <= edge <= perceiver.side for box in description.objects.values() for edge in box
        )
    tagged = Perceiver.from_recipe(
        Perception(keywords="tags", tags=("ball", "box"), tag_threshold=0, max_keywords=1)
    )
    assert all(result in {("ball",), ("box",)} for result in tagged.keywords(images))


@pytest.mark.parametrize(
    ("fields", "rule"),
    [
        ({"detector": "owlv2", "kinds": ["cat"]}, "needs detector_model"),
        ({"detector": "owlv2", "detector_model": "x/y"}, "needs kinds"),
        ({"vocabulary": "keywords"}, "vocabulary keywords needs detector"),
        ({"captioner": "blip"}, "captioner blip needs caption_model"),
        ({"keywords": "caption"}, "needs captioner"),
        ({"keywords": "tags", "tags": ["one", "one"]}, "at least two tags"),
        ({"detector": "yolo"}, "perception.detector"),
    ],
)
def test_recipes_that_cannot_work_are_refused(fields: dict[str, object], rule: str) -> None:
    with pytest.raises(RecipeError, match=rule) as caught:
        parse_recipe({"perception": fields})
    assert str(caught.value).startswith("perception")
