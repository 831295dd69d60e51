"""What is doubtful about what perception saw in a dataset: numbers, and for each thing that looks
wrong a sentence with the field of the recipe that changes it.

Three things are asked. Does one name take most of the objects? Does the CLIP that names tell an
image's own text from those of other posts? Is white or black the main color of most images? A CLIP
that does not know such images gives nearly all of them one name, and is as sure of it as of a right
one, so its own probabilities say nothing. Leaves out: whether a name is right, for which the truth
would be needed. Shape letters: N images, M texts, D width of the joint space.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from boig_core.config import Perception
from boig_core.data import dataset
from boig_core.data.glance import percent
from boig_core.data.imaging.images import decode, resize
from boig_core.errors import InputError
from boig_core.escapes import visible
from boig_core.perception.objects import UNKNOWN
from boig_core.storage.manifest import FileEntry
from boig_core.vocabulary import Description

MOST: Final = 0.5
"""A name, `UNKNOWN`, or white and black are warned of above this share."""
UNEVEN: Final = 1.5
"""A name must also have so many times its even share: of two kinds, one always has half."""
APART: Final = 0.65
"""Match of image and text below which the CLIP is warned of; by chance it is 0.5. The package's
CLIP has 0.93 on the ad world, whose texts name the objects, and 0.55 on photographs of food with
their names."""
FEWEST: Final = 20
"""Objects or images below which nothing is said: shares of a few are noise."""
IMAGES: Final = 256
"""Images that the match is measured on, out of as few shards as hold them."""
PLAIN: Final = ("White", "Off_White", "Black")
"""Colors of backdrops; a photograph on one of them is mostly backdrop."""
_SIDE: Final = 256


@dataclass
class Census:
    """Counts over the images of a dataset.

    Attributes:
        images: how many.
        objects: times that each name was given, once an image.
        leading: images by the color that covers most of them.
    """

    images: int = 0
    objects: Counter[str] = field(default_factory=Counter)
    leading: Counter[str] = field(default_factory=Counter)

    @staticmethod
    def of(descriptions: Iterable[Description]) -> Census:
        """The counts of these images."""
        census = Census()
        for description in descriptions:
            census.images += 1
            census.objects.update(description.objects.keys())
            if description.colors:
                census.leading[max(description.colors, key=lambda c: description.colors[c])] += 1
        return census


@dataclass(frozen=True)
class TextMatch:
    """How well a CLIP tells an image's own text from those of other posts.

    Attributes:
        auc: probability that it finds an image closer to its own text than to another, 0.5 by
            chance; None: it was not measured.
        error: its standard error over images.
        images: how many were asked.
        absent: why it was not measured.
    """

    auc: float | None
    error: float | None = None
    images: int = 0
    absent: str | None = None


def uses_clip(perception: Perception) -> bool:
    """Whether the recipe's CLIP names regions or chooses tags."""
    return perception.keywords == "tags" or (
        perception.detector == "salient" and bool(perception.kinds)
    )


def measure_match(
    dataset_uri: str, words: Mapping[FileEntry, Mapping[str, str]], clip: str
) -> TextMatch:
    """Match of images and their own texts by a CLIP.

    Args:
        dataset_uri: a committed dataset.
        words: text of each image by hash, by image shard (see `dataset.images_with_words`).
        clip: reference of the CLIP.

    Raises:
        CorruptError: a shard differs from its entry.
    """
    from boig_core.evaluation.measure.judges import ClipJudge

    texts, pictures = [], []
    for entry, text_of in words.items():
        for stored in dataset.shard_images(dataset_uri, entry):
            if stored.sha256 in text_of:
                texts.append(text_of[stored.sha256])
                # Whole and small: the processor of a CLIP would cut off what lies beside the
                # middle square, and all images are held at a time.
                pictures.append(resize(decode(stored.data), _SIDE))
    distinct = sorted(set(texts))
    if len(distinct) < FEWEST:
        return TextMatch(None, absent=f"{len(distinct)} texts that differ, {FEWEST} are needed")
    try:
        judge = ClipJudge(clip)
    except InputError as exc:
        # What has named the objects opens another way; a doubt that cannot be measured is no reason
        # to lose them.
        return TextMatch(None, absent=str(exc))
    auc_N = match(
        judge.see(pictures).embedding_ND,
        judge.read(distinct),
        np.array([distinct.index(text) for text in texts], np.intp),
    )
    return TextMatch(float(auc_N.mean()), float(auc_N.std() / len(auc_N) ** 0.5), len(auc_N))


def match(
    embedding_ND: NDArray[np.float64], text_MD: NDArray[np.float64], own_N: NDArray[np.intp]
) -> NDArray[np.float64]:
    """For each image the share of other texts that lie further from it than its own, ties half (N).

    Args:
        embedding_ND: images, unit length.
        text_MD: at least two distinct texts, unit length.
        own_N: index of each image's own text.
    """
    cosine_NM = embedding_ND @ text_MD.T
    own_N1 = cosine_NM[np.arange(len(own_N)), own_N][:, None]
    # Its own text is a tie with itself, and no other text.
    wins_N = (own_N1 > cosine_NM).sum(axis=1) + 0.5 * ((own_N1 == cosine_NM).sum(axis=1) - 1)
    return np.asarray(wins_N / (text_MD.shape[0] - 1), np.float64)


def report(perception: Perception, census: Census, of_texts: TextMatch) -> dict[str, Any]:
    """The numbers as JSON values, and ``warnings``, a sentence each."""
    named = census.objects.total() - census.objects[UNKNOWN]
    (name, count) = next(
        (pair for pair in census.objects.most_common() if pair[0] != UNKNOWN), (None, 0)
    )
    plain = sum(census.leading[color] for color in PLAIN)
    return {
        "images": census.images,
        "named": named,
        "unknown": census.objects[UNKNOWN],
        "most_frequent": name,
        "most_frequent_share": round(count / named, 4) if named else None,
        "clip_auc": None if of_texts.auc is None else round(of_texts.auc, 4),
        "clip_auc_error": None if of_texts.error is None else round(of_texts.error, 4),
        "clip_images": of_texts.images,
        "clip_absent": of_texts.absent,
        "plain_share": round(plain / census.images, 4) if census.images else None,
        "warnings": [
            *_name_warnings(perception, census, named, name, count),
            *_clip_warnings(perception, of_texts),
            *_color_warnings(census, plain),
        ],
    }


def _name_warnings(
    perception: Perception, census: Census, named: int, name: str | None, count: int
) -> Iterable[str]:
    kinds, unknown = len(set(perception.kinds)), census.objects[UNKNOWN]
    salient = perception.detector == "salient"
    model = "perception.clip" if salient else "perception.detector_model"
    # Where each image is asked for its own keywords, none has an even share.
    even = 1 / kinds if kinds and perception.vocabulary == "kinds" else 0.0
    if named >= FEWEST and count / named > max(MOST, UNEVEN * even):
        among = f" though perception.kinds lists {kinds}" if even else ""
        yield (
            f"{visible(str(name))} is the name of {count:,} of {named:,} objects "
            f"({percent(count / named)}){among}: if your posts show more than that, "
            f"{model} does not know such images; name another, or list other perception.kinds."
        )
    total = named + unknown
    # Without kinds every region is unknown, as the recipe wants it.
    if kinds and total >= FEWEST and unknown / total > MOST:
        yield (
            f"{unknown:,} of {total:,} objects ({percent(unknown / total)}) are {UNKNOWN}, since their "
            f"best name is less likely than perception.name_threshold {perception.name_threshold:g}: "
            "list in perception.kinds what your posts show, name another perception.clip, or lower "
            "the threshold."
        )


def _clip_warnings(perception: Perception, of_texts: TextMatch) -> Iterable[str]:
    if of_texts.auc is not None and of_texts.auc < APART:
        # Two standard errors are about 95 %.
        yield (
            f"{perception.clip} hardly tells an image's own text from that of another post: "
            f"AUC {of_texts.auc:.2f} ± {2 * (of_texts.error or 0):.2f} on {of_texts.images:,} "
            f"images, 0.5 by chance, warned of below {APART}. If your texts speak of what the "
            "images show, its names mean little: name a CLIP that knows such images in "
            "perception.clip, or a detector in perception.detector."
        )


def _color_warnings(census: Census, plain: int) -> Iterable[str]:
    if census.images >= FEWEST and plain / census.images > MOST:
        by_color = ", ".join(
            f"{color} {census.leading[color]:,}" for color in PLAIN if census.leading[color]
        )
        yield (
            f"White or black leads the palette of {plain:,} of {census.images:,} images "
            f"({percent(plain / census.images)}: {by_color}), so colors tell of backdrops more than of "
            "what is shown: raise perception.max_colors or lower perception.min_coverage to have "
            "more colors beside it, or ingest images that are cut to their subject."
        )
