"""The judge: the law evaluated on any image, real or generated, by measuring its pixels.

It shares no code with `boig_core.perception`, on which models are trained: the background is a
robust linear gradient, objects are what differs from it, kinds are recognized by their silhouettes.
A kind that is not recognized is neutral. No training stage, monitor or checkpoint choice may read
it; it scores afterwards. Left out: backgrounds other than vertical gradients, which are read as
their best fit.

Shape letters: H height, W width, C the three RGB channels, N pixels, T templates.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from boig_core.adworld.drawing import render, silhouette
from boig_core.adworld.features import (
    GRADIENT_DISTANCE,
    UNKNOWN,
    Features,
    background_shares,
    nearest_names,
    of_scene,
    tone_shares,
)
from boig_core.adworld.law import Law
from boig_core.adworld.scene import (
    BRANDS,
    CENTERS,
    KINDS,
    OBJECT_COLORS,
    RADII,
    SEASONS,
    Thing,
    sample_scene,
)
from boig_core.errors import InputError
from boig_core.vocabulary import Box

_MIN_SIDE: Final = 16
# RGB distance from the background that makes a pixel part of an object; half of what scenes keep
_OBJECT_DISTANCE: Final = 48.0
_MIN_AREA: Final = 0.008  # share of the image; the smallest kind, a small moon, covers about 0.02
_MAX_AREA: Final = 0.35  # anything larger is a background that the gradient does not explain
_CANVAS: Final = 24
_MIN_MATCH: Final = 0.62  # soft IOU with the best silhouette, below which a kind is unknown


@dataclass(frozen=True)
class OracleReading:
    """What the oracle read off an image: its features, and the box of each object in pixels, in the
    order of ``features.things``."""

    features: Features
    boxes: tuple[Box, ...]


def _fit_background(
    image_HWC: NDArray[np.float32],
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Top and bottom RGB of the linear vertical gradient behind the objects, started at the corners
    and refined on what agrees."""
    height, width, _ = image_HWC.shape
    # Objects stand at the center or at the middle of a side, so the corners show nothing but
    # background.
    corner = max(2, min(height, width) // 8)
    outer_HC = np.concatenate([image_HWC[:, :corner], image_HWC[:, -corner:]], axis=1)
    top_3, bottom_3 = (
        np.median(outer_HC[:corner], axis=(0, 1)),
        np.median(outer_HC[-corner:], axis=(0, 1)),
    )
    share_H = np.linspace(0, 1, height, dtype=np.float32)
    # Loose at first: corners are near the ends of a gradient, not at them. Then tight, so that
    # edges of objects drop out.
    for limit in (60.0, 35.0, 35.0):
        model_HC = top_3 + share_H[:, None] * (bottom_3 - top_3)
        inlier_HW = np.linalg.norm(image_HWC - model_HC[:, None], axis=-1) < limit
        # So few pixels that no gradient explains the image: a fit would follow an object.
        if inlier_HW.mean() < 0.2:
            break
        rows = np.nonzero(inlier_HW)[0]
        design_N2 = np.stack([1 - share_H[rows], share_H[rows]], axis=1)
        top_3, bottom_3 = np.linalg.solve(
            design_N2.T @ design_N2 + 1e-3 * np.eye(2), design_N2.T @ image_HWC[inlier_HW]
        )
    return np.clip(top_3, 0, 255).astype(np.float32), np.clip(bottom_3, 0, 255).astype(np.float32)


def _normalized(mask_HW: NDArray[np.float32]) -> tuple[NDArray[np.float32], Box]:
    """A soft mask fitted into a fixed canvas with its aspect kept, and the box (pixels) in which it
    exceeds one half."""
    rows, columns = (
        np.flatnonzero((mask_HW > 0.5).any(axis=1)),
        np.flatnonzero((mask_HW > 0.5).any(axis=0)),
    )
    x0, x1, y0, y1 = columns[0], columns[-1] + 1, rows[0], rows[-1] + 1
    half = max(x1 - x0, y1 - y0) / 2 + 0.5
    middle = ((x0 + x1) / 2, (y0 + y1) / 2)
    # Image.transform reads zeros outside of the mask, so an object at the border needs no special
    # case.
    scale = 2 * half / _CANVAS
    picture = Image.fromarray(mask_HW).transform(
        (_CANVAS, _CANVAS),
        Image.Transform.AFFINE,
        (scale, 0, middle[0] - half, 0, scale, middle[1] - half),
        Image.Resampling.BILINEAR,
    )
    return np.asarray(picture, np.float32), (float(x0), float(y0), float(x1), float(y1))


@cache
def _templates() -> tuple[tuple[str, ...], NDArray[np.float32], dict[str, float]]:
    """Kind of each template, templates (T, canvas, canvas), and each kind's extent: half its longer
    box side over its radius."""
    kinds, canvases, extents = [], [], {}
    for kind in KINDS:
        # Radii of small and large objects at 32 pixels, then of larger images. At the smallest,
        # half a pixel of offset changes the shape, so it has a template.
        for radius, offset in ((4.2, 0.0), (4.2, 0.5), (6.0, 0.25), (12.0, 0.0), (24.0, 0.0)):
            size = int(2.4 * radius) + 4
            mask_HW = silhouette(
                kind, (size / 2 + offset, size / 2 + offset), radius, (size, size), 4
            )
            canvas, (x0, y0, x1, y1) = _normalized(mask_HW)
            kinds.append(kind)
            canvases.append(canvas)
            # Overwritten by each radius: that of the largest stays, which whole pixels distort
            # least.
            extents[kind] = max(x1 - x0, y1 - y0) / 2 / radius
    return tuple(kinds), np.stack(canvases), extents


def _kind_of(canvas: NDArray[np.float32]) -> str:
    kinds, templates_THW, _ = _templates()
    both_T = np.minimum(templates_THW, canvas).sum(axis=(1, 2))
    match_T = both_T / np.maximum(templates_THW, canvas).sum(axis=(1, 2))
    best = int(match_T.argmax())
    # Below the limit a guess would add a kind's likes by chance; an unknown kind adds none.
    return kinds[best] if match_T[best] >= _MIN_MATCH else UNKNOWN


def _read_object(
    image_HWC: NDArray[np.float32],
    behind_HWC: NDArray[np.float32],
    part_HW: NDArray[np.bool_],
    others_HW: NDArray[np.bool_],
) -> tuple[Thing, Box]:
    """One connected object: color by its purest pixels, soft mask by how far each pixel goes from
    background to that color."""
    height, width = part_HW.shape
    away_HW = np.linalg.norm(image_HWC - behind_HWC, axis=-1)
    # Pixels at the edge are mixed with the background. Where an object is too small to have others,
    # its farthest pixels from the background stand in.
    inner_HW = ndimage.binary_erosion(part_HW)
    core_HW = (
        inner_HW
        if inner_HW.sum() >= 4
        else part_HW & (away_HW >= np.quantile(away_HW[part_HW], 0.6))
    )
    color_3 = np.median(image_HWC[core_HW], axis=0)
    line_HWC = color_3 - behind_HWC
    alpha_HW = ((image_HWC - behind_HWC) * line_HWC).sum(axis=-1) / np.maximum(
        (line_HWC**2).sum(axis=-1), 1.0
    )
    # One pixel more, because the soft edge lies outside the threshold; never a neighbor's pixels,
    # which would change the outline.
    near_HW = ndimage.binary_dilation(part_HW) & ~others_HW
    mask_HW = np.where(near_HW, np.clip(alpha_HW, 0, 1), 0).astype(np.float32)
    # A mask without a pixel above one half has no box.
    if not (mask_HW > 0.5).any():
        mask_HW = part_HW.astype(np.float32)
    canvas, box = _normalized(mask_HW)
    kind = _kind_of(canvas)
    radius = (
        max(box[2] - box[0], box[3] - box[1])
        / 2
        # Boxes of kinds differ at one radius, so the size is read off after the kind.
        / _templates()[2].get(kind, 1.0)
        / max(height, width)
    )
    middle = np.array([(box[0] + box[2]) / 2 / width, (box[1] + box[3]) / 2 / height])
    place = min(CENTERS, key=lambda name: float(np.linalg.norm(middle - CENTERS[name])))
    size = min(RADII, key=lambda name: abs(RADII[name] - radius))
    color = OBJECT_COLORS[int(nearest_names(color_3[None].astype(np.float32))[0])]
    return Thing(kind, color, place, size), box


def measure(image_HWC: NDArray[np.uint8]) -> OracleReading:
    """Read an image's features off its pixels.

    Args:
        image_HWC: uint8 RGB, both sides at least 16 pixels.

    Raises:
        InputError: another shape or type.
    """
    if (
        image_HWC.dtype != np.uint8
        or image_HWC.ndim != 3
        or image_HWC.shape[2] != 3
        or min(image_HWC.shape[:2]) < _MIN_SIDE
    ):
        rule = f"must be uint8 RGB of at least {_MIN_SIDE} x {_MIN_SIDE} pixels"
        raise InputError(
            f"image of shape {image_HWC.shape} and type {image_HWC.dtype}",
            rule,
            "convert the image before it is judged",
        )
    pixels_HWC = image_HWC.astype(np.float32)
    height = pixels_HWC.shape[0]
    top_3, bottom_3 = _fit_background(pixels_HWC)
    share_H = np.linspace(0, 1, height, dtype=np.float32)
    behind_HWC = np.broadcast_to(
        (top_3 + share_H[:, None] * (bottom_3 - top_3))[:, None], pixels_HWC.shape
    )
    object_HW = np.linalg.norm(pixels_HWC - behind_HWC, axis=-1) > _OBJECT_DISTANCE
    labels_HW, count = ndimage.label(object_HW)
    areas = np.bincount(labels_HW.ravel(), minlength=count + 1)[1:] / labels_HW.size
    # Specks of noise would count as objects, and a law's shares are divided by the number of
    # objects.
    parts = [label for label in range(1, count + 1) if _MIN_AREA <= areas[label - 1] <= _MAX_AREA]
    read = [
        _read_object(pixels_HWC, behind_HWC, labels_HW == label, object_HW & (labels_HW != label))
        for label in parts
    ]
    features = Features(
        background=background_shares(top_3, bottom_3),
        tones=tone_shares(pixels_HWC.reshape(-1, 3)),
        # A float, so that the comparison gives Python's bool: the law compares by identity.
        gradient=float(np.linalg.norm(bottom_3 - top_3)) > GRADIENT_DISTANCE,
        things=tuple(thing for thing, _ in read),
    )
    return OracleReading(features, tuple(box for _, box in read))


@dataclass(frozen=True)
class Oracle:
    """The judge of images under one law."""

    law: Law

    def judge(
        self,
        images: Sequence[NDArray[np.uint8]],
        brands: Sequence[str],
        seasons: Sequence[str],
        texts: Sequence[str] | None = None,
    ) -> NDArray[np.float64]:
        """Expected log-likes of each image above its account's level; as many numbers as images.

        Args:
            images: uint8 RGB arrays (height, width, 3), sizes may differ.
            brands: of `BRANDS`, one per image.
            seasons: of `SEASONS`, one per image.
            texts: of the posts, one per image, for a law that looks at them; None: every image is
                on topic.

        Raises:
            InputError: counts that differ, an unknown brand or season, or an image that is not
                uint8 RGB.
        """
        if not len(images) == len(brands) == len(seasons):
            counts = f"{len(images)} images, {len(brands)} brands, {len(seasons)} seasons"
            raise InputError(
                counts, "must be as many of each", "pass one brand and one season with each image"
            )
        for value, allowed in ((set(brands), BRANDS), (set(seasons), SEASONS)):
            if not value <= set(allowed):
                unknown = ", ".join(sorted(value - set(allowed)))
                raise InputError(
                    unknown,
                    f"must be one of {', '.join(allowed)}",
                    "only posts of the ad world can be judged",
                )
        seen = [measure(image).features for image in images]
        scores = [
            self.law.score(features, b, s)
            for features, b, s in zip(seen, brands, seasons, strict=True)
        ]
        if texts is not None:
            scores = [
                s + self.law.off_topic * off_topic(f, text)
                for s, f, text in zip(scores, seen, texts, strict=True)
            ]
        return np.array(scores, np.float64)


def off_topic(features: Features, text: str) -> bool:
    """Whether an image shows none of the kinds that a text names; False where it names none."""
    named = set(KINDS) & set(re.findall(r"\w+", text.lower()))
    return bool(named) and named.isdisjoint(thing.kind for thing in features.things)


def agreement(law: Law, side: int, images: int = 500, seed: int = 0) -> float:
    """Pearson correlation, on real renders, of the oracle's score with the law's on the true scene;
    what the judge is worth."""
    rng = np.random.default_rng(seed)
    scenes = [sample_scene(rng) for _ in range(images)]
    brands = [BRANDS[int(i)] for i in rng.integers(len(BRANDS), size=images)]
    seasons = [SEASONS[int(i)] for i in rng.integers(len(SEASONS), size=images)]
    judged = Oracle(law).judge(
        [render(scene, side, rng).image for scene in scenes], brands, seasons
    )
    true = [
        law.score(of_scene(scene), brand, season)
        for scene, brand, season in zip(scenes, brands, seasons, strict=True)
    ]
    return float(np.corrcoef(judged, true)[0, 1])
