"""What BoigLLM would have in an image: asked of the model's own, and drawn."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

from boig_core.errors import InputError
from boig_core.rewards import loading
from boig_core.serving.describe import Aim, describe, sketch
from boig_core.serving.published import open_published
from boig_core.vocabulary import PALETTE, Description

LOOK = Description(
    {"White": 0.25, "Yellow": 0.75}, {"warm": 1.0}, {"<ball>": (10.0, 20.0, 60.0, 70.0)}
)
SVG = "{http://www.w3.org/2000/svg}"


def test_the_model_s_own_boigllm_answers(aligned: str, tmp_path: Path) -> None:
    answer, post = describe(open_published(aligned, tmp_path), "A ball", "acme", "high")
    assert answer.colors.keys() <= PALETTE.keys()
    assert answer.colors
    assert (post.account, post.width, post.height) == ("acme", 32, 32)


def test_each_aim_tells_its_own_kpi(
    aligned: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = []

    class Spy:
        def predict(self, asked: list[str]) -> list[Description]:
            prompts.extend(asked)
            return [LOOK]

    monkeypatch.setattr(loading, "load_models", lambda *_: Spy())
    model = open_published(aligned, tmp_path)
    aims: tuple[Aim, ...] = ("high", "low")
    for aim in aims:
        describe(model, "A ball", "acme", aim)
    pair = model.calibration.conditions.of("acme")
    for prompt, value, label in zip(prompts, (pair.high, pair.low), aims, strict=True):
        assert f"kpi: {value:.0f} {label}" in prompt
        assert "A ball" in prompt


def test_an_answer_that_says_nothing_is_told(
    aligned: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Mute:
        def predict(self, asked: list[str]) -> list[None]:
            return [None]

    monkeypatch.setattr(loading, "load_models", lambda *_: Mute())
    with pytest.raises(InputError, match="cannot be parsed"):
        describe(open_published(aligned, tmp_path), "A ball", "acme", "high")


def test_the_sketch_has_boxes_in_their_place_and_colors_by_their_share() -> None:
    tree = ElementTree.fromstring(sketch(LOOK, 128, 64))
    ground, ball, *bar = tree.findall(f"{SVG}rect")
    yellow, white = ("#{:02x}{:02x}{:02x}".format(*PALETTE[name]) for name in ("Yellow", "White"))
    assert (ground.get("width"), ground.get("height"), ground.get("fill")) == ("640", "320", yellow)
    assert [ball.get(key) for key in ("x", "y", "width", "height", "fill")] == ["50.0", "100.0", "250.0", "250.0", white]  # fmt: skip
    assert [(part.get("width"), part.get("fill")) for part in bar] == [("480.0", yellow), ("160.0", white)]  # fmt: skip
    assert tree.findtext(f"{SVG}text") == "<ball>"


def test_nothing_seen_is_an_empty_sketch() -> None:
    tree = ElementTree.fromstring(sketch(Description(), 10, 10))
    assert len(tree.findall(f"{SVG}rect")) == 1
