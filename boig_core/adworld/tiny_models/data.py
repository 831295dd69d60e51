"""What the tiny models learn from: law-independent scenes with captions, and crops of single
objects, all at 32 px.

Scenes are drawn at 128 px and box-averaged to 32 px, as a real image reaches the diffusion model.
Crops come from both sizes, so that an object can be named on a real image and on a generated one.
Everything is made in advance, as uint8 in memory; no file is written. Shape letters: N scenes, K
captions a scene, L tokens, H height, W width, C channels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from boig_core.adworld.drawing import render
from boig_core.adworld.scene import (
    BRANDS,
    KINDS,
    OBJECT_COLORS,
    SEASONS,
    Scene,
    Thing,
    full_caption,
    post_text,
    sample_scene,
)
from boig_core.vocabulary import Box

SIDE: Final = 32
"""Pixels a side of what the tiny models see and draw."""
DRAWN_SIDE: Final = 128
NOTHING: Final = -1
"""The kind of a crop without an object."""

_DROPS: Final = (0.0, 0.0, 0.3, 0.6)
_POSTS: Final = 2
_EMPTY_SHARE: Final = 0.15


@dataclass(frozen=True)
class TrainingSet:
    """Images, captions and crops.

    Attributes:
        images_NHWC: uint8 scenes.
        captions: K captions a scene: first the full ones (attributes dropped with chance 0, 0, 0.3,
            0.6), then two post texts.
        crops_NHWC: uint8, one crop a scene.
        crop_kinds_N, crop_colors_N: what the crop shows, as indices of `KINDS` and `OBJECT_COLORS`;
            `NOTHING` for background alone.
        scenes: the truth of each image.
    """

    images_NHWC: NDArray[np.uint8]
    captions: list[list[str]]
    crops_NHWC: NDArray[np.uint8]
    crop_kinds_N: NDArray[np.int64]
    crop_colors_N: NDArray[np.int64]
    scenes: list[Scene]


def draw(
    count: int, seed: int, advance: Callable[[], None] = lambda: None, squares: float = 0.75
) -> TrainingSet:
    """Draw ``count`` scenes; scene i depends on ``seed`` and i alone.

    Args:
        count: of scenes.
        seed: of everything.
        advance: called after each scene.
        squares: share of crops cut as a square window. The others stretch their box, which makes a
            bar look like a box: they are for training, so that stretching does little harm to the
            other kinds; naming is measured on squares.
    """
    images_NHWC = np.empty((count, SIDE, SIDE, 3), np.uint8)
    crops_NHWC = np.empty((count, SIDE, SIDE, 3), np.uint8)
    kinds_N, colors_N = np.full(count, NOTHING, np.int64), np.full(count, NOTHING, np.int64)
    captions, scenes = [], []
    for i in range(count):
        rng = np.random.default_rng([seed, i])
        scene = sample_scene(rng)
        rendering = render(scene, DRAWN_SIDE, rng)
        large = Image.fromarray(rendering.image)
        small = large.reduce(DRAWN_SIDE // SIDE)
        images_NHWC[i] = np.asarray(small)
        seen, factor = (large, 1.0) if rng.random() < 0.5 else (small, SIDE / DRAWN_SIDE)
        thing = (
            scene.things[int(rng.integers(len(scene.things)))]
            if rng.random() >= _EMPTY_SHARE
            else None
        )
        crops_NHWC[i] = crop(seen, _window(thing, rendering.boxes, rng, squares), factor)
        if thing is not None:
            kinds_N[i], colors_N[i] = KINDS.index(thing.kind), OBJECT_COLORS.index(thing.color)
        captions.append(_captions(scene, rng))
        scenes.append(scene)
        advance()
    return TrainingSet(images_NHWC, captions, crops_NHWC, kinds_N, colors_N, scenes)


def _captions(scene: Scene, rng: np.random.Generator) -> list[str]:
    offers = [
        (BRANDS[int(rng.integers(len(BRANDS)))], SEASONS[int(rng.integers(len(SEASONS)))])
        for _ in range(len(_DROPS) + _POSTS)
    ]
    full = [
        full_caption(scene, *offer, rng, drop) for offer, drop in zip(offers, _DROPS, strict=False)
    ]
    return full + [post_text(scene, *offer, rng) for offer in offers[len(_DROPS) :]]


def _window(
    thing: Thing | None, boxes: dict[str, Box], rng: np.random.Generator, squares: float
) -> Box:
    """A window of the drawn image round ``thing``, as loose as a region finder's boxes are; away
    from every object for None."""
    if thing is not None:
        x1, y1, x2, y2 = boxes[thing.kind]
        if rng.random() < squares:
            half = max(x2 - x1, y2 - y1) / 2
            x, y = (x1 + x2) / 2, (y1 + y2) / 2
            x1, y1, x2, y2 = x - half, y - half, x + half, y + half
        left, up, right, down = (
            # Left, up, right, down: shares of width and height by turns, slightly inside the box to
            # well outside.
            rng.uniform(-0.04, 0.3, 4) * np.repeat([x2 - x1, y2 - y1], 2)[[0, 2, 1, 3]]
        )
        return x1 - left, y1 - up, x2 + right, y2 + down
    for _ in range(20):
        side = rng.uniform(0.15, 0.4) * DRAWN_SIDE
        x, y = rng.uniform(0, DRAWN_SIDE - side, 2)
        if all(
            x + side < x1 or x > x2 or y + side < y1 or y > y2 for x1, y1, x2, y2 in boxes.values()
        ):
            return x, y, x + side, y + side
    # Where chance finds no free place: no object reaches a corner.
    return 0.0, 0.0, 8.0, 8.0


def crop(image: Image.Image, window: Box, factor: float = 1.0) -> NDArray[np.uint8]:
    """Cut ``window`` (times ``factor``), clipped to the image, and stretch it to uint8 (SIDE, SIDE,
    3)."""
    x1, y1, x2, y2 = (value * factor for value in window)
    bounds = (max(0.0, x1), max(0.0, y1), min(float(image.width), x2), min(float(image.height), y2))
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BILINEAR, box=bounds))


def tokenize(tokenizer: Any, captions: list[list[str]]) -> NDArray[np.int64]:
    """Token ids ``ids_NKL``, padded to the tokenizer's length."""
    flat = [caption for row in captions for caption in row]
    encoded = tokenizer(
        flat,
        padding="max_length",
        max_length=tokenizer.model_max_length,
        truncation=True,
        return_tensors="np",
    )
    ids_NKL: NDArray[np.int64] = np.asarray(encoded["input_ids"], np.int64).reshape(
        len(captions), len(captions[0]), -1
    )
    return ids_NKL
