"""Perception of images: colors, tones and objects of each, real and generated ones by the same steps at the same size.

Works on pixels alone. Leaves out: captions and keywords, which come from the post (see `data.posts`).
Shape letters: B images, H height, W width, C = 3 channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from boig_core.config import Perception
from boig_core.perception import census
from boig_core.perception.naming import ClipNamer
from boig_core.perception.objects import ObjectDetector, SalientRegions
from boig_core.vocabulary import Box, Description


@dataclass(frozen=True)
class Perceiver:
    """Measures images.

    Attributes:
        side: images are brought to a square of this side before anything is measured.
        max_colors: at most this many palette names an image.
        min_coverage: colors that cover less are folded into the others.
        detector: finds and names objects.
    """

    side: int
    max_colors: int
    min_coverage: float
    detector: ObjectDetector

    @staticmethod
    def from_recipe(perception: Perception) -> Perceiver:
        """The perceiver of a recipe; loads its CLIP when the recipe names kinds.

        Raises:
            InputError: the CLIP cannot be opened, or there is only one kind.
        """
        namer = ClipNamer(perception.clip, perception.kinds, perception.name_threshold) if perception.kinds else None
        detector = SalientRegions(namer, perception.min_area, perception.max_objects)
        return Perceiver(perception.side, perception.max_colors, perception.min_coverage, detector)

    def describe(self, images: Sequence[NDArray[np.uint8]]) -> list[Description]:
        """Describe images.

        Args:
            images: uint8 RGB, each (H, W, 3), of any sizes.

        Returns:
            One description an image. Boxes are in pixels of the measured square, side x side, whatever the size of the image: use
            `Description.scaled(width / side, height / side)` for pixels of an image. Of several objects of one name the largest stays.
        """
        if len(images) == 0:
            return []
        rgb_BHWC = np.stack([_square(image, self.side) for image in images])
        named, toned = census.measure(rgb_BHWC, self.max_colors, self.min_coverage)
        found = self.detector.detect(rgb_BHWC)
        described = []
        for color, tone, regions in zip(named, toned, found, strict=True):
            boxes: dict[str, Box] = {}
            for region in regions:  # the largest comes first
                boxes.setdefault(region.name, region.box)
            described.append(Description(color, tone, boxes))
        return described


def _square(image_HWC: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """As `data.images.resize` does, which a sibling room may not import: areas averaged when shrinking, bicubic when enlarging."""
    height, width = image_HWC.shape[:2]
    if (height, width) == (side, side):
        return image_HWC
    method = Image.Resampling.BOX if min(height, width) >= side else Image.Resampling.BICUBIC
    return np.asarray(Image.fromarray(image_HWC).resize((side, side), method))
