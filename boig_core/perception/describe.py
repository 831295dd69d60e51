"""Perception of images: colors, tones and objects of each, and caption and keywords where the
recipe takes them from the image.

Real and generated images go through the same steps, on pixels alone. Colors, tones and salient
regions are measured on a square of ``side`` pixels; trained detectors, captioners and the tagger
see each image as it came and resize it themselves, because at the side of a small recipe a
photograph shows nothing any more. All boxes are returned in pixels of the measured square. Leaves
out: keywords of the post (see `data.posts`). Shape letters: B images, H height, W width, C = 3
channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np

from boig_core.config import Perception
from boig_core.errors import InputError
from boig_core.perception import census
from boig_core.perception.captions import Captioner, caption_keywords, open_captioner
from boig_core.perception.detectors import BoxFilter
from boig_core.perception.grounding_dino import GroundingDino
from boig_core.perception.naming import ClipNamer
from boig_core.perception.objects import ObjectDetector, SalientRegions
from boig_core.perception.owlv2 import Owlv2
from boig_core.perception.pixels import Pixels, square, to_arrays
from boig_core.vocabulary import Box, Description

if TYPE_CHECKING:
    import torch


class Tagger(Protocol):
    """Chooses keywords of whole images out of a fixed list."""

    def tag(self, images: Sequence[Pixels], limit: int) -> list[tuple[str, ...]]:
        """Tags of each image, the likeliest first, at most ``limit``."""
        ...


@dataclass(frozen=True)
class Perceiver:
    """Measures images. Wherever images are asked for, they are arrays of any sizes or one tensor:
    see `pixels.to_arrays`.

    Attributes:
        side: images are brought to a square of this side before colors, tones and salient regions
            are measured.
        max_colors: at most this many palette names per image.
        min_coverage: colors that cover less are folded into the others.
        detector: finds and names objects.
        captioner: writes captions; None: there are none.
        tagger: chooses keywords, where they come from tags.
        keyword_source: where an image's keywords come from.
        by_keywords: the detector looks for each image's keywords, not for its own list.
        max_keywords: at most this many keywords out of a caption or the tags.
    """

    side: int
    max_colors: int
    min_coverage: float
    detector: ObjectDetector
    captioner: Captioner | None = None
    tagger: Tagger | None = None
    keyword_source: Literal["post", "caption", "tags"] = "post"
    by_keywords: bool = False
    max_keywords: int = 12

    @staticmethod
    def from_recipe(perception: Perception) -> Perceiver:
        """The perceiver of a recipe; loads the models that it names.

        Raises:
            InputError: a model cannot be opened, or there is only one kind.
        """
        tagged = perception.keywords == "tags"
        return Perceiver(
            perception.side,
            perception.max_colors,
            perception.min_coverage,
            open_detector(perception),
            open_captioner(perception),
            ClipNamer(perception.clip, perception.tags, perception.tag_threshold, "perception.tags")
            if tagged
            else None,
            perception.keywords,
            perception.vocabulary == "keywords",
            perception.max_keywords,
        )

    def describe(
        self,
        images: Sequence[Pixels] | Pixels | torch.Tensor,
        keywords: Sequence[Sequence[str] | None] | None = None,
    ) -> list[Description]:
        """Describe images.

        Args:
            images: uint8 RGB arrays, each (H, W, 3), of any sizes; or a tensor (B, 3, H, W), uint8
                or floats in [0, 1].
            keywords: of each image, read only where the detector looks for them; a generated image
                takes those of its prompt's post. Where keywords come from captions or tags and none
                are given, they are found first.

        Returns:
            One description per image. Boxes are in pixels of the measured square, side x side,
            whatever the size of the image: use `Description.scaled(width / side, height / side)`
            for pixels of an image. Of several objects of one name the first stays that the detector
            lists: the largest region, or the surest box of a trained detector.

        Raises:
            InputError: no images, or the detector looks for keywords and they are missing.
        """
        pictures = to_arrays(images)
        if not pictures:
            return []
        rgb_BHWC = np.stack([square(picture, self.side) for picture in pictures])
        named, toned = census.measure(rgb_BHWC, self.max_colors, self.min_coverage)
        looked_at = pictures if self.detector.wants_originals else list(rgb_BHWC)
        found = self.detector.detect(
            looked_at, self._vocabularies(pictures, keywords) if self.by_keywords else None
        )
        # Whatever size a detector saw, boxes come out in the measured square: descriptions of
        # images of any size can then be compared.
        described = []
        for color, tone, regions, picture in zip(named, toned, found, looked_at, strict=True):
            height, width = picture.shape[:2]
            boxes: dict[str, Box] = {}
            for region in regions:
                boxes.setdefault(region.name, region.box)
            described.append(
                Description(color, tone, boxes).scaled(self.side / width, self.side / height)
            )
        return described

    def caption(self, images: Sequence[Pixels] | Pixels | torch.Tensor) -> list[str | None]:
        """A caption of each image; none without a captioner."""
        pictures = to_arrays(images)
        return (
            [None] * len(pictures)
            if self.captioner is None
            else list(self.captioner.caption(pictures))
        )

    def keywords(
        self,
        images: Sequence[Pixels] | Pixels | torch.Tensor,
        captions: Sequence[str | None] | None = None,
    ) -> list[tuple[str, ...] | None]:
        """Keywords of each image out of its caption or the tags; none where they are the post's.

        Args:
            images: as for `describe`.
            captions: of the images, where they are known already.
        """
        pictures = to_arrays(images)
        if self.tagger is not None:
            return list(self.tagger.tag(pictures, self.max_keywords))
        if self.keyword_source == "post":
            return [None] * len(pictures)
        written = self.caption(pictures) if captions is None else captions
        return [
            None if caption is None else caption_keywords(caption, self.max_keywords)
            for caption in written
        ]

    def _vocabularies(
        self, pictures: list[Pixels], keywords: Sequence[Sequence[str] | None] | None
    ) -> list[Sequence[str]]:
        own = [
            words
            for words in (self.keywords(pictures) if keywords is None else keywords)
            if words is not None
        ]
        # An image without words would be asked for nothing, and look as if it showed nothing.
        if len(own) != len(pictures):
            met = f"keywords of {len(own)} images out of {len(pictures)}"
            raise InputError(
                met,
                "perception.vocabulary = keywords needs those of each",
                "take perception.keywords from caption or tags",
            )
        if keywords is None:
            return own
        # The same choice and order for a real image, which brings the words of all its posts, and
        # for a generated one: what is asked for decides what is seen.
        return [sorted(set(words))[: self.max_keywords] for words in own]


def open_detector(perception: Perception) -> ObjectDetector:
    """The recipe's detector.

    Raises:
        InputError: its model cannot be opened, or a kind cannot be looked for.
    """
    if perception.detector == "salient":
        return _salient(perception)
    build = GroundingDino if perception.detector == "grounding_dino" else Owlv2
    rules = BoxFilter(perception.box_threshold, perception.min_area, perception.max_objects)
    return build(
        perception.detector_model, perception.kinds, rules, perception.batch, perception.dtype
    )


def _salient(perception: Perception) -> SalientRegions:
    namer = (
        ClipNamer(perception.clip, perception.kinds, perception.name_threshold)
        if perception.kinds
        else None
    )
    return SalientRegions(namer, perception.min_area, perception.max_objects)
