"""The best that any describer of the ad world can do on given test posts, with their KPI bucket and
without: no model is asked.

Both know the law, and what a prompt tells: brand, season, kinds of the objects, and the color words
that a quarter of the posts let slip. What images a post with these facts may show is answered by
the brand's posts of the other splits (`bucket_weights`): their descriptions are those that
perception measured, so its habits are in the ceiling, while their scenes, which only the law reads,
come from ``truth.jsonl``. The answer is the one of least expected loss: the color set of largest
expected IOU, the tones of least expected distance, the kinds told. The describer without KPI takes
the buckets as equally likely, as the twin's training has them.

A split is drawn without a look at the KPI, so other splits show what the world shows, and no answer
has seen the post that it is scored on. With few stand-ins the answer is worse than the best
possible, more so with the KPI, which leaves fewer of them: the ceiling of a gain errs downwards.
Boxes are not predicted: each is the whole image. Shape letters: N stand-ins, P palette names, M
draws of noise, 3 tones.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from boig_core.adworld.ceiling import best_set, bucket_edges, bucket_weights
from boig_core.adworld.export import season_of
from boig_core.adworld.features import Features, of_scene
from boig_core.adworld.law import Law
from boig_core.adworld.scene import KINDS, OBJECT_COLORS, Scene
from boig_core.vocabulary import BUCKETS, PALETTE, TONES, Box, Description, Sample

LEAST: Final = 60
"""Stand-ins that must share a post's color words; else the words are passed over, by both
describers."""
Facts = tuple[str, tuple[str, ...], frozenset[str]]
"""Season, kinds of the objects, color words."""
_NAMES: Final = tuple(PALETTE)
_ROUNDS: Final = 60


@dataclass(frozen=True)
class _Brand:
    """What a brand's other posts show, and its buckets.

    Attributes:
        seen: what the law sees in each (N).
        words: colors of each.
        shares_NP: measured coverage of each palette name.
        tones_N3: measured tones.
        edges_2: where low ends and high begins, in log-likes.
    """

    seen: list[Features]
    words: list[frozenset[str]]
    shares_NP: NDArray[np.float64]
    tones_N3: NDArray[np.float64]
    edges_2: NDArray[np.float64]


def best_answers(
    law: Law,
    scenes: Mapping[str, Scene],
    samples: Sequence[Sample],
    asked: Sequence[Sample],
    seed: int = 0,
) -> tuple[dict[str, Description], dict[str, Description]]:
    """The best answers by sample id: with the KPI bucket, and without.

    Args:
        law: that decided the likes.
        scenes: by post.
        samples: of the whole dataset, described; those in a split that is asked about have no say.
        asked: those to answer for, each with a bucket.
        seed: of the noise and of the relabeling.
    """
    rng = np.random.default_rng(seed)
    noise_M = np.sort(law.noise.draw(rng, 20_000))
    # No answer may see the post that it is scored on, nor another one of its split.
    apart = {sample.split for sample in asked}
    others = [
        s
        for s in samples
        if s.split not in apart
        and s.post in scenes
        and s.description is not None
        and not s.negative
    ]
    names = sorted({s.company for s in asked})
    brands = {
        name: _brand(law, scenes, [s for s in others if s.company == name], noise_M, rng)
        for name in names
    }
    known: dict[tuple[str, Facts], dict[str, Description]] = {}
    messages: dict[str, Description] = {}
    blind: dict[str, Description] = {}
    for sample in asked:
        if sample.bucket is None:
            raise ValueError(f"sample {sample.id} has no bucket")
        key = sample.company, facts(sample)
        # A prompt tells these facts and no more, so posts that share them share the answer.
        if key not in known:
            known[key] = _answers(
                law, brands[sample.company], *key, (sample.width, sample.height), noise_M, rng
            )
        messages[sample.id], blind[sample.id] = known[key][sample.bucket], known[key]["any"]
    return messages, blind


def facts(sample: Sample) -> Facts:
    """What a prompt tells beside the brand."""
    words = frozenset(re.findall(r"[a-z]+", sample.text.lower()))
    return (
        season_of(int(sample.timestamp[5:7])),
        tuple(k for k in KINDS if k in words),
        words & frozenset(OBJECT_COLORS),
    )


def geometric_median(
    points_N3: NDArray[np.float64], weights_N: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The point of least weighted mean distance from the points, by Weiszfeld's iteration: RMSE is
    a distance, so no mean is best."""
    at_3 = np.average(points_N3, axis=0, weights=weights_N)
    for _ in range(_ROUNDS):
        # The point may come to lie on one of the others, whose pull must stay finite.
        pull_N = weights_N / np.maximum(np.linalg.norm(points_N3 - at_3, axis=1), 1e-6)
        at_3 = pull_N @ points_N3 / pull_N.sum()
    return np.asarray(at_3, np.float64)


def _brand(
    law: Law,
    scenes: Mapping[str, Scene],
    posts: Sequence[Sample],
    noise_M: NDArray[np.float64],
    rng: np.random.Generator,
) -> _Brand:
    shown = [scenes[s.post] for s in posts]
    looks = [s.description or Description() for s in posts]
    seen = [of_scene(scene) for scene in shown]
    scores_N = np.array(
        [law.score(f, s.company, facts(s)[0]) for f, s in zip(seen, posts, strict=True)]
    )
    return _Brand(
        seen,
        [
            frozenset(
                (
                    scene.background,
                    scene.gradient or scene.background,
                    *(t.color for t in scene.things),
                )
            )
            for scene in shown
        ],
        np.array([[look.colors.get(name, 0.0) for name in _NAMES] for look in looks]),
        np.array([[look.tones.get(tone, 0.0) for tone in TONES] for look in looks]),
        bucket_edges(scores_N, noise_M, rng),
    )


def _answers(
    law: Law,
    brand: _Brand,
    name: str,
    told: Facts,
    size: tuple[int, int],
    noise_M: NDArray[np.float64],
    rng: np.random.Generator,
) -> dict[str, Description]:
    """The answer for each bucket, and for ``any``."""
    season, kinds, colors = told
    # `bucket_weights` gives the told kinds to the objects of a stand-in, so it needs as many.
    alike = [i for i, features in enumerate(brand.seen) if len(features.things) == len(kinds)]
    telling = [i for i in alike if colors <= brand.words[i]]
    chosen = telling if len(telling) >= LEAST else alike
    weights = bucket_weights(
        law, [brand.seen[i] for i in chosen], (name, season, kinds), brand.edges_2, noise_M, rng
    )
    cases: dict[str, NDArray[np.float64]] = {bucket: weights[bucket] for bucket in BUCKETS}
    # On average buckets count alike in the weights, so their sum holds them equally likely, as the
    # twin's training does.
    cases["any"] = np.sum([weights[bucket] for bucket in BUCKETS], axis=0)
    whole: Box = (0.0, 0.0, float(size[0]), float(size[1]))
    objects = dict.fromkeys(kinds, whole)
    return {
        case: Description(*_look(brand.shares_NP[chosen], brand.tones_N3[chosen], w_N), objects)
        for case, w_N in cases.items()
    }


def _look(
    shares_NP: NDArray[np.float64], tones_N3: NDArray[np.float64], weights_N: NDArray[np.float64]
) -> tuple[dict[str, float], dict[str, float]]:
    """Colors and tones of least expected loss under weighted stand-ins."""
    colors = {
        _NAMES[p]: float(weights_N @ shares_NP[:, p])
        for p in np.flatnonzero(best_set(shares_NP > 0, weights_N))
    }
    whole = sum(colors.values())
    tones = geometric_median(tones_N3, weights_N)
    return {name: share / whole for name, share in colors.items()}, dict(
        zip(TONES, tones.tolist(), strict=True)
    )
