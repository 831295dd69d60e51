"""The perception of the tiny recipe against the ad world's truth: what the loop on two cores stands
on."""

import numpy as np

from boig_core.adworld.drawing import render
from boig_core.adworld.scene import sample_scene
from boig_core.config import load_recipe
from boig_core.data.imaging.images import resize
from boig_core.perception.describe import Perceiver

SCENES = 240


def test_colors_and_kinds_of_real_renders() -> None:
    perceiver = Perceiver.from_recipe(load_recipe("tiny").perception)
    scenes, images = [], []
    for i in range(SCENES):
        rng = np.random.default_rng([23, i])
        scenes.append(sample_scene(rng))
        images.append(resize(render(scenes[-1], 128, rng).image, 32))
    seen = perceiver.describe(images)

    overlaps = []
    for scene, description in zip(scenes, seen, strict=True):
        if scene.gradient is None:  # a gradient passes through colors that nobody named
            truth = {
                name.capitalize()
                for name in (scene.background, *(thing.color for thing in scene.things))
            }
            overlaps.append(
                len(truth & description.colors.keys()) / len(truth | description.colors.keys())
            )
    assert np.mean(overlaps) > 0.97

    things = [
        (thing.kind, description)
        for scene, description in zip(scenes, seen, strict=True)
        for thing in scene.things
    ]
    assert np.mean([kind in description.objects for kind, description in things]) > 0.97
