"""How much there is to know: a law's own ceiling for the gain in colors IOU that a KPI in the input
can bring, per bucket.

By Monte Carlo over the world: the best color set for (brand, season, kinds, bucket) against the
best for (brand, season, kinds) alone, under the bucket-balanced mixture on which the no-KPI twin is
trained. Both predictors know the law. Colors are read off real renders at 32 px by nearest palette
name, as an ideal observer would; the pipeline's own perception may name a few differently.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from boig_core.adworld.drawing import render
from boig_core.adworld.features import Features, of_scene
from boig_core.adworld.law import Law
from boig_core.adworld.scene import BRANDS, KINDS, SEASONS, sample_scene
from boig_core.vocabulary import BUCKETS, PALETTE, Bucket

SHARES: Final[dict[Bucket, tuple[float, float]]] = {
    "low": (0.0, 0.6),
    "medium": (0.6, 0.9),
    "high": (0.9, 1.0),
}
"""Bucket to its range of likes quantiles within an account."""

_MIN_COVERAGE: Final = 0.015
_MAX_NAMES: Final = 5
_SIDE: Final = 32


@dataclass(frozen=True)
class BucketCeiling:
    """Expected colors IOU in one bucket, of the best predictor that knows the bucket and of the
    best that does not."""

    with_kpi: float
    without_kpi: float

    @property
    def gain(self) -> float:
        """What knowing the bucket is worth at most."""
        return self.with_kpi - self.without_kpi


def color_names(image_HWC: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Which of the 40 palette names an image shows: the up to five largest with at least 1.5 %
    coverage; result (40,)."""
    palette_P3 = np.array(list(PALETTE.values()), np.float32)
    pixels_N3 = image_HWC.reshape(-1, 3).astype(np.float32)
    # The squares of the pixels are left out: they are the same for all names and move no minimum.
    distances_NP = (palette_P3**2).sum(axis=1) - 2 * pixels_N3 @ palette_P3.T
    shares_P = np.bincount(distances_NP.argmin(axis=1), minlength=len(palette_P3)) / len(pixels_N3)
    shown_P = shares_P >= _MIN_COVERAGE
    shown_P[np.argsort(-shares_P)[_MAX_NAMES:]] = False
    return shown_P


def best_set(truth_NP: NDArray[np.bool_], weights_N: NDArray[np.float64]) -> NDArray[np.bool_]:
    """The set of names with the largest expected IOU under weighted truths, grown greedily; result
    (P,)."""
    chosen_P = np.zeros(truth_NP.shape[1], bool)
    sizes_N, hits_N, best = truth_NP.sum(axis=1), np.zeros(len(truth_NP)), 0.0
    while chosen_P.sum() < _MAX_NAMES:
        hits_NP = hits_N[:, None] + truth_NP
        # What each name would give if it were added next: one more predicted name, and a hit where
        # it is true.
        iou_NP = hits_NP / (sizes_N[:, None] + chosen_P.sum() + 1 - hits_NP)
        gains_P = np.where(chosen_P, -1.0, weights_N @ iou_NP)
        name = int(gains_P.argmax())
        if gains_P[name] <= best:
            break
        best, chosen_P[name] = float(gains_P[name]), True
        hits_N = hits_NP[:, name]
    return chosen_P


def _iou(truth_NP: NDArray[np.bool_], guess_P: NDArray[np.bool_]) -> NDArray[np.float64]:
    return np.asarray(
        (truth_NP & guess_P).sum(axis=1) / (truth_NP | guess_P).sum(axis=1), np.float64
    )


def _with_kinds(features: Features, kinds: list[str]) -> Features:
    return replace(
        features,
        things=tuple(replace(t, kind=kind) for t, kind in zip(features.things, kinds, strict=True)),
    )


def _pool(
    law: Law, brand: str, size: int, noise: NDArray[np.float64], rng: np.random.Generator
) -> tuple[list[Features], NDArray[np.bool_], NDArray[np.float64]]:
    """A brand's scenes: their features, the color names they show (N, 40), and the two edges
    between buckets of score plus noise."""
    scenes = [sample_scene(rng, brand) for _ in range(size)]
    seen = [of_scene(scene) for scene in scenes]
    names_NP = np.stack([color_names(render(scene, _SIDE, rng).image) for scene in scenes])
    scores_N = np.array(
        [law.score(features, brand, SEASONS[int(rng.integers(4))]) for features in seen]
    )
    return seen, names_NP, bucket_edges(scores_N, noise, rng)


def bucket_edges(
    scores_N: NDArray[np.float64], noise_M: NDArray[np.float64], rng: np.random.Generator
) -> NDArray[np.float64]:
    """Where low ends and high begins among an account's posts, in log-likes above its level, (2,).

    Args:
        scores_N: of its posts under the law.
        noise_M: draws of the law's noise.
        rng: pairs the two.
    """
    return np.asarray(
        # Five draws of noise per scene: with one, the edges would wobble with the noise of single
        # posts.
        np.quantile(np.repeat(scores_N, 5) + rng.choice(noise_M, 5 * len(scores_N)), (0.6, 0.9)),
        np.float64,
    )


def bucket_weights(
    law: Law,
    stand_ins: Sequence[Features],
    conditions: tuple[str, str, Sequence[str]],
    edges_2: NDArray[np.float64],
    noise_M: NDArray[np.float64],
    rng: np.random.Generator,
) -> dict[Bucket, NDArray[np.float64]]:
    """How much each image counts among those that a post with the told facts may show, by bucket;
    on average buckets count alike.

    Args:
        law: whose likes decide the buckets.
        stand_ins: images of the brand with as many objects as kinds were told (N), relabeled with
            these in a random order.
        conditions: brand, season, kinds.
        edges_2: from `bucket_edges`.
        noise_M: draws of the law's noise, sorted.
        rng: of the relabeling.
    """
    brand, season, kinds = conditions
    scores_N = np.array(
        [
            law.score(_with_kinds(features, list(rng.permutation(kinds))), brand, season)
            for features in stand_ins
        ]
    )
    # Noise is sorted, so a position in it is the chance that a draw keeps the likes below an edge.
    below_2N = np.searchsorted(noise_M, edges_2[:, None] - scores_N) / len(noise_M)
    odds: dict[Bucket, NDArray[np.float64]] = {
        "low": below_2N[0],
        "medium": below_2N[1] - below_2N[0],
        "high": 1 - below_2N[1],
    }
    return {
        # A rare bucket is weighed up by its share, since the twin without KPI is trained on as many
        # posts of each bucket.
        bucket: odds[bucket] / (SHARES[bucket][1] - SHARES[bucket][0]) / len(stand_ins)
        for bucket in BUCKETS
    }


def ceilings(
    law: Law, contexts: int = 150, pool: int = 1500, seed: int = 0
) -> dict[Bucket, BucketCeiling]:
    """The ceiling of each bucket.

    Args:
        law: whose likes decide the buckets.
        contexts: (brand, season, kinds) drawn at random as posts would.
        pool: scenes drawn for each brand; those of a context's object count stand for its images,
            relabeled with its kinds.
        seed: of the Monte Carlo.
    """
    rng = np.random.default_rng(seed)
    noise = np.sort(law.noise.draw(rng, 20_000))
    brands = {brand: _pool(law, brand, pool, noise, rng) for brand in BRANDS}
    sums = {bucket: np.zeros(3) for bucket in BUCKETS}  # weight, IOU with the KPI, IOU without
    for _ in range(contexts):
        brand, season = BRANDS[int(rng.integers(len(BRANDS)))], SEASONS[int(rng.integers(4))]
        seen, names_NP, edges_2 = brands[brand]
        # Kinds are drawn apart from colors, places and sizes, so a scene with other kinds is as
        # likely and few renders serve many contexts.
        counts_N = np.array([len(features.things) for features in seen])
        count = int(rng.choice(counts_N))
        kinds = [KINDS[int(k)] for k in rng.permutation(len(KINDS))[:count]]
        chosen = np.flatnonzero(counts_N == count)
        truth_NP = names_NP[chosen]
        weights = bucket_weights(
            law, [seen[i] for i in chosen], (brand, season, kinds), edges_2, noise, rng
        )
        blind_P = best_set(truth_NP, np.sum([weights[bucket] for bucket in BUCKETS], axis=0))
        for bucket in BUCKETS:
            told_P = best_set(truth_NP, weights[bucket])
            # Weighted by how likely the bucket is in this context: posts that hardly occur hardly
            # count.
            w_N = weights[bucket]
            sums[bucket] += (w_N.sum(), w_N @ _iou(truth_NP, told_P), w_N @ _iou(truth_NP, blind_P))
    return {
        bucket: BucketCeiling(float(s[1] / s[0]), float(s[2] / s[0])) for bucket, s in sums.items()
    }
