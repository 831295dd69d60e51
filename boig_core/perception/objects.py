"""Objects of images: regions that stand out from the background, each named by a zero-shot CLIP on
its own crop.

`SalientRegions` needs no trained detector: the background is a color that changes linearly over the
image, fitted robustly to the border; what differs from it hangs together in regions. Names come
from the pixels of the region alone, never from a caption or prompt, so that generated images are
seen with the same eyes as real ones. Detectors for photographs stand behind the same
`ObjectDetector`.

Shape letters: B images, H height, W width, C = 3 channels, N pixels, R regions, K kinds, D
embedding, F = 3 terms of the background.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Final, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from boig_core.errors import InputError
from boig_core.perception.colors import to_oklab
from boig_core.vocabulary import Box

UNKNOWN: Final = "unknown"

_MARGIN: Final = 0.12
"""Room around a region in its crop, as a share of the region's longer side."""
_DIFFERENCE: Final = 0.055
"""OKLab distance from which a pixel does not belong to the background; JPEG noise stays below
0.03."""
_BODY: Final = 0.5
"""Pixels that differ less than this share of their region's strongest pixel are its blurred rim."""
_NEIGHBORS: Final = np.stack(
    [np.zeros((3, 3), bool), ndimage.generate_binary_structure(2, 1), np.zeros((3, 3), bool)]
)
_ROUNDS: Final = 6
_SCALE: Final = 12.0  # RGB levels: residuals above about twice this barely count in the fit


@dataclass(frozen=True)
class Region:
    """One object: its ``name``, its ``box`` in pixels of the image that was looked at, and how sure
    the name is, in [0, 1]."""

    name: str
    box: Box
    confidence: float


class ObjectDetector(Protocol):
    """Finds and names objects, a whole batch at a time, because that is what a GPU and a reward
    loop want."""

    @property
    def wants_originals(self) -> bool:
        """Whether `detect` gets images as they came, of any sizes, or brought to the measured
        square: small details need the former."""
        ...

    def detect(
        self,
        images: Sequence[NDArray[np.uint8]],
        vocabularies: Sequence[Sequence[str]] | None = None,
    ) -> list[list[Region]]:
        """Regions of each image, the largest first, boxes in pixels of that image.

        Args:
            images: uint8 RGB, each (H, W, 3).
            vocabularies: names to look for in each image; None: the detector's own, the same for
                every image. Always the caller's to give, so that a real image and a generated one
                are asked for the same names.
        """
        ...


class Namer(Protocol):
    """Names crops out of a fixed list, the same for every image."""

    def name(self, crops: Sequence[Image.Image]) -> list[tuple[str, float]]:
        """Best name and its probability, for each crop; `UNKNOWN` when no name is likely enough."""
        ...


@dataclass(frozen=True)
class SalientRegions:
    """Model-free regions, named by ``namer``; without one every region is `UNKNOWN`.

    Attributes:
        namer: names the crops.
        min_area: smallest region, as a share of the image.
        max_objects: at most this many regions an image, the largest first.
    """

    namer: Namer | None
    min_area: float
    max_objects: int

    wants_originals: ClassVar[bool] = False

    def detect(
        self,
        images: Sequence[NDArray[np.uint8]],
        vocabularies: Sequence[Sequence[str]] | None = None,
    ) -> list[list[Region]]:
        """Regions of each image, the largest first; images are all of one size.

        Raises:
            InputError: vocabularies, which a namer with its own kinds cannot follow.
        """
        if vocabularies is not None:
            raise InputError(
                "perception.detector = salient",
                "names out of perception.kinds alone",
                "use grounding_dino or owlv2",
            )
        if len(images) == 0:
            return []
        images_BHWC = np.stack(images)
        boxes = find_regions(images_BHWC, self.min_area, self.max_objects)
        crops = [
            cut(image_HWC, box)
            for image_HWC, regions in zip(images_BHWC, boxes, strict=True)
            for box in regions
        ]
        named = iter(
            self.namer.name(crops) if self.namer is not None else [(UNKNOWN, 0.0)] * len(crops)
        )
        return [
            [Region(name, box, sure) for box, (name, sure) in zip(regions, named, strict=False)]
            for regions in boxes
        ]


def find_regions(
    images_BHWC: NDArray[np.uint8], min_area: float, max_objects: int
) -> list[list[Box]]:
    """Boxes of what stands out from the background, in pixels, the largest region first.

    Args:
        images_BHWC: uint8 images, all of one size.
        min_area: smallest region, as a share of the image.
        max_objects: at most this many an image.
    """
    count, height, width, _ = images_BHWC.shape
    # Rounded to levels, since OKLab is looked up by them.
    background_BHWC = np.clip(np.rint(fit_background(images_BHWC)), 0, 255).astype(np.uint8)
    difference_BHW = np.sqrt(
        ((to_oklab(images_BHWC) - to_oklab(background_BHWC)) ** 2).sum(axis=-1)
    )
    # One labeling for the whole batch: pixels hang together within an image, never across images.
    labels_BHW, total = ndimage.label(difference_BHW > _DIFFERENCE, _NEIGHBORS)
    strongest_R = np.zeros(total + 1, np.float32)
    np.maximum.at(strongest_R, labels_BHW.ravel(), difference_BHW.ravel())
    # Again without the blurred rims, which join objects that stand close.
    body_BHW = (labels_BHW > 0) & (difference_BHW >= _BODY * strongest_R[labels_BHW])
    labels_BHW, total = ndimage.label(body_BHW, _NEIGHBORS)
    areas_R = np.bincount(labels_BHW.ravel(), minlength=total + 1)
    regions_of: list[list[tuple[int, Box]]] = [[] for _ in range(count)]
    for label, where in enumerate(ndimage.find_objects(labels_BHW), start=1):
        if where is not None and areas_R[label] >= min_area * height * width:
            image, rows, columns = where
            box = (float(columns.start), float(rows.start), float(columns.stop), float(rows.stop))
            regions_of[image.start].append((int(areas_R[label]), box))
    return [
        [
            box
            for _, box in sorted(regions, key=lambda region: (-region[0], region[1]))[:max_objects]
        ]
        for regions in regions_of
    ]


def fit_background(images_BHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Each image's background as color = a + b x + c y per channel, (B, H, W, C), RGB levels as
    floats.

    Fitted to the two outermost pixels all around, by least squares reweighted so that objects that
    reach the border lose their say.
    """
    _, height, width, _ = images_BHWC.shape
    y_HW, x_HW = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    terms_NF = np.stack([np.ones(height * width), x_HW.ravel(), y_HW.ravel()], axis=1).astype(
        np.float32
    )
    border_HW = np.ones((height, width), bool)
    border_HW[2:-2, 2:-2] = False
    seen_NF = terms_NF[border_HW.ravel()]
    seen_BNC = images_BHWC[:, border_HW].astype(np.float32)
    # The median color is a safe start: as long as most of the border is background, so is the
    # median.
    residual_BNC = seen_BNC - np.median(seen_BNC, axis=1, keepdims=True)
    # Wide at first and then narrower: where the background changes over the image, much of it lies
    # far from the median, and would have no say under the last scale.
    scale = 4 * _SCALE
    for _ in range(_ROUNDS):
        weight_BN = 1 / (1 + (residual_BNC**2).sum(axis=-1) / scale**2) ** 2
        weighted_BFN = weight_BN[:, None, :] * seen_NF.T
        # Keeps the equations solvable where nearly all weights have vanished.
        ridge_FF = 1e-3 * np.eye(3, dtype=np.float32)
        model_BFC = np.linalg.solve(weighted_BFN @ seen_NF + ridge_FF, weighted_BFN @ seen_BNC)
        residual_BNC = seen_BNC - seen_NF @ model_BFC
        scale = max(_SCALE, scale / 2)
    return np.asarray((terms_NF @ model_BFC).reshape(images_BHWC.shape), np.float32)


def cut(image_HWC: NDArray[np.uint8], box: Box) -> Image.Image:
    """The square window around a box, with its margin, cut at the image's edges: stretched to a
    square, a bar would look like a box."""
    x1, y1, x2, y2 = box
    side = max(x2 - x1, y2 - y1)
    # At least a pixel, since a share of a tiny region rounds to nothing.
    reach = side / 2 + max(_MARGIN * side, 1)
    x, y = (x1 + x2) / 2, (y1 + y2) / 2
    height, width = image_HWC.shape[:2]
    left, top = max(0, round(x - reach)), max(0, round(y - reach))
    return Image.fromarray(
        image_HWC[top : min(height, round(y + reach)), left : min(width, round(x + reach))]
    )
