"""Captions and keywords: real loading code on small checkpoints of the very architectures, held
against the library's own generation."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from boig_core.adworld.drawing import render
from boig_core.adworld.scene import sample_scene
from boig_core.config import Perception
from boig_core.errors import InputError
from boig_core.perception.captions import Blip, Captioner, Llava, caption_keywords, open_captioner
from boig_core.perception.naming import ClipNamer
from boig_core.perception.objects import cut, find_regions

Pictures = Callable[[int], list[NDArray[np.uint8]]]
BOTH = pytest.mark.parametrize("name", ["blip", "llava"])


@pytest.fixture
def build(request: pytest.FixtureRequest) -> Callable[..., Captioner]:
    """A captioner as a recipe opens it."""

    def make(name: str, **fields: object) -> Captioner:
        settings = {"caption_tokens": 8, "batch": 2, **fields}
        captioner = open_captioner(
            Perception(captioner=name, caption_model=str(request.getfixturevalue(name)), **settings)
        )
        assert captioner is not None
        return captioner

    return make


@BOTH
def test_an_image_reads_alike_alone_and_in_company(
    name: str, build: Callable[..., Captioner], pictures: Pictures
) -> None:
    captioner, images = build(name), pictures(5)
    together = captioner.caption(images)
    assert [captioner.caption([image])[0] for image in images] == together
    assert len(set(together)) > 1, "captions follow the image"
    assert all(caption == " ".join(caption.split()) and caption for caption in together)
    assert captioner.caption([]) == []


@BOTH
def test_a_caption_is_no_longer_than_the_recipe_says(
    name: str, build: Callable[..., Captioner], pictures: Pictures
) -> None:
    images = pictures(4)
    long, short = build(name).caption(images), build(name, caption_tokens=2).caption(images)
    assert all(len(caption.split()) <= 2 for caption in short)
    assert all(caption.startswith(start) for caption, start in zip(long, short, strict=True))
    assert long != short


@BOTH
def test_the_prompt_is_read(name: str, build: Callable[..., Captioner], pictures: Pictures) -> None:
    images = pictures(4)
    prompted = build(name, caption_prompt="a photo of the").caption(images)
    assert prompted != build(name).caption(images)
    if name == "blip":
        assert all(caption.startswith("a photo of the ") for caption in prompted)
    else:
        assert not any("USER" in caption or "ASSISTANT" in caption for caption in prompted)


def test_blip_says_what_transformers_says(blip: Path, pictures: Pictures) -> None:
    from transformers import AutoTokenizer, BlipForConditionalGeneration, BlipProcessor
    from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

    model = BlipForConditionalGeneration.from_pretrained(blip).eval()
    processor = BlipProcessor(
        BlipImageProcessorPil.from_pretrained(blip), AutoTokenizer.from_pretrained(blip)
    )
    images = pictures(3)
    with torch.inference_mode():
        written = [
            model.generate(
                **processor(images=image, return_tensors="pt"), max_new_tokens=8, do_sample=False
            )
            for image in images
        ]
    expected = [processor.decode(row[0], skip_special_tokens=True) for row in written]
    assert Blip(str(blip), None, 8, 2).caption(images) == expected


def test_llava_says_what_transformers_says(llava: Path, pictures: Pictures) -> None:
    from transformers import AutoProcessor, LlavaForConditionalGeneration

    model = LlavaForConditionalGeneration.from_pretrained(llava).eval()
    processor = AutoProcessor.from_pretrained(llava)
    images, expected = pictures(3), []
    for image in images:
        inputs = processor(
            images=image, text="USER: <image>\ndescribe the image ASSISTANT:", return_tensors="pt"
        )
        with torch.inference_mode():
            written = model.generate(**inputs, max_new_tokens=8, do_sample=False)
        expected.append(
            processor.decode(written[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        )
    assert Llava(str(llava), "describe the image", 8, 2).caption(images) == expected


def test_a_chat_template_decides_how_a_llava_is_asked(
    llava: Path, tmp_path: Path, pictures: Pictures
) -> None:
    from transformers import AutoProcessor

    captioner = Llava(str(llava), "describe", 8, 2)
    assert captioner._text == "USER: <image>\ndescribe ASSISTANT:"
    captioner._processor.chat_template = (
        "{% for m in messages %}{{ m.role }} {% for c in m.content %}"
        "{{ '<image>' if c.type == 'image' else c.text }} {% endfor %}{% endfor %}{% if add_generation_prompt %}:{% endif %}"
    )
    assert captioner._ask("describe the star") == "user <image> describe the star :"
    assert isinstance(captioner._processor, type(AutoProcessor.from_pretrained(llava)))


@BOTH
def test_bfloat16_runs_where_it_is_asked_for(
    name: str, build: Callable[..., Captioner], pictures: Pictures
) -> None:
    """Greedy text on random weights may part at any near tie, so only that it runs in that
    precision is held."""
    captioner = build(name, dtype="bfloat16")
    assert captioner._model.dtype == torch.bfloat16  # type: ignore[attr-defined]
    assert all(captioner.caption(pictures(3)))


@BOTH
def test_a_strip_of_three_rows_is_no_stack_of_channels(
    name: str, build: Callable[..., Captioner], pictures: Pictures
) -> None:
    strip = np.full((3, 60, 3), (200, 30, 90), np.uint8)
    assert build(name).caption([strip]) == build(name).caption(
        [np.full((40, 60, 3), (200, 30, 90), np.uint8)]
    )


@BOTH
def test_a_folder_without_such_a_model_is_one_clear_line(name: str, tmp_path: Path) -> None:
    for ref in ("package:clip", str(tmp_path)):
        with pytest.raises(
            InputError, match=r"^perception\.caption_model = .*holds (a clip|no model)"
        ) as caught:
            open_captioner(Perception(captioner=name, caption_model=ref))
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 400


def test_keywords_of_a_caption() -> None:
    assert caption_keywords("A photo of a red ball and the ball of a dog in a Picture", 5) == (
        "red",
        "ball",
        "dog",
    )
    assert caption_keywords("one two three four", 2) == ("one", "two")
    assert caption_keywords("", 5) == ()


def test_tags_are_what_the_clip_sees() -> None:
    """On renders of the ad world, which the shipped CLIP was trained for, the object that a crop
    shows is among its tags."""
    kinds = ("ball", "box", "tent", "star", "ring", "cross", "moon", "bar")
    scenes, images = [], []
    for seed in range(60):
        rng = np.random.default_rng([5, seed])
        scene = sample_scene(rng)
        if len(scene.things) == 1:
            scenes.append(scene)
            image = np.asarray(render(scene, 128, rng).image)
            [box] = find_regions(image[None], 0.01, 1)[0]
            images.append(np.asarray(cut(image, box)))
    tagger = ClipNamer("package:clip", kinds, 0.2)
    tags = tagger.tag(images, 3)
    assert len(images) > 5
    assert (
        np.mean(
            [scene.things[0].kind in result for scene, result in zip(scenes, tags, strict=True)]
        )
        > 0.8
    )
    assert all(len(result) <= 3 for result in tags)
    assert tagger.tag(images[:1], 1)[0] == tags[0][:1]
    assert ClipNamer("package:clip", kinds, 1.0).tag(images[:3], 3) == [(), (), ()]
    assert [
        len(result) for result in ClipNamer("package:clip", kinds, 0.0).tag(images[:2], 20)
    ] == [
        8,
        8,
    ]


def test_tags_need_a_choice() -> None:
    with pytest.raises(
        InputError, match=r"perception.tags = \['ball'\]: must name at least two tags"
    ):
        ClipNamer("package:clip", ("ball",), 0.5, "perception.tags")
