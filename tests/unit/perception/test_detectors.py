"""Trained detectors: real loading code on small checkpoints of the very architectures, held against
transformers' own post-processing."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from boig_core.config import Perception
from boig_core.errors import InputError
from boig_core.perception.describe import open_detector
from boig_core.perception.detectors import BoxFilter, pick
from boig_core.perception.grounding_dino import GroundingDino
from boig_core.perception.objects import ObjectDetector, Region
from boig_core.perception.owlv2 import Owlv2
from boig_core.perception.pixels import fit

Pictures = Callable[[int], list[NDArray[np.uint8]]]
SIDE = 64
KINDS = ("cat", "dog", "red ball", "tree")
WORDS = (
    "ball",
    "box",
    "cat",
    "cup",
    "dog",
    "flag",
    "hat",
    "lamp",
    "moon",
    "star",
    "sun",
    "table",
    "tent",
    "tree",
    "red",
    "small",
    "large",
    "one",
)
BOTH = pytest.mark.parametrize("name", ["grounding_dino", "owlv2"])


@pytest.fixture
def build(request: pytest.FixtureRequest) -> Callable[..., ObjectDetector]:
    """A detector of an architecture, as a recipe opens it."""

    def make(name: str, **fields: Any) -> ObjectDetector:
        settings = {
            "kinds": KINDS,
            "box_threshold": 0.0,
            "min_area": 1e-6,
            "max_objects": 10,
            "batch": 3,
            **fields,
        }
        return open_detector(
            Perception(detector=name, detector_model=str(request.getfixturevalue(name)), **settings)
        )

    return make


@BOTH
def test_an_image_is_seen_alike_alone_and_in_company(
    name: str, build: Callable[..., ObjectDetector], pictures: Pictures
) -> None:
    detector, images = build(name), pictures(5)
    together = detector.detect(images)
    assert [detector.detect([image])[0] for image in images] == together
    assert detector.detect(images[::-1]) == together[::-1]
    assert len({tuple(regions) for regions in together}) == 5, "five images give five answers"
    assert detector.detect([]) == []


@BOTH
def test_regions_lie_in_the_image_the_largest_first_one_a_name(
    name: str, build: Callable[..., ObjectDetector], pictures: Pictures
) -> None:
    images = pictures(6)
    for image, regions in zip(images, build(name).detect(images), strict=True):
        areas = []
        for region in regions:
            x1, y1, x2, y2 = region.box
            assert 0 <= x1 < x2 <= image.shape[1]
            assert 0 <= y1 < y2 <= image.shape[0]
            assert 0 < region.confidence <= 1
            areas.append((x2 - x1) * (y2 - y1))
        assert areas == sorted(areas, reverse=True)
        assert regions
        assert len({region.name for region in regions}) == len(regions)
        assert {region.name for region in regions} <= set(KINDS)


@BOTH
def test_threshold_size_and_number(
    name: str, build: Callable[..., ObjectDetector], pictures: Pictures
) -> None:
    images = pictures(6)
    everything = build(name).detect(images)
    sure = sorted(region.confidence for regions in everything for region in regions)
    middle = sure[len(sure) // 2]
    surer = build(name, box_threshold=middle).detect(images)
    assert surer == [
        [region for region in regions if region.confidence > middle] for regions in everything
    ]
    assert 0 < sum(map(len, surer)) < sum(map(len, everything))
    assert build(name, max_objects=1).detect(images) == [regions[:1] for regions in everything]
    shares = sorted(
        region_share(region, image)
        for regions, image in zip(everything, images, strict=True)
        for region in regions
    )
    middle = shares[len(shares) // 2]
    large = build(name, min_area=middle).detect(images)
    assert all(
        region_share(region, image) >= middle
        for regions, image in zip(large, images, strict=True)
        for region in regions
    )
    assert large != everything
    assert any(large)


def region_share(region: Region, image: NDArray[np.uint8]) -> float:
    x1, y1, x2, y2 = region.box
    return (x2 - x1) * (y2 - y1) / (image.shape[0] * image.shape[1])


def surest(
    found: dict[str, Any], names: list[str], size: tuple[int, int], min_area: float = 1e-6
) -> dict[str, tuple[list[float], float]]:
    """Of the reference's boxes the surest of each name, cut off at the image."""
    height, width = size
    best: dict[str, tuple[list[float], float]] = {}
    for score, box, name in zip(
        found["scores"].tolist(), found["boxes"].tolist(), names, strict=True
    ):
        cut = [
            min(max(edge, 0.0), limit)
            for edge, limit in zip(box, (width, height, width, height), strict=True)
        ]
        if (cut[2] - cut[0]) * (cut[3] - cut[1]) >= min_area * height * width and score > best.get(
            name, ([], 0.0)
        )[1]:
            best[name] = (cut, score)
    return best


def same(regions: list[Region], expected: dict[str, tuple[list[float], float]]) -> None:
    assert {region.name for region in regions} == expected.keys()
    for region in regions:
        assert region.box == pytest.approx(expected[region.name][0], abs=0.02)
        assert region.confidence == pytest.approx(expected[region.name][1], abs=1e-4)


@pytest.mark.parametrize("threshold", [0.0, 0.5])
def test_grounding_dino_finds_what_transformers_finds(
    grounding_dino: Path, pictures: Pictures, threshold: float
) -> None:
    """One image at a time through the library's own processor, without our padding of texts and
    chunks."""
    from transformers import AutoTokenizer, GroundingDinoForObjectDetection, GroundingDinoProcessor
    from transformers.models.grounding_dino.image_processing_pil_grounding_dino import (
        GroundingDinoImageProcessorPil,
    )

    names = ["cat", "dog", "tree"]
    model = GroundingDinoForObjectDetection.from_pretrained(grounding_dino).eval()
    images = GroundingDinoImageProcessorPil.from_pretrained(grounding_dino)
    processor = GroundingDinoProcessor(images, AutoTokenizer.from_pretrained(grounding_dino))
    detector = GroundingDino(str(grounding_dino), names, BoxFilter(threshold, 1e-6, 10), batch=2)
    edges = {
        "size": {"shortest_edge": SIDE, "longest_edge": SIDE},
        "pad_size": {"height": SIDE, "width": SIDE},
    }
    # The library's longer edge is one short where its division is; here it is not.
    for image in [image[:96, :96] for image in pictures(6) if min(image.shape[:2]) >= 48]:
        inputs = processor(images=image, text=[names], return_tensors="pt", **edges)
        with torch.no_grad():
            output = model(**inputs)
        # Marks between the names are no names.
        output.logits[..., : inputs["input_ids"].shape[1]].masked_fill_(
            torch.isin(inputs["input_ids"], model.model.special_tokens), -torch.inf
        )
        [result] = processor.post_process_grounded_object_detection(
            output, threshold=threshold, text_threshold=0, target_sizes=[image.shape[:2]]
        )
        # Each name is one token, so the reference's surest token says the name.
        probability_QT = output.logits[0].sigmoid()
        chosen = probability_QT.argmax(dim=1)[probability_QT.max(dim=1).values > threshold]
        spoken = [processor.tokenizer.decode(inputs["input_ids"][0, column]) for column in chosen]
        same(detector.detect([image])[0], surest(result, spoken, image.shape[:2]))


@pytest.mark.parametrize("threshold", [0.0, 0.4])
def test_owlv2_finds_what_transformers_finds(owlv2: Path, threshold: float) -> None:
    """Images of the model's own size, whose pixels no resizing touches, through the library's
    processor."""
    from transformers import AutoTokenizer, Owlv2ForObjectDetection, Owlv2Processor
    from transformers.models.owlv2.image_processing_pil_owlv2 import Owlv2ImageProcessorPil

    names = ["cat", "dog", "tree"]
    model = Owlv2ForObjectDetection.from_pretrained(owlv2).eval()
    processor = Owlv2Processor(
        Owlv2ImageProcessorPil.from_pretrained(owlv2), AutoTokenizer.from_pretrained(owlv2)
    )
    detector = Owlv2(str(owlv2), names, BoxFilter(threshold, 1e-6, 10), batch=2)
    rng = np.random.default_rng(0)
    for size in ((SIDE, SIDE), (40, SIDE), (SIDE, 24)):
        image = rng.integers(0, 256, (*size, 3), np.uint8)
        inputs = processor(
            text=[[f"a photo of a {name}" for name in names]],
            images=image,
            return_tensors="pt",
            max_length=24,
            truncation=True,
        )
        with torch.inference_mode():
            output = model(**inputs)
        [result] = processor.post_process_grounded_object_detection(
            output, threshold=threshold, target_sizes=[size]
        )
        same(
            detector.detect([image])[0],
            surest(result, [names[label] for label in result["labels"].tolist()], size),
        )


def test_a_fitted_image_is_what_the_library_shows_its_models(
    grounding_dino: Path, pictures: Pictures
) -> None:
    from transformers.models.grounding_dino.image_processing_pil_grounding_dino import (
        GroundingDinoImageProcessorPil,
    )

    processor = GroundingDinoImageProcessorPil.from_pretrained(grounding_dino)
    equal = 0
    for image in pictures(20):
        edges = {
            "size": {"shortest_edge": SIDE, "longest_edge": SIDE},
            "pad_size": {"height": SIDE, "width": SIDE},
        }
        theirs = processor(
            image, do_normalize=False, do_rescale=False, return_tensors="np", **edges
        )
        [ours], [inside] = fit([image], SIDE)
        assert abs(inside.sum(axis=0).max() - theirs["pixel_mask"][0].sum(axis=0).max()) <= 1
        if (
            inside == theirs["pixel_mask"][0]
        ).all():  # its longer edge may be one short, because it cuts where we round
            equal += 1
            assert (
                np.abs(ours.astype(int) - np.moveaxis(theirs["pixel_values"][0], 0, -1)).max() <= 1
            )
    assert equal > 5


@BOTH
def test_each_image_can_be_asked_for_its_own_names(
    name: str, build: Callable[..., ObjectDetector], pictures: Pictures
) -> None:
    images = pictures(4)
    asked = [("cat", "sun"), (), ("tree", "tree", "cup"), ("sun", "cat")]
    result = build(name).detect(images, asked)
    assert [
        {region.name for region in regions} <= set(words)
        for regions, words in zip(result, asked, strict=True)
    ] == [True] * 4
    assert result[1] == []
    assert result[0]
    assert result[0] == build(name, kinds=("cat", "sun")).detect(images[:1])[0]


@BOTH
def test_more_names_than_a_pass_holds_are_asked_in_several(
    name: str, build: Callable[..., ObjectDetector], pictures: Pictures
) -> None:
    [image] = pictures(1)
    [result] = build(name, kinds=("cat",), max_objects=50).detect([image], [WORDS])
    width = 16 if name == "owlv2" else 11
    passes = [WORDS[start : start + width] for start in range(0, len(WORDS), width)]
    assert len(passes) == 2
    apart = [
        region
        for words in passes
        for region in build(name, kinds=("cat",), max_objects=50).detect([image], [words])[0]
    ]
    assert sorted(result, key=lambda region: region.name) == sorted(
        apart, key=lambda region: region.name
    )
    assert {region.name for region in result} & set(passes[1])


def test_a_box_shows_its_likeliest_name_and_a_name_its_surest_box() -> None:
    scores = np.array([[0.9, 0.2], [0.6, 0.8], [0.7, 0.1], [0.3, 0.95]], np.float32)
    boxes = np.array([[5, 5, 4, 4], [10, 10, 6, 6], [10, 10, 18, 18], [0, 0, 8, 8]], np.float32)
    result = pick(scores, boxes, ("cat", "dog"), (20, 20), BoxFilter(0.5, 0.001, 5))
    assert [(region.name, region.box) for region in result] == [
        ("cat", (3.0, 3.0, 7.0, 7.0)),
        ("dog", (0.0, 0.0, 4.0, 4.0)),
    ]
    # The surest ones are too small now, so the next ones stand in.
    result = pick(scores, boxes, ("cat", "dog"), (20, 20), BoxFilter(0.5, 0.05, 5))
    assert [(region.name, region.box) for region in result] == [
        ("cat", (1.0, 1.0, 19.0, 19.0)),
        ("dog", (7.0, 7.0, 13.0, 13.0)),
    ]
    assert pick(scores, boxes, ("cat", "dog"), (20, 20), BoxFilter(0.95, 0.001, 5)) == []


def test_a_name_of_several_words_counts_as_a_whole(
    grounding_dino: Path, pictures: Pictures
) -> None:
    """The score is the mean over the words: never above that of its surest word."""
    detector = GroundingDino(str(grounding_dino), ("red ball", "cat"), BoxFilter(0, 1e-6, 5), 1)
    text, weights_TN = detector._text(("red ball", "cat"))
    words = detector._tokenizer.convert_ids_to_tokens(text)
    assert words == ["[CLS]", "red", "ball", ".", "cat", ".", "[SEP]"]
    assert weights_TN[:7].T.tolist() == [[0, 0.5, 0.5, 0, 0, 0, 0], [0, 0, 0, 0, 1, 0, 0]]
    assert detector._tokens("red. ball?") == text[1:3]


@BOTH
def test_bfloat16_runs_where_it_is_asked_for(
    name: str, build: Callable[..., ObjectDetector], pictures: Pictures
) -> None:
    """Alone and in company alike; half of the scores within 0.01 of those in float32, because
    random weights leave near ties."""
    images = pictures(6)
    exact, rough = build(name, dtype="float32"), build(name, dtype="bfloat16")
    together = rough.detect(images)
    assert [rough.detect([image])[0] for image in images] == together
    assert together != exact.detect(images)
    apart = []
    for image in images:
        (scores_QN, boxes_Q4), *_ = exact._look([image] * 3, [KINDS] * 3)  # type: ignore[attr-defined]
        (rough_QN, rough_Q4), *_ = rough._look([image] * 3, [KINDS] * 3)  # type: ignore[attr-defined]
        apart.append(np.abs(scores_QN - rough_QN))
        if (
            name == "owlv2"
        ):  # whose boxes belong to patches; Grounding DINO's order of boxes follows their scores
            assert np.abs(boxes_Q4 - rough_Q4).max() < 0.01 * max(image.shape[:2])
            assert apart[-1].max() < 0.02
    assert np.median(np.concatenate(apart)) < 0.01


@BOTH
def test_a_wrong_or_broken_folder_is_one_clear_line(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    def opened(ref: str) -> ObjectDetector:
        return open_detector(Perception(detector=name, detector_model=ref, kinds=KINDS))

    folder: Path = request.getfixturevalue(name)
    whole = shutil.copytree(folder, tmp_path / "whole")
    opened(str(whole))
    with pytest.raises(
        InputError,
        match=r"^perception.detector_model = package:clip: holds a clip, not a .*; give a checkpoint",
    ) as caught:
        opened("package:clip")
    assert "\n" not in str(caught.value)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no model") as caught:
        opened(str(tmp_path / "empty"))
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="is not a folder"):
        opened(str(tmp_path / "missing"))
    (whole / "preprocessor_config.json").unlink()
    with pytest.raises(InputError, match="holds no image processor that opens"):
        opened(str(whole))


def test_a_checkpoint_without_some_weights_is_refused(owlv2: Path, tmp_path: Path) -> None:
    """transformers fills the gap with random numbers and a warning."""
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(owlv2, tmp_path / "partial")
    weights = load_file(folder / "model.safetensors")
    del weights["class_head.dense0.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"lacks 1 weights, class_head.dense0.weight among them"):
        Owlv2(str(folder), KINDS, BoxFilter(0.1, 0.01, 3), 2)


def test_a_name_without_words_or_with_too_many_is_refused(grounding_dino: Path) -> None:
    for bad in ("?", " ".join(["cat"] * 22)):
        with pytest.raises(InputError, match="tokens, between 1 and 21"):
            GroundingDino(str(grounding_dino), ("cat", bad), BoxFilter(0.1, 0.01, 3), 2)
