"""Stage ingest: an export of posts and images becomes a dataset with buckets, splits and rejects.

Input ``posts``: URI of a posts file or of the folder that holds it. Output ``dataset``.
"""

from __future__ import annotations

import sys

from boig_core.data import dataset
from boig_core.data.images import StoredImage
from boig_core.data.posts import Reject, find_posts, read_posts
from boig_core.data.samples import card, make_samples
from boig_core.errors import InputError
from boig_core.observability.logs import get_logger
from boig_core.storage import store
from boig_core.storage.job import Outcome, Workspace, run_stage

log = get_logger(__name__)


def work(space: Workspace) -> Outcome:
    """Read, fetch, label, write.

    Raises:
        InputError: no posts file, or not one row that can be used.
    """
    from boig_core.cluster.data import fetch_images
    from boig_core.cluster.session import connect

    recipe = space.recipe
    source = find_posts(space.job.input("posts"))
    posts, rejects = read_posts(source, recipe.data, recipe.seed)
    log.info("%d posts accepted, %d rows rejected", len(posts), len(rejects))
    if not posts:
        raise InputError(source, f"has no usable post among {len(rejects)} rows", _most_common(rejects))
    connect()
    references = sorted({reference for post in posts for reference in post.images})
    images = dict(fetch_images(references, source.rsplit("/", 1)[0], recipe.data, recipe.resources))
    samples, lost = make_samples(posts, images, recipe.data, recipe.seed)
    rejects += lost
    if not samples:
        raise InputError(source, "has no post with an image that can be read", _most_common(rejects))

    root = store.join(space.job.store, "datasets", recipe.data.name)
    stored = (image for image in images.values() if isinstance(image, StoredImage))
    blobs = tuple(dataset.write_shard(shard, dataset.IMAGES, root) for shard in dataset.image_shards(stored, recipe.data.shard_mb))
    folder = space.scratch / "dataset"
    folder.mkdir()
    (folder / dataset.LABELS).write_bytes(dataset.parquet_bytes(dataset.labels_table(samples)))
    (folder / dataset.REJECTS).write_bytes(dataset.parquet_bytes(dataset.rejects_table(rejects)))
    meta = card(samples, rejects, posts=len(posts) + sum(reject.image is None for reject in rejects))
    uri = space.publish(f"datasets/{recipe.data.name}", folder, kind=dataset.KIND, meta=meta, blobs=blobs)
    return Outcome({"dataset": uri}, meta)


def _most_common(rejects: list[Reject]) -> str:
    """What to mend first."""
    counts: dict[str, list[Reject]] = {}
    for reject in rejects:
        counts.setdefault(reject.code, []).append(reject)
    if not counts:
        return "export at least one post"
    code, found = max(counts.items(), key=lambda item: len(item[1]))
    return f"most often {code} ({len(found)} times), first in line {found[0].line}: {found[0].reason}"


if __name__ == "__main__":
    sys.exit(run_stage(work))
