"""Scenes of the ad world as images: silhouettes of things on a ground, smoothed and a little noisy.

Leaves out: what a scene holds (see `scene`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from boig_core.adworld.scene import CENTERS, KINDS, RADII, RGB, Scene
from boig_core.vocabulary import Box

_NOISE_SIGMA: Final = 2.0


@dataclass(frozen=True)
class Rendering:
    """A drawn scene: ``image`` is uint8 (side, side, 3) RGB; ``boxes`` maps each kind to its box in
    pixels."""

    image: NDArray[np.uint8]
    boxes: dict[str, Box]


def silhouette(
    kind: str, center: tuple[float, float], radius: float, shape: tuple[int, int], scale: int
) -> NDArray[np.float32]:
    """The coverage mask of one object, in [0, 1], shape (height, width), anti-aliased by drawing at
    ``scale`` times the size.

    Args:
        kind: one of `KINDS`.
        center: x and y in pixels of the result.
        radius: in pixels of the result.
        shape: height and width of the result.
        scale: supersampling factor.
    """
    mask = Image.new("L", (shape[1] * scale, shape[0] * scale))
    draw = ImageDraw.Draw(mask)
    # Pillow counts from the middle of a pixel, positions here count from its edge: half a pixel
    # lies between them.
    _draw_kind(draw, kind, center[0] * scale - 0.5, center[1] * scale - 0.5, radius * scale)
    return np.asarray(mask.reduce(scale), np.float32) / np.float32(255)


def _draw_kind(draw: ImageDraw.ImageDraw, kind: str, x: float, y: float, r: float) -> None:
    """Fill the outline of a kind, of radius ``r`` around (x, y)."""

    def disc(dx: float, dy: float, share: float, fill: int) -> None:
        draw.ellipse(
            (
                x + (dx - share) * r,
                y + (dy - share) * r,
                x + (dx + share) * r,
                y + (dy + share) * r,
            ),
            fill=fill,
        )

    def rectangle(half_width: float, half_height: float) -> None:
        draw.rectangle(
            (x - half_width * r, y - half_height * r, x + half_width * r, y + half_height * r),
            fill=255,
        )

    match kind:
        case "ball":
            disc(0, 0, 0.97, 255)
        case "box":
            rectangle(0.84, 0.84)
        case "tent":
            draw.polygon(
                [(x, y - r), (x + 0.95 * r, y + 0.8 * r), (x - 0.95 * r, y + 0.8 * r)], fill=255
            )
        case "star":
            angles = np.pi * (np.arange(10) / 5 - 0.5)
            lengths = np.where(np.arange(10) % 2 == 0, 1.1, 0.4) * r
            draw.polygon(
                [
                    (x + d * float(np.cos(a)), y + d * float(np.sin(a)))
                    for a, d in zip(angles, lengths, strict=True)
                ],
                fill=255,
            )
        case "ring":
            disc(0, 0, 1.0, 255)
            disc(0, 0, 0.52, 0)
        case "cross":
            rectangle(1.0, 0.3)
            rectangle(0.3, 1.0)
        case "moon":
            disc(-0.05, 0, 1.0, 255)
            disc(0.5, 0, 0.85, 0)
        case "bar":
            rectangle(1.0, 0.36)
        case _:
            raise ValueError(f"{kind}: not one of {KINDS}")


def _shade(rng: np.random.Generator, name: str) -> NDArray[np.float32]:
    return np.asarray(RGB[name], np.float32) + rng.uniform(-7, 7, 3).astype(np.float32)


def render(scene: Scene, side: int, rng: np.random.Generator) -> Rendering:
    """Draw a scene, with jitter in position, size and shade and slight noise from ``rng``.

    The jitter is drawn before the noise, so one seed gives one composition at any side.

    Args:
        scene: what to draw.
        side: width and height in pixels, at least 16.
        rng: source of the jitter; the same state gives the same bits.
    """
    top_3, bottom_3 = _shade(rng, scene.background), _shade(rng, scene.gradient or scene.background)
    # Two jittered shades of one color would make a plain background a faint gradient.
    if scene.gradient is None:
        bottom_3 = top_3
    jitters = [
        (rng.uniform(-0.015, 0.015, 2), rng.uniform(0.94, 1.04), _shade(rng, thing.color))
        for thing in scene.things
    ]

    share_H = np.linspace(0, 1, side, dtype=np.float32)
    image_HWC = np.empty((side, side, 3), np.float32)
    image_HWC[:] = (top_3 + share_H[:, None] * (bottom_3 - top_3))[:, None, :]
    # In small images more of an object is edge, and a finer grid costs little there.
    scale = 4 if side <= 64 else 2
    boxes: dict[str, Box] = {}
    for thing, (shift, stretch, shade_3) in zip(scene.things, jitters, strict=True):
        x, y = (float(c + s) * side for c, s in zip(CENTERS[thing.place], shift, strict=True))
        radius = RADII[thing.size] * float(stretch) * side
        # Only a window is blended, since an object covers a small part of the image; 1.1 is the
        # reach of a star, the widest kind.
        x0, y0 = max(0, int(x - 1.1 * radius) - 1), max(0, int(y - 1.1 * radius) - 1)
        x1, y1 = min(side, int(x + 1.1 * radius) + 2), min(side, int(y + 1.1 * radius) + 2)
        mask_HW = silhouette(thing.kind, (x - x0, y - y0), radius, (y1 - y0, x1 - x0), scale)
        patch_HWC = image_HWC[y0:y1, x0:x1]
        patch_HWC += mask_HW[:, :, None] * (shade_3 - patch_HWC)
        rows, columns = (
            np.flatnonzero((mask_HW > 0.5).any(axis=1)),
            np.flatnonzero((mask_HW > 0.5).any(axis=0)),
        )
        boxes[thing.kind] = (
            float(x0 + columns[0]),
            float(y0 + rows[0]),
            float(x0 + columns[-1] + 1),
            float(y0 + rows[-1] + 1),
        )
    image_HWC += rng.standard_normal(image_HWC.shape, dtype=np.float32) * _NOISE_SIGMA
    return Rendering(np.clip(np.rint(image_HWC), 0, 255).astype(np.uint8), boxes)
