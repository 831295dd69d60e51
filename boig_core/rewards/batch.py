"""Images that are scored as a job of their own: those of a dataset's split, or a folder of image
files with the posts they are for.

Leaves out: many processes (see `boig_core.cluster.scoring`), scores that are known already (see
`cache`), and what becomes of them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from boig_core.config import Recipe
from boig_core.data.imaging.decoding import normalize_untrusted
from boig_core.data.imaging.images import READABLE, Pixels, decode
from boig_core.data.rejects import Rejected
from boig_core.errors import InputError
from boig_core.rewards import offered
from boig_core.rewards.calibration import Conditions
from boig_core.rewards.loading import Models
from boig_core.rewards.scorer import Perceives, look, score_formulations
from boig_core.storage import store
from boig_core.vocabulary import Description, Sample, Split

_RULE: Final = 'must hold lines {"image": FILE, "id": SAMPLE}, as JSON'


@dataclass(frozen=True)
class Item:
    """An image with the post that it is for.

    Attributes:
        sample: whose account, prompt and frame count.
        image: its name: SHA-256 of a dataset's image, path of a file within its folder.
        sha256: of its bytes.
        uri: where the file lies; None: it is the sample's own image, and what is seen in it is
            known.
    """

    sample: Sample
    image: str
    sha256: str
    uri: str | None = None


def split_items(samples: Sequence[Sample], split: Split) -> list[Item]:
    """The perceived images of a split.

    Raises:
        InputError: there is none.
    """
    chosen = [
        sample for sample in samples if sample.split == split and sample.description is not None
    ]
    if not chosen:
        raise InputError(
            f"{split} split",
            "holds no perceived sample",
            "run perceive, or choose another reward.split",
        )
    return [Item(sample, sample.image, sample.image) for sample in chosen]


def folder_items(samples: Sequence[Sample], folder: str, posts: str) -> list[Item]:
    """The image files that a list of posts names.

    Args:
        samples: of the dataset that the posts stand in.
        folder: URI of the image files.
        posts: URI of JSON lines, each with an ``image``, a path within the folder, and the ``id``
            of a sample.

    Raises:
        InputError: a line of another shape, a sample that the dataset does not hold, or no line at
            all.
        NotFoundInStoreError: a file is missing.
    """
    by_id = {sample.id: sample for sample in samples}
    items = []
    for number, line in enumerate(
        store.read_bytes(posts).decode("utf-8", errors="replace").splitlines(), 1
    ):
        if not line.strip():
            continue
        name, key = _fields(line, f"{posts}, line {number}")
        if key not in by_id:
            raise InputError(
                f"{posts}, line {number}: {key!r}",
                "is no sample of the dataset",
                "name the id of a sample",
            )
        # Only the hash is kept, for the question of the cache: the file is read again where it is
        # scored, which may be another machine.
        uri = store.join(folder, name)
        items.append(Item(by_id[key], name, hashlib.sha256(store.read_bytes(uri)).hexdigest(), uri))
    if not items:
        raise InputError(posts, "names no image", _RULE)
    return items


class BatchScorer:
    """Scores items by every formulation that the models offer.

    Args:
        models: of BoigLLM, and the engagement predictor where there is one.
        perceiver: looks at files; None where there are none.
        recipe: `reward.chunk` and `data.max_pixels` are read.
        conditions: HIGH and LOW of each account.
    """

    def __init__(
        self, models: Models, perceiver: Perceives | None, recipe: Recipe, conditions: Conditions
    ) -> None:
        self._models, self._perceiver, self._recipe, self._conditions = (
            models,
            perceiver,
            recipe,
            conditions,
        )

    def __call__(self, items: Sequence[Item]) -> Mapping[str, NDArray[np.float64]]:
        """Values by name, each (N,); errors as for `score_formulations`."""
        samples = [item.sample for item in items]
        if self._perceiver is None:
            seen = [sample.description or Description() for sample in samples]
        else:
            seen = look(
                self._perceiver,
                [_pixels(str(item.uri), self._recipe.data.max_pixels) for item in items],
                samples,
            )
        # All that can be had is scored, beyond what the recipe weighs: the rows go into the cache,
        # where another recipe finds them.
        names = offered(predictor=self._models.engagement is not None)
        return score_formulations(
            self._models, seen, samples, self._conditions, self._recipe.reward.chunk, names
        )


def summary(
    values: Mapping[str, NDArray[np.float64]], reward_N: NDArray[np.float64], items: Sequence[Item]
) -> dict[str, Any]:
    """Mean and standard deviation of each formulation and of the reward, over all images and by
    their samples' bucket."""
    columns = {**values, "reward": reward_N}
    bucket_N = np.array([item.sample.bucket or "none" for item in items])
    groups = {
        "all": np.ones(len(items), bool),
        **{str(name): bucket_N == name for name in np.unique(bucket_N)},
    }
    return {
        group: {
            "n": int(in_N.sum()),
            **{
                k: {"mean": float(v[in_N].mean()), "std": float(v[in_N].std())}
                for k, v in columns.items()
            },
        }
        for group, in_N in groups.items()
    }


def _fields(line: str, where: str) -> tuple[str, str]:
    try:
        row = json.loads(line)
        name, key = row["image"], row["id"]
    except (ValueError, TypeError, KeyError) as exc:
        raise InputError(where, _RULE, "mend the line") from exc
    if (
        not isinstance(name, str)
        or not isinstance(key, str)
        or not name
        # A name that starts at the root or climbs by `..` would read files outside the given
        # folder.
        or name.startswith("/")
        or ".." in name.split("/")
    ):
        raise InputError(
            where, "must name a path within the folder and the id of a sample", "mend the line"
        )
    return name, key


def _pixels(uri: str, max_pixels: int) -> Pixels:
    try:
        # Files go through the same check and form as images that are ingested, so that a picture is
        # seen alike from a folder and from a dataset.
        return decode(normalize_untrusted(store.read_bytes(uri), max_pixels).data)
    except Rejected as exc:
        raise InputError(uri, str(exc), f"give a {READABLE} image") from exc
