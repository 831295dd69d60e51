"""The shipped tiny models hold what their manifest says, and the command that made them works from
end to end."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPModel, CLIPProcessor, CLIPTokenizer

from boig_core.adworld.drawing import render
from boig_core.adworld.scene import KINDS, OBJECT_COLORS, VOCABULARY, Scene, Thing
from boig_core.adworld.tiny_models import build, clip, data, fidelity
from boig_core.adworld.tiny_models.tokenizer import build_tokenizer
from boig_core.errors import TrainingDivergedError, UserError
from boig_core.models import MODELS_FOLDER, SHIPPED

CLIPS = ("clip", "clip-judge")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def manifest() -> dict:
    return json.loads((MODELS_FOLDER / "manifest.json").read_text())


@pytest.fixture(scope="module")
def held_out() -> data.TrainingSet:
    return data.draw(120, seed=987_654, squares=1.0)


def open_clip(name: str) -> tuple[CLIPModel, CLIPProcessor]:
    folder = MODELS_FOLDER / name
    return CLIPModel.from_pretrained(
        folder, dtype=torch.float32
    ).eval(), CLIPProcessor.from_pretrained(folder)


def test_every_word_of_the_world_is_one_token_after_reloading(tmp_path: Path) -> None:
    build_tokenizer().save_pretrained(tmp_path)
    for folder in (
        tmp_path,
        *(MODELS_FOLDER / name for name in CLIPS),
        MODELS_FOLDER / "tiny-sd" / "tokenizer",
    ):
        tokenizer = CLIPTokenizer.from_pretrained(folder)
        several = [word for word in VOCABULARY if len(tokenizer(word).input_ids) != 3]
        assert several == [], f"{folder}: not one token between the two marks"
        assert len({tokenizer(word).input_ids[1] for word in VOCABULARY}) == len(VOCABULARY)


def test_words_from_elsewhere_become_bytes_and_are_never_the_end_mark() -> None:
    tokenizer = build_tokenizer()
    ids = tokenizer("Ünïcode 🎈 42%").input_ids
    assert tokenizer.eos_token_id not in ids[1:-1]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "ünïcode 🎈 4 2 %"


def test_manifest_lists_every_file_with_its_size_and_hash(manifest: dict) -> None:
    shipped = {
        str(path.relative_to(MODELS_FOLDER))
        for name in SHIPPED
        for path in (MODELS_FOLDER / name).rglob("*")
        if path.is_file()
    }
    assert set(manifest["files"]) == shipped
    for name, entry in manifest["files"].items():
        assert build.describe(MODELS_FOLDER / name) == entry, name
    assert sum(entry["bytes"] for entry in manifest["files"].values()) < 8e6
    assert manifest["command"] == f"boig tiny-models --out DIR --seed {manifest['seed']}"
    assert manifest["scale"] == 1


def test_recorded_measurements_pass_their_gates(manifest: dict) -> None:
    measured = manifest["measured"]
    fidelity.require_gate(measured["fidelity"])
    for name in CLIPS:
        assert min(measured[name][f"naming_{kind}"] for kind in KINDS) >= 0.9
    assert measured["autoencoder_psnr_db"] >= 26


def test_gate_refuses_and_names_what_is_low() -> None:
    with pytest.raises(TrainingDivergedError, match=r"two_objects 0\.500 \(at least 0\.7\)"):
        fidelity.require_gate({"background": 1.0, "one_object": 0.9, "two_objects": 0.5})


@pytest.mark.parametrize("name", CLIPS)
def test_shipped_clip_names_objects_from_their_crops(name: str, held_out: data.TrainingSet) -> None:
    model, processor = open_clip(name)
    shown_N = held_out.crop_kinds_N != data.NOTHING
    crops = [Image.fromarray(image) for image in held_out.crops_NHWC[shown_N]]
    with torch.no_grad():
        logits_NK = model(
            **processor(text=list(KINDS), images=crops, return_tensors="pt", padding=True)
        ).logits_per_image
    named_N = logits_NK.argmax(dim=1).numpy()
    assert (named_N == held_out.crop_kinds_N[shown_N]).mean() >= 0.93


def test_processor_gives_the_pixels_that_training_saw(held_out: data.TrainingSet) -> None:
    _, processor = open_clip("clip")
    pixels_BCHW = processor(
        images=[Image.fromarray(image) for image in held_out.images_NHWC[:3]], return_tensors="pt"
    )["pixel_values"]
    assert torch.allclose(pixels_BCHW, clip.to_pixels(held_out.images_NHWC[:3]), atol=1e-5)


def test_measurement_reads_colors_off_real_renders_and_misses_a_wrong_color() -> None:
    scene = Scene(
        "yellow",
        None,
        (Thing("star", "blue", "left", "small"), Thing("ball", "red", "right", "large")),
    )
    image_HWC = np.asarray(
        Image.fromarray(render(scene, 128, np.random.default_rng(0)).image).reduce(4)
    )
    assert fidelity.ground_right(image_HWC, scene)
    assert fidelity.colors_right(image_HWC, scene) == 1
    assert all(fidelity.placed_right(image_HWC, thing) for thing in scene.things)
    wrong, absent = Thing("star", "green", "left", "small"), Thing("star", "blue", "top", "small")
    assert not fidelity.placed_right(image_HWC, wrong)
    assert not fidelity.placed_right(image_HWC, absent), "nothing stands there"
    assert fidelity.colors_right(image_HWC, Scene("yellow", None, (wrong, scene.things[1]))) == 0.5
    assert (
        fidelity.colors_right(image_HWC, Scene("yellow", None, (scene.things[0], scene.things[0])))
        == 0.5
    ), "one object serves once"
    assert not fidelity.ground_right(image_HWC, Scene("white", None, scene.things))


def test_training_set_depends_on_seed_and_index_alone() -> None:
    few, more, other = data.draw(3, 5), data.draw(6, 5), data.draw(3, 6)
    assert np.array_equal(few.images_NHWC, more.images_NHWC[:3])
    assert few.captions == more.captions[:3]
    assert not np.array_equal(few.images_NHWC, other.images_NHWC)
    assert few.crop_colors_N.max() < len(OBJECT_COLORS)


@pytest.mark.slow
def test_build_runs_whole_and_again_to_the_same_bits(tmp_path: Path) -> None:
    first, second = (build.build(tmp_path / name, seed=3, scale=0.002) for name in ("a", "b"))
    assert first["files"] == second["files"]
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == [
        "clip",
        "clip-judge",
        "manifest.json",
        "tiny-sd",
    ]
    CLIPModel.from_pretrained(tmp_path / "a" / "clip-judge")
    hashes = {
        entry["sha256"]
        for name, entry in first["files"].items()
        if name.endswith("model.safetensors")
    }
    assert len(hashes) == len(
        [name for name in first["files"] if name.endswith("model.safetensors")]
    ), "judge and clip must differ"


@pytest.mark.parametrize(("seed", "scale"), [(-1, 1.0), (0, 0.0), (0, 1.5)])
def test_build_refuses_bad_arguments_before_it_writes(
    tmp_path: Path, seed: int, scale: float
) -> None:
    with pytest.raises(UserError):
        build.build(tmp_path / "out", seed, scale)
    assert not (tmp_path / "out").exists()
