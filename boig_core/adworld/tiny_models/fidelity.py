"""Does a tiny Stable Diffusion draw what its prompt says? Background and object colors, read from
pixels.

Prompts name everything. Colors are gated wherever the object stands; whether it stands at its named
place too is reported beside. The same measurement on real renders is its ceiling. Kinds are
naming's matter (`boig_core.perception`), likes the `oracle`'s. Shape letters: B batch, H height, W
width, C channels.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from boig_core.adworld.drawing import render
from boig_core.adworld.scene import (
    BRANDS,
    CENTERS,
    OBJECT_COLORS,
    RADII,
    RGB,
    SEASONS,
    Scene,
    Thing,
    full_caption,
    sample_scene,
)
from boig_core.adworld.tiny_models.data import DRAWN_SIDE, SIDE
from boig_core.errors import TrainingDivergedError

GATE: Final = {"background": 0.95, "one_object": 0.80, "two_objects": 0.70}
GUIDANCE: Final = 3.0
STEPS: Final = 20
_CONTRAST: Final = 45.0
"""RGB distance from the background above which a pixel belongs to an object; real objects keep at
least 100 in the middle."""
_RGB_P3: Final = np.array([RGB[name] for name in OBJECT_COLORS], np.float32)


def fidelity(pipe: Any, n: int, seed: int = 7) -> dict[str, float]:
    """Measure ``n`` generated images each of one and of two objects on plain backgrounds, and ``n``
    on gradients.

    Args:
        pipe: a `StableDiffusionPipeline` of 32 px.
        n: images a group; the standard error of a share is at most 0.5 / sqrt(n).
        seed: of scenes, prompts and noise.

    Returns:
        Shares in [0, 1]: ``background`` (plain), ``gradient`` (both ends right), ``one_object`` and
        ``two_objects`` (colors of the objects right), the two with ``_placed`` (right color at the
        right place), and all of it for real renders under ``on_renders_...``.
    """
    result: dict[str, float] = {}
    for origin in ("", "on_renders_"):
        grounds: list[bool] = []
        for name, count, plain in (
            ("one_object", 1, True),
            ("two_objects", 2, True),
            ("gradient", 1, False),
        ):
            scenes, prompts = sample_prompts(n, seed, count, plain)
            # The same scenes for both, so that a difference from the ceiling is the model's.
            images_BHWC = _renders(scenes, seed) if origin else generate(pipe, prompts, seed)
            pairs = list(zip(images_BHWC, scenes, strict=True))
            ground_B = [ground_right(image, scene) for image, scene in pairs]
            if not plain:
                result[origin + name] = round(float(np.mean(ground_B)), 4)
                continue
            grounds += ground_B
            result[origin + name] = round(
                float(np.mean([colors_right(image, scene) for image, scene in pairs])), 4
            )
            placed = [
                placed_right(image, thing) for image, scene in pairs for thing in scene.things
            ]
            result[f"{origin}{name}_placed"] = round(float(np.mean(placed)), 4)
        result[origin + "background"] = round(float(np.mean(grounds)), 4)
    return result


def require_gate(measured: dict[str, float]) -> None:
    """Refuse a model below `GATE`.

    Raises:
        TrainingDivergedError: naming what is too low.
    """
    low = [
        f"{name} {measured[name]:.3f} (at least {least})"
        for name, least in GATE.items()
        if measured[name] < least
    ]
    if low:
        raise TrainingDivergedError(
            ", ".join(low),
            "the tiny diffusion model misses its fidelity gate",
            "train longer or with another seed",
        )


def sample_prompts(n: int, seed: int, count: int, plain: bool) -> tuple[list[Scene], list[str]]:
    """``n`` scenes of ``count`` objects, on plain backgrounds or on gradients, with captions that
    name everything."""
    # A stream for each group: one group's scenes do not depend on how many another one has drawn.
    rng = np.random.default_rng([seed, count, plain])
    scenes: list[Scene] = []
    while len(scenes) < n:
        scene = sample_scene(rng)
        if len(scene.things) == count and (scene.gradient is None) == plain:
            scenes.append(scene)
    offers = [
        (BRANDS[int(rng.integers(len(BRANDS)))], SEASONS[int(rng.integers(len(SEASONS)))])
        for _ in scenes
    ]
    return scenes, [
        full_caption(scene, *offer, rng, 0.0) for scene, offer in zip(scenes, offers, strict=True)
    ]


def generate(
    pipe: Any, prompts: list[str], seed: int, guidance: float = GUIDANCE, steps: int = STEPS
) -> NDArray[np.uint8]:
    """Sample one uint8 image per prompt, ``images_BHWC``, with deterministic DDIM."""
    noise = torch.Generator().manual_seed(seed)
    images = []
    for i in range(0, len(prompts), 64):
        drawn = pipe(
            prompts[i : i + 64],
            num_inference_steps=steps,
            guidance_scale=guidance,
            generator=noise,
            output_type="np",
        ).images
        images.append(np.rint(drawn * 255).astype(np.uint8))
    return np.concatenate(images)


def _renders(scenes: list[Scene], seed: int) -> NDArray[np.uint8]:
    rng = np.random.default_rng(seed)
    factor = DRAWN_SIDE // SIDE
    drawn = np.stack([render(scene, DRAWN_SIDE, rng).image for scene in scenes])
    # Averaged down from the larger size, as training images are: drawn small at once, edges would
    # differ.
    means_BHWC = drawn.reshape(len(scenes), SIDE, factor, SIDE, factor, 3).mean(axis=(2, 4))
    images_BHWC: NDArray[np.uint8] = np.rint(means_BHWC).astype(np.uint8)
    return images_BHWC


def nearest(rgb_3: NDArray[Any]) -> str:
    """The name of the world's color nearest to an RGB value in 0..255."""
    return OBJECT_COLORS[int(np.linalg.norm(_RGB_P3 - rgb_3, axis=1).argmin())]


def ground_right(image_HWC: NDArray[np.uint8], scene: Scene) -> bool:
    """Whether the outermost pixels have the background's color: all round for a plain one, top and
    bottom for a gradient."""
    if scene.gradient is None:
        edge_P3 = np.concatenate([image_HWC[0], image_HWC[-1], image_HWC[:, 0], image_HWC[:, -1]])
        return nearest(np.median(edge_P3, axis=0)) == scene.background
    return (
        nearest(np.median(image_HWC[0], axis=0)),
        nearest(np.median(image_HWC[-1], axis=0)),
    ) == (scene.background, scene.gradient)


def colors_right(image_HWC: NDArray[np.uint8], scene: Scene) -> float:
    """Share of the scene's objects whose color some object in the image has; no object in the image
    serves twice."""
    contrast_HW = _contrast(image_HWC)
    # Corners connect too, and fewer than 4 pixels are no object: the edge of an object must not
    # count as a second one, whose color would be a mixture.
    labels_HW, count = ndimage.label(contrast_HW > _CONTRAST, structure=np.ones((3, 3)))
    matches = [
        _color(image_HWC, contrast_HW * (labels_HW == label))
        for label in range(1, count + 1)
        if (labels_HW == label).sum() >= 4
    ]
    hits = 0
    for thing in scene.things:
        if thing.color in matches:
            # A color that was found is used up, else one object would answer for two.
            matches.remove(thing.color)
            hits += 1
    return hits / len(scene.things)


def placed_right(image_HWC: NDArray[np.uint8], thing: Thing) -> bool:
    """Whether what stands out from the background round the thing's place has the thing's color;
    for plain backgrounds."""
    side = len(image_HWC)
    x, y = (share * side for share in CENTERS[thing.place])
    # One pixel more than the radius: renders jitter in position and size.
    reach = RADII[thing.size] * side + 1
    window_HW = np.zeros((side, side), bool)
    window_HW[
        max(0, int(y - reach)) : int(y + reach) + 1, max(0, int(x - reach)) : int(x + reach) + 1
    ] = True
    contrast_HW = _contrast(image_HWC) * window_HW
    return bool(contrast_HW.max() >= _CONTRAST) and _color(image_HWC, contrast_HW) == thing.color


def _contrast(image_HWC: NDArray[np.uint8]) -> NDArray[np.float32]:
    """RGB distance of each pixel from the border's median color, ``contrast_HW``."""
    edge_P3 = np.concatenate([image_HWC[0], image_HWC[-1], image_HWC[:, 0], image_HWC[:, -1]])
    contrast_HW: NDArray[np.float32] = np.linalg.norm(
        image_HWC.astype(np.float32) - np.median(edge_P3, axis=0), axis=2
    ).astype(np.float32)
    return contrast_HW


def _color(image_HWC: NDArray[np.uint8], contrast_HW: NDArray[np.float32]) -> str:
    """Color of an object: that of its pixels of most contrast, for its blurred edges mix with the
    background."""
    return nearest(np.median(image_HWC[contrast_HW > 0.7 * contrast_HW.max()], axis=0))
