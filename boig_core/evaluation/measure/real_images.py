"""Real images that generated ones are held against: how far are they as a set, and how near is the
most similar training image?

Every distance has a floor beside it: what real images give against real ones. Leaves out: the
distances themselves (see `distances`). Shape letters: N images, H held-out real images, T training
images, F features, D width of the joint space.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from boig_core.config import Recipe
from boig_core.data.dataset import read_images
from boig_core.errors import InputError
from boig_core.evaluation.measure.distances import fid, kid
from boig_core.evaluation.measure.judges import ClipJudge, novelty
from boig_core.evaluation.measure.named_objects import named
from boig_core.evaluation.measure.sampling_plan import STREAM
from boig_core.vocabulary import Description, Sample

_TRAINED: Final = 512
"""Training images that novelty is measured against, at most: they are held in memory at the model's
resolution."""


@dataclass(frozen=True)
class Real:
    """Real HIGH images.

    Attributes:
        features_HF: of held-out ones, for KID and FID.
        embedding_HD: for their own novelty.
        named_H: `named` of them.
        embedding_TD: of the training split's, what novelty is measured against.
    """

    features_HF: NDArray[np.float64]
    embedding_HD: NDArray[np.float64]
    named_H: NDArray[np.float64]
    embedding_TD: NDArray[np.float64]


def see_real(
    dataset: str, samples: Sequence[Sample], clip: ClipJudge, features: ClipJudge, recipe: Recipe
) -> Real:
    """Look at held-out HIGH images, and at a seeded choice of HIGH images of the training split.

    Args:
        dataset: URI of its manifest's folder.
        samples: of the dataset.
        clip: gives embeddings.
        features: gives features.
        recipe: resolution of the models, kinds of objects, and the seed of the choice.

    Raises:
        InputError: too few held-out images.
    """
    real = real_samples(samples)
    images_of = read_images(dataset, [sample.image for sample in real], recipe.sd.resolution)
    pixels = [images_of[sample.image] for sample in real]
    seen = clip.see(pixels)
    names = sorted(
        {sample.image for sample in samples if sample.split == "train" and sample.bucket == "high"}
    )
    order = np.random.default_rng(recipe.seed).permutation(len(names))[:_TRAINED]
    chosen = [names[index] for index in order]
    train_of = read_images(dataset, chosen, recipe.sd.resolution)
    return Real(
        features_HF=seen.features_NF if features is clip else features.see(pixels).features_NF,
        embedding_HD=seen.embedding_ND,
        named_H=named(
            [sample.description or Description() for sample in real], real, recipe.perception.kinds
        ),
        embedding_TD=clip.see([train_of[image] for image in chosen]).embedding_ND
        if chosen
        else seen.embedding_ND[:0],
    )


def real_samples(samples: Sequence[Sample]) -> list[Sample]:
    """Real HIGH samples outside the training split, one per image: what the generated images are
    held against."""
    # By image: posts may share one, and a copy would make real images look nearer to each other.
    by_image = {
        sample.image: sample
        for sample in samples
        if sample.split != "train" and sample.bucket == "high"
    }
    # Two halves of at least two each, the least that KID takes.
    if len(by_image) < 4:
        raise InputError(
            f"{len(by_image)} held-out HIGH images", "must be at least 4", "ingest more posts"
        )
    return [by_image[image] for image in sorted(by_image)]


class Distances:
    """Distances of sets of images from real ones, and what two halves of the real ones give.

    FID compares ``fid_n`` images per side: as many as are generated, at most half of the real ones;
    0 where that is below ``fid_min``.
    """

    def __init__(self, real: Real, generated: int, fid_min: int, seed: int) -> None:
        real_NF = real.features_HF
        order = np.random.default_rng([seed, STREAM, 2]).permutation(len(real_NF))
        self._real = real
        self._real_NF, self._half, self._seed = real_NF[order], len(real_NF) // 2, seed
        # At most a half, since the floor compares two halves and FID falls with the number of
        # images: one n for all.
        n = min(self._half, generated)
        self._fid_n = n if n >= fid_min else 0

    def kid(self, features_NF: NDArray[np.float64]) -> float | None:
        """KID from all of the real images; None for fewer than two on a side."""
        return (
            kid(self._real_NF, features_NF, self._seed)
            if min(len(self._real_NF), len(features_NF)) >= 2
            else None
        )

    def fid(self, features_NF: NDArray[np.float64]) -> float | None:
        """FID at ``fid_n`` images per side; None where either side has fewer."""
        n = self._fid_n
        if not 2 <= n <= len(features_NF):
            return None
        # Evenly over the prompts.
        spread_n = np.linspace(0, len(features_NF) - 1, n).round().astype(int)
        return fid(self._real_NF[:n], features_NF[spread_n])

    def novelty(self, embedding_ND: NDArray[np.float64]) -> float | None:
        """Mean distance from the most similar training image; None without any."""
        return (
            novelty(embedding_ND, self._real.embedding_TD) if len(self._real.embedding_TD) else None
        )

    def floors(self) -> dict[str, float | int | None]:
        """Real against real: KID of the two halves, FID at the n of the models' own, novelty of
        held-out images."""
        halves, n = (self._real_NF[: self._half], self._real_NF[self._half :]), self._fid_n
        return {
            "kid": kid(*halves, self._seed) if self._half >= 2 else None,
            "fid": fid(halves[0][:n], halves[1][:n]) if n >= 2 else None,
            "fid_n": n,
            "novelty": self.novelty(self._real.embedding_HD),
            "trained": len(self._real.embedding_TD),
            "real": len(self._real_NF),
            "features": int(self._real_NF.shape[1]),
        }
