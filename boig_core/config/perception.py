"""Section ``perception``: how images are put into words."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from boig_core.config.section import Section


class Perception(Section):
    """How an image is verbalized: colors and tones are model-free; objects, captions and keywords
    come from the models named here."""

    side: int = Field(32, ge=16)
    """Images are measured at this side in pixels, real and generated ones alike, so that both are
    seen with the same eyes."""
    max_colors: int = Field(5, ge=1, le=8)
    """At most this many palette names per image."""
    min_coverage: float = Field(0.04, ge=0, lt=1)
    """Colors that cover less are folded into the others."""
    detector: Literal["salient", "grounding_dino", "owlv2"] = "salient"
    """What finds objects: regions that stand out, named by the CLIP (no detector needed); or a
    model for photographs."""
    detector_model: str | None = None
    """The Grounding DINO or OWLv2: a hub id or a folder."""
    box_threshold: float = Field(0.3, ge=0, lt=1)
    """Boxes of that model with a lower score are left out; scores of OWLv2 run lower, 0.1 is usual
    for it."""
    vocabulary: Literal["kinds", "keywords"] = "kinds"
    """What that model looks for: the ``kinds``, or each image's own keywords."""
    clip: str = "package:clip"
    """CLIP that names salient regions and finds tags, and by which the alignment's probe sees
    drift: a hub id, a folder, or ``package:NAME``."""
    kinds: tuple[str, ...] = ()
    """Object names to choose among, the same for every image; empty: every salient region is
    ``unknown``."""
    name_threshold: float = Field(0.5, ge=0, le=1)
    """A region whose best name has a lower probability is called ``unknown``."""
    min_area: float = Field(0.01, gt=0, lt=1)
    """Smallest region that counts as an object, as a share of the image."""
    max_objects: int = Field(3, ge=1)
    """At most this many objects per image, the largest first."""
    captioner: Literal["none", "blip", "llava"] = "none"
    """What writes a caption of each image: a BLIP, or a model of LLaVA's class."""
    caption_model: str | None = None
    """The captioner's model: a hub id or a folder."""
    caption_prompt: str | None = Field(None, min_length=1)
    """What a LLaVA is asked, or how a BLIP's captions begin; null: LLaVA is asked for one sentence,
    BLIP begins freely."""
    caption_tokens: int = Field(48, ge=1)
    """Longest caption, in tokens."""
    keywords: Literal["post", "caption", "tags"] = "post"
    """Where an image's keywords come from: its post, the content words of its caption, or the
    CLIP's choice among the ``tags``."""
    tags: tuple[str, ...] = ()
    """Keywords to choose among, the same for every image."""
    tag_threshold: float = Field(0.05, ge=0, le=1)
    """Tags whose probability among all tags is lower are left out."""
    max_keywords: int = Field(12, ge=1)
    """At most this many keywords out of a caption or the tags."""
    batch: int = Field(8, ge=1)
    """Images per forward pass of a detector or captioner: fixed, so that an image's result does not
    depend on which other images are in its batch."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of detectors and captioners; auto: bfloat16 where there is a GPU, else float32."""

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
