"""Detectors for photographs: what Grounding DINO and OWLv2 share once an architecture has looked at
a chunk of images.

A pass is one image with a pack of names; passes run in fixed chunks, the last one filled up, and
images are fitted into one square, so that an image's objects do not depend on its company. Of each
name the surest box stays, which needs no suppression of overlaps. Leaves out: the architectures
(see `grounding_dino` and `owlv2`), which of them (see `describe`), and objects without a trained
detector (see `objects`). Shape letters: Q boxes that a model proposes, N names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from boig_core.perception.objects import Region
from boig_core.perception.pixels import Pixels

Pack = tuple[str, ...]
"""Names that one pass looks for."""
DetectFn = Callable[
    [Sequence[Pixels], Sequence[Pack]], list[tuple[NDArray[np.float32], NDArray[np.float32]]]
]
"""One pass for each image with its pack: scores (Q, N) in [0, 1], and boxes (Q, 4), centers and
sizes in pixels of the image."""


@dataclass(frozen=True)
class BoxFilter:
    """What counts as an object.

    Attributes:
        threshold: lowest score.
        min_area: smallest box, as a share of the image.
        max_objects: at most this many an image, the largest first.
    """

    threshold: float
    min_area: float
    max_objects: int


def detect_in_chunks(
    images: Sequence[Pixels],
    vocabularies: Sequence[Sequence[str]],
    pack: Callable[[Iterable[str]], list[Pack]],
    look: DetectFn,
    rules: BoxFilter,
    chunk: int,
) -> list[list[Region]]:
    """Regions of each image, the largest first, one per name.

    Args:
        images: of any sizes.
        vocabularies: names to look for in each image; None: the image has no object.
        pack: splits names over passes.
        look: runs a chunk of passes.
        rules: what counts.
        chunk: passes at a time.
    """
    # A name is in one pass of an image only, so that one box per name needs no merging afterwards.
    passes = [
        (index, names)
        for index, vocabulary in enumerate(vocabularies)
        for names in pack(dict.fromkeys(vocabulary))
    ]
    regions_of: list[list[Region]] = [[] for _ in images]
    for start in range(0, len(passes), chunk):
        mine = passes[start : start + chunk]
        # Models see one shape alone: with another number of rows last bits may differ, and with
        # them which box is the surest.
        filled = mine + [mine[-1]] * (chunk - len(mine))
        seen = look([images[index] for index, _ in filled], [names for _, names in filled])
        for (index, names), (scores_QN, boxes_Q4) in zip(mine, seen, strict=False):
            regions_of[index] += pick(scores_QN, boxes_Q4, names, images[index].shape[:2], rules)
    return [
        sorted(regions, key=lambda region: (-_area(region), region.name))[: rules.max_objects]
        for regions in regions_of
    ]


def pick(
    scores_QN: NDArray[np.float32],
    boxes_Q4: NDArray[np.float32],
    names: Sequence[str],
    size: tuple[int, ...],
    rules: BoxFilter,
) -> list[Region]:
    """The surest box of each name that is sure and large enough; a box shows the name that it
    scores highest.

    Args:
        scores_QN: in [0, 1].
        boxes_Q4: centers and sizes in pixels.
        names: of the columns.
        size: height and width of the image, where boxes are cut off.
        rules: what counts.
    """
    height, width = size
    # What lies outside of the image is no part of an object, and does not count in its area.
    centers_Q2, reach_Q2 = (
        boxes_Q4[:, :2].astype(np.float64),
        boxes_Q4[:, 2:].astype(np.float64) / 2,
    )
    corners_Q4 = np.concatenate([centers_Q2 - reach_Q2, centers_Q2 + reach_Q2], axis=1).clip(
        0, [width, height, width, height]
    )
    area_Q = (corners_Q4[:, 2:] - corners_Q4[:, :2]).prod(axis=1)
    best_Q, score_Q = scores_QN.argmax(axis=1), scores_QN.max(axis=1)
    # Above and not at the threshold, as transformers' own post-processing has it.
    counts_Q = (score_Q > rules.threshold) & (area_Q >= rules.min_area * height * width)
    regions = []
    for column in sorted(set(best_Q[counts_Q].tolist())):
        surest = int(np.where(counts_Q & (best_Q == column), score_Q, -1).argmax())
        x1, y1, x2, y2 = corners_Q4[surest].tolist()
        regions.append(Region(names[column], (x1, y1, x2, y2), float(score_Q[surest])))
    return regions


def _area(region: Region) -> float:
    x1, y1, x2, y2 = region.box
    return (x2 - x1) * (y2 - y1)
