"""The nine metrics of behavior-conditioned image description, exactly as the paper defines
them.

G is the true description, P the predicted one, a pair is every name in G with every name in P. A
metric without any pair is undefined for that sample (NaN here): it is left out of the mean and
counted. An answer that could not be parsed counts as an empty description: IOU 0, all else
undefined. Coverage metrics flatter a model that names few safe colors, so read them beside the IOU.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from boig_core.vocabulary import PALETTE, Box, Bucket, Description

METRICS: Final = (
    "colors_iou",
    "colors_cosine",
    "colors_rgb_distance",
    "colors_coverage_rmse",
    "tones_coverage_rmse",
    "objects_iou",
    "objects_cosine",
    "objects_area_rmse",
    "objects_position_error",
)
NEAR: Final = 0.7
"""Least cosine (exclusive) of two names that count as a pair."""
CLOSE: Final = 0.5
"""Largest RGB distance (exclusive) of two colors that count as a pair."""

Cosine = Callable[[str, str], float]


class WordVectors(Protocol):
    """Similarity of names: only the cosine is needed, so that any vectors (spaCy's in the paper)
    fit.

    Attributes:
        name: that reports show.
    """

    name: str

    def cosine(self, first: str, second: str) -> float:
        """Cosine of two names' vectors, in [-1, 1]."""


class HashedNgrams:
    """Vectors of hashed character n-grams: deterministic, offline, and blind to meaning.

    Names that share most letters are near (``dark_red`` and ``red`` partly, ``couch`` and ``sofa``
    not at all), so cosines are not comparable with the paper's, which used spaCy's vectors.
    """

    name = "hashed character n-grams, the offline fallback"

    def __init__(self, dims: int = 512, sizes: tuple[int, ...] = (2, 3, 4)) -> None:
        self._dims = dims
        self._sizes = sizes
        self._vector = cache(self._make)

    def cosine(self, first: str, second: str) -> float:
        """Cosine of the two n-gram vectors."""
        return float(self._vector(first) @ self._vector(second))

    def _make(self, name: str) -> NDArray[np.float64]:
        # The marks make ends of a name differ from its middle, and give short names n-grams.
        text = f"<{name.lower().replace('_', ' ')}>"
        vector = np.zeros(self._dims)
        for size in self._sizes:
            for start in range(len(text) - size + 1):
                # crc32, because Python's own hash of a string differs from process to process. The
                # sign, by another bit, lets collisions cancel out on average.
                code = zlib.crc32(text[start : start + size].encode())
                vector[code % self._dims] += 1.0 if code >> 31 else -1.0
        norm = float(np.linalg.norm(vector))
        return vector / norm if norm else vector


@dataclass(frozen=True)
class PredictedPair:
    """A true description with what a model predicted for it (None: could not be parsed).

    Attributes:
        bucket: the sample's KPI bucket.
        width: of the true image, in pixels.
        height: of the true image, in pixels.
    """

    bucket: Bucket
    width: int
    height: int
    truth: Description
    prediction: Description | None


def sample_metrics(pair: PredictedPair, vectors: WordVectors) -> dict[str, float]:
    """The nine metrics of one sample; NaN where undefined."""
    true, predicted = pair.truth, pair.prediction or Description()
    near = [
        (true.objects[g], predicted.objects[p], cosine)
        for g in true.objects
        for p in predicted.objects
        if (cosine := vectors.cosine(g, p)) > NEAR
    ]
    return {
        "colors_iou": _iou(true.colors, predicted.colors),
        "colors_cosine": _mean(
            [c for g in true.colors for p in predicted.colors if (c := vectors.cosine(g, p)) > NEAR]
        ),
        "colors_rgb_distance": _mean(
            [d for g in true.colors for p in predicted.colors if (d := rgb_distance(g, p)) < CLOSE]
        ),
        "colors_coverage_rmse": _rmse(true.colors, predicted.colors),
        "tones_coverage_rmse": _rmse(true.tones, predicted.tones),
        "objects_iou": _iou(true.objects, predicted.objects),
        "objects_cosine": _mean([cosine for _, _, cosine in near]),
        "objects_area_rmse": _area_rmse(near, float(pair.width * pair.height)),
        "objects_position_error": _mean(
            [math.dist(_center(g), _center(p)) / cosine for g, p, cosine in near]
        )
        / math.hypot(pair.width, pair.height),
    }


def table(
    pairs: Sequence[PredictedPair], vectors: WordVectors | None = None
) -> dict[str, NDArray[np.float64]]:
    """Each metric of each sample, (N,) with NaN where undefined."""
    vectors = vectors or HashedNgrams()
    rows = [sample_metrics(pair, vectors) for pair in pairs]
    return {metric: np.array([row[metric] for row in rows], np.float64) for metric in METRICS}


@cache
def rgb_distance(first: str, second: str) -> float:
    """Euclidean distance of two palette colors, RGB in [0, 1]^3."""
    return math.dist(PALETTE[first], PALETTE[second]) / 255


def _iou(true: Mapping[str, object], predicted: Mapping[str, object]) -> float:
    union = true.keys() | predicted.keys()
    return len(true.keys() & predicted.keys()) / len(union) if union else math.nan


def _rmse(true: Mapping[str, float], predicted: Mapping[str, float]) -> float:
    # In the order of names: a set has another in each process, and the sum other last bits.
    both = sorted(true.keys() & predicted.keys())
    return (
        math.sqrt(_mean([(true[name] - predicted[name]) ** 2 for name in both]))
        if both
        else math.nan
    )


def _area_rmse(near: Sequence[tuple[Box, Box, float]], image_area: float) -> float:
    terms = [(_area(g) - _area(p)) ** 2 * (_area(g) / image_area) / cosine for g, p, cosine in near]
    return math.sqrt(_mean(terms)) / image_area if terms else math.nan


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _center(box: Box) -> tuple[float, float]:
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
