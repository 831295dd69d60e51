"""What siblings share: the palette, the tones, the Description of an image, the Sample (one image
of one post), keywords.

The 40 color names and 3 tones are the paper's. Their RGB values are ours: the authors never
published any.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from boig_core.errors import InputError

Bucket = Literal["high", "medium", "low"]
Split = Literal["train", "validation", "test", "held_out", "judge"]
BUCKETS: Final[tuple[Bucket, ...]] = ("high", "medium", "low")
SPLITS: Final[tuple[Split, ...]] = ("train", "validation", "test", "held_out", "judge")

TONES: Final = ("warm", "neutral", "cool")

PALETTE: Final[Mapping[str, tuple[int, int, int]]] = {
    "Red": (220, 30, 35),
    "Dark_Red": (139, 10, 15),
    "Green": (34, 150, 50),
    "Bright_Green": (60, 230, 50),
    "Dark_Green": (10, 80, 30),
    "Light_Green": (150, 225, 150),
    "Mud_Green": (96, 104, 52),
    "Blue": (35, 80, 210),
    "Dark_Blue": (15, 25, 110),
    "Light_Blue": (150, 200, 235),
    "Royal_Blue": (65, 105, 225),
    "Black": (15, 15, 15),
    "White": (252, 252, 252),
    "Off_White": (240, 238, 228),
    "Gray": (128, 128, 128),
    "Dark_Gray": (70, 70, 72),
    "Silver": (190, 192, 195),
    "Cream": (255, 245, 208),
    "Magenta": (230, 20, 200),
    "Cyan": (20, 220, 235),
    "Yellow": (250, 230, 40),
    "Mustard": (210, 170, 40),
    "Khaki": (190, 180, 120),
    "Brown": (130, 75, 35),
    "Dark_Brown": (75, 42, 22),
    "Violet": (140, 60, 220),
    "Pink": (250, 170, 190),
    "Dark_Pink": (225, 75, 130),
    "Maroon": (110, 20, 50),
    "Tan": (210, 178, 140),
    "Purple": (115, 25, 130),
    "Lavender": (210, 205, 245),
    "Turquoise": (60, 205, 190),
    "Plum": (140, 70, 120),
    "Gold": (240, 195, 20),
    "Emerald": (20, 165, 110),
    "Orange": (250, 140, 25),
    "Beige": (236, 222, 192),
    "Lilac": (195, 160, 215),
    "Olive": (125, 125, 20),
}

Box = tuple[float, float, float, float]
"""``(x1, y1, x2, y2)`` in absolute pixels of the image it belongs to, x to the right, y down."""


@dataclass(frozen=True)
class Description:
    """A verbalized image: what BoigLLM answers and what perception measures.

    Attributes:
        colors: palette name to coverage in [0, 1]; 3 to 5 names whose coverages sum to 1 (fewer
            when an image shows fewer).
        tones: tone to coverage in [0, 1]; sums to 1.
        objects: object name to its box, one box per name (the largest).
    """

    colors: Mapping[str, float] = field(default_factory=dict)
    tones: Mapping[str, float] = field(default_factory=dict)
    objects: Mapping[str, Box] = field(default_factory=dict)

    def scaled(self, x: float, y: float) -> Description:
        """The same with boxes in pixels of an image ``x`` times as wide and ``y`` times as high."""
        boxes = {
            name: (x1 * x, y1 * y, x2 * x, y2 * y)
            for name, (x1, y1, x2, y2) in self.objects.items()
        }
        return replace(self, objects=boxes)


@dataclass(frozen=True)
class Perceived:
    """All that perception says of an image: ``description``, and ``caption`` and ``keywords`` where
    they are taken from the image."""

    description: Description
    caption: str | None = None
    keywords: tuple[str, ...] | None = None


@dataclass(frozen=True)
class KpiValue:
    """One KPI of a post: its ``value``, its rank percentile within the account (0 to 100), and the
    ``bucket`` that follows."""

    value: float
    normalized: float
    bucket: Bucket | None


@dataclass(frozen=True)
class Sample:
    """One image of one post: the row that every stage after ingestion reads.

    Attributes:
        id: unique in the dataset, ``POST`` or ``POST-2`` for the second image of a post.
        post: id of the post.
        account: user name whose posts share percentiles.
        company: brand behind the account.
        timestamp: ISO-8601 in UTC.
        text: the post's text, links masked; the caption and the prompt.
        keywords: of the post.
        kpi: the raw KPI.
        kpi_normalized: rank percentile within the account, 0 to 100.
        bucket: KPI bucket within the account; none when the KPI misses its bucket's floor.
        split: which part of the dataset it belongs to; all images of a post share one.
        image: SHA-256 of the stored image's bytes.
        width: of the stored image, in pixels.
        height: of the stored image, in pixels.
        description: what perception measured, in pixels of (width, height); none before perception.
        group: common name of the samples whose images are the same or nearly so; none when no other
            sample has one like it.
        negative: whether the image is an unrelated one and the KPI was drawn low: for training
            only.
        more_kpis: further KPIs by name, as far as the post has them.
        caption: what a captioner says of the image; none without one.
    """

    id: str
    post: str
    account: str
    company: str
    timestamp: str
    text: str
    keywords: tuple[str, ...]
    kpi: float
    kpi_normalized: float
    bucket: Bucket | None
    split: Split
    image: str
    width: int
    height: int
    description: Description | None = None
    group: str | None = None
    negative: bool = False
    more_kpis: Mapping[str, KpiValue] = field(default_factory=dict)
    caption: str | None = None

    @property
    def seen(self) -> Description:
        """Its description, for those who need one.

        Raises:
            ValueError: it was not perceived.
        """
        if self.description is None:
            raise ValueError(f"sample {self.id} has no description")
        return self.description


LINK: Final = "<hyperlink>"
"""What stands for a link in the text of a post."""
# Not inside a word: `page#part` holds no hashtag.
_HASHTAGS: Final = re.compile(r"(?<!\w)#(\w+)")
_WORDS: Final = re.compile(r"[^\W\d_]{3,}")
MAX_KEYWORDS: Final = 12
"""Of a post or an image."""
_STOPPED: Final = """
about after all also and any are because been but can day each every for from get give had has have her here his how into its just let
like made make more much new not now off our out over she some such than that the their them then there these they this time today too
use very want was were what when where which who whole why will with would you your comes say hello bring brings
"""
_STOP_WORDS: Final = frozenset(_STOPPED.split())


def require_whole_characters(texts: Sequence[str]) -> None:
    """Ask of texts that are to be encoded.

    Raises:
        InputError: one of them holds half of a surrogate pair, which JSON can spell; ingestion
            rejects such posts.
    """
    for text in texts:
        try:
            text.encode()
        except UnicodeEncodeError as exc:
            raise InputError(
                repr(text[max(0, exc.start - 20) : exc.start + 20]),
                "holds half a character, which no tokenizer reads",
                "mend or leave out the text",
            ) from exc


def keywords(
    text: str, limit: int = MAX_KEYWORDS, but: frozenset[str] = frozenset()
) -> tuple[str, ...]:
    """Hashtags of a text in lower case; without any, its distinct content words; in order, at most
    ``limit`` and none of ``but``."""
    # The stand-in for a link would count as the word `hyperlink`.
    tags = _HASHTAGS.findall(text) or [
        w for w in _WORDS.findall(text.replace(LINK, " ")) if w.lower() not in _STOP_WORDS
    ]
    return tuple(word for word in dict.fromkeys(word.lower() for word in tags) if word not in but)[
        :limit
    ]
