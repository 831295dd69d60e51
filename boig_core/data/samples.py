"""Samples: posts and their fetched images become the labeled rows of a dataset, with KPI buckets per account and splits by post.

Pure: equal posts and images give equal samples, in whatever order they come. Leaves out: fetching and writing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from boig_core.config import Data
from boig_core.data.images import StoredImage
from boig_core.data.kpi import buckets, percentiles
from boig_core.data.posts import Post, Reject
from boig_core.data.rejects import Rejected
from boig_core.data.split import Key, splits_of
from boig_core.vocabulary import BUCKETS, Sample, Split

SPLITS: Final[tuple[Split, ...]] = ("train", "validation", "test")


def make_samples(
    posts: Sequence[Post], images: Mapping[str, StoredImage | Rejected], data: Data, seed: int
) -> tuple[list[Sample], list[Reject]]:
    """Label posts that have at least one good image.

    Args:
        posts: accepted rows.
        images: by reference, for every reference of the posts.
        data: percentiles, floors, shares.
        seed: of the splits.

    Returns:
        Samples sorted by id, one an image, and the images that were left out. Percentiles are over the posts that stay.
    """
    rejects = [
        Reject(post.line, post.id, reference, found.code, found.reason)
        for post in posts
        for reference in post.images
        if isinstance(found := images[reference], Rejected)
    ]
    kept = [post for post in posts if any(isinstance(images[reference], StoredImage) for reference in post.images)]
    kpi_N = np.array([post.kpi for post in kept], np.float64)
    percentile_N = percentiles([post.account for post in kept], kpi_N)
    labels = buckets(percentile_N, kpi_N, data.percentiles, data.floors)
    splits = splits_of([_key(post, images) for post in kept], data.split_by, data.split, seed)
    samples: dict[str, Sample] = {}
    taken = {post.id for post in kept}
    for post, percentile, bucket, split in zip(kept, percentile_N, labels, splits, strict=True):
        if split is None:
            reason = "it shares an image with a post of an earlier split"
            rejects.append(Reject(post.line, post.id, None, "image_repeated", reason))
            continue
        for place, reference in enumerate(post.images, start=1):
            image = images[reference]
            name = post.id if place == 1 else f"{post.id}-{place}"
            if isinstance(image, Rejected):
                continue
            if place > 1 and name in taken:
                rejects.append(Reject(post.line, post.id, reference, "duplicate_id", f"another post has the id {name}"))
                continue
            samples[name] = Sample(
                id=name,
                post=post.id,
                account=post.account,
                company=post.company,
                timestamp=post.timestamp,
                text=post.text,
                keywords=post.keywords,
                kpi=post.kpi,
                kpi_normalized=round(float(percentile), 4),
                bucket=bucket,
                split=split,
                image=image.sha256,
                width=image.width,
                height=image.height,
            )
    return [samples[name] for name in sorted(samples)], rejects


def _key(post: Post, images: Mapping[str, StoredImage | Rejected]) -> Key:
    found = [images[reference] for reference in post.images]
    return Key(post.id, post.account, post.timestamp, tuple(image.sha256 for image in found if isinstance(image, StoredImage)))


def card(samples: Sequence[Sample], rejects: Sequence[Reject], posts: int) -> dict[str, Any]:
    """The numbers of a dataset, for its manifest and the report.

    Args:
        samples: what was accepted.
        rejects: what was left out.
        posts: rows in the export.
    """
    in_bucket = Counter((sample.bucket, sample.split) for sample in samples)
    return {
        "posts": posts,
        "rejected": len(rejects),
        "rejected_by_reason": dict(sorted(Counter(reject.code for reject in rejects).items())),
        "samples": len(samples),
        "images": len({sample.image for sample in samples}),
        "accounts": len({sample.account for sample in samples}),
        "buckets": {bucket: {split: in_bucket[bucket, split] for split in SPLITS} for bucket in BUCKETS},
        "without_bucket": sum(sample.bucket is None for sample in samples),
        "splits": dict(Counter(sample.split for sample in samples)),
    }
