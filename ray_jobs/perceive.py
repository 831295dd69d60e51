"""Stage perceive: colors, tones and objects of every image of a dataset, as a new version of it.

Input ``dataset``. Output ``dataset``: labels and rejects copied, perception shards among the blobs, ``perceived: true``.
"""

from __future__ import annotations

import sys
from collections import Counter

from boig_core.data import dataset
from boig_core.errors import InputError
from boig_core.observability.logs import get_logger
from boig_core.storage import store
from boig_core.storage.job import Outcome, Workspace, run_stage

log = get_logger(__name__)


def work(space: Workspace) -> Outcome:
    """Describe, write, publish.

    Raises:
        InputError: the dataset belongs to another store or has another name than the recipe's.
        CorruptError: the dataset differs from its manifest.
    """
    from boig_core.cluster.data import describe_images
    from boig_core.cluster.session import connect

    recipe = space.recipe
    source = space.job.input("dataset")
    folder, parts = space.fetch("dataset", dataset.KIND)
    images = dataset.shards(parts, dataset.IMAGES)
    family = f"datasets/{recipe.data.name}"
    root = store.join(space.job.store, family)
    if store.normalize(source).rsplit("/", 1)[0] != store.normalize(root):
        raise InputError(
            source, f"does not lie in {root}, where its image shards are shared", "set data.name and the store to the dataset's"
        )
    connect()
    tables = describe_images(source, images, recipe.perception, recipe.resources)
    perception = [dataset.write_shard(table, dataset.PERCEPTION, root) for table in tables]
    names = Counter(name for table in tables for objects in table["objects"].to_pylist() for name, _ in objects or ())
    described = sum(table.num_rows for table in tables)
    log.info("%d images described; objects: %s", described, dict(names.most_common()))
    meta = {**parts.meta, "perceived": True, "objects": dict(sorted(names.items()))}
    uri = space.publish(family, folder, kind=dataset.KIND, meta=meta, blobs=(*dataset.shards(parts, dataset.POSTS), *images, *perception))
    return Outcome({"dataset": uri}, {"described": described, "objects": meta["objects"]})


if __name__ == "__main__":
    sys.exit(run_stage(work))
