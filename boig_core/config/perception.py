"""Section ``perception``: how images are put into words."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from boig_core.config.section import Names, Section


class Perception(Section):
    """How an image is put into words: colors and tones are computed from its pixels; objects,
    captions and keywords come from the models named here."""

    side: int = Field(32, ge=16)
    """Side of the square, in pixels, that each image is brought to before colors, tones and salient
    regions are measured; trained detectors and captioners see the image as it came. It is the same
    for real and generated images, so that both are seen with the same eyes."""
    max_colors: int = Field(5, ge=1, le=8)
    """Largest number of color names that describe an image; they come from a palette of 40."""
    min_coverage: float = Field(0.04, ge=0, lt=1)
    """Smallest share of the image that a color must cover to be named. Smaller ones are counted
    with the named color that looks most like them."""
    detector: Literal["salient", "grounding_dino", "owlv2"] = "salient"
    """What finds objects: ``salient``, regions that stand out from the background, which the
    ``clip`` names; or a trained detector for photographs, ``grounding_dino`` or ``owlv2``."""
    detector_model: Annotated[str | None, Names("model")] = None
    """The Grounding DINO or OWLv2: a hub id or a folder. null: there is none, as ``salient`` needs
    none."""
    box_threshold: float = Field(0.3, ge=0, lt=1)
    """Score, from 0 to 1, above which a box of a trained detector counts as an object. Scores of
    OWLv2 run lower: 0.1 is usual for it."""
    vocabulary: Literal["kinds", "keywords"] = "kinds"
    """What a trained detector looks for: the ``kinds``, or each image's own ``keywords``."""
    clip: Annotated[str, Names("model")] = "package:clip"
    """CLIP that names salient regions and chooses among ``tags``, and by which the alignment's
    probe sees drift: a hub id, a folder, or ``package:NAME``. Where there is a probe it must differ
    from ``evaluation.clip``. The CLIPs of the package know the ad world's drawings alone."""
    clip_anyway: bool = False
    """Whether a CLIP of the package may name what the posts of others show, and tag their images.
    false: `perceive` refuses it on all posts but the ad world's, since its names for photographs
    mean nothing. true: for a rehearsal, or for drawings like the ad world's."""
    kinds: tuple[str, ...] = ()
    """Names of objects to choose among, the same for every image: list what your posts show, two
    names at least for salient regions. Empty: every salient region is called ``unknown``."""
    name_threshold: float = Field(0.5, ge=0, le=1)
    """Lowest probability, from 0 to 1, of a salient region's best name; below it the region is
    called ``unknown``."""
    min_area: float = Field(0.01, gt=0, lt=1)
    """Smallest object that counts, as a share of the image's area."""
    max_objects: int = Field(3, ge=1)
    """Largest number of objects that describe an image; the largest objects come first."""
    captioner: Literal["none", "blip", "llava"] = "none"
    """What writes a caption of each image: ``none``, a ``blip``, or a ``llava``, which stands for
    models of LLaVA's class."""
    caption_model: Annotated[str | None, Names("model")] = None
    """The captioner's model: a hub id or a folder. null: there is none."""
    caption_prompt: str | None = Field(None, min_length=1)
    """What a LLaVA is asked, or the words that a BLIP's captions begin with. null: LLaVA is asked
    for one sentence, BLIP begins freely."""
    caption_tokens: int = Field(48, ge=1)
    """Longest caption, in tokens (pieces of words); a longer one is cut off."""
    keywords: Literal["post", "caption", "tags"] = "post"
    """Where an image's keywords come from: its ``post``, the content words of its ``caption``, or
    the CLIP's choice among the ``tags``."""
    tags: tuple[str, ...] = ()
    """Keywords that the ``clip`` chooses among, the same for every image; two at least. Read with
    ``keywords: tags`` alone."""
    tag_threshold: float = Field(0.05, ge=0, le=1)
    """Lowest probability among all tags, from 0 to 1, with which a tag is kept."""
    max_keywords: int = Field(12, ge=1)
    """Largest number of keywords that are taken from a caption or the tags, or, of a post's own,
    that a detector looks for."""
    batch: int = Field(8, ge=1)
    """Images that a trained detector or captioner sees in one pass. It is fixed, so that an image's
    result does not depend on which others are beside it; lower it where the GPU's memory is
    short."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of trained detectors and captioners. ``auto``: bfloat16 where there is a GPU, else
    float32."""

    @model_validator(mode="after")
    def _check(self) -> Perception:
        if self.detector != "salient" and not self.detector_model:
            raise ValueError(f"detector {self.detector} needs detector_model, a hub id or a folder")
        if self.detector != "salient" and self.vocabulary == "kinds" and not self.kinds:
            raise ValueError(
                f"detector {self.detector} needs kinds to look for, or vocabulary keywords"
            )
        if self.detector == "salient" and self.vocabulary == "keywords":
            raise ValueError(
                "vocabulary keywords needs detector grounding_dino or owlv2: salient regions are named out of kinds"
            )
        if self.captioner != "none" and not self.caption_model:
            raise ValueError(
                f"captioner {self.captioner} needs caption_model, a hub id or a folder"
            )
        if self.keywords == "caption" and self.captioner == "none":
            raise ValueError("keywords caption needs captioner blip or llava")
        if self.keywords == "tags" and len(set(self.tags)) < 2:
            raise ValueError("keywords tags needs at least two tags to choose among")
        return self
