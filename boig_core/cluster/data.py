"""Ray Data around the data and perception rooms: images fetched, and described, on as many processes as the cluster offers.

The batch functions themselves live in `boig_core.data` and `boig_core.perception` and run without Ray; here they only get fed. Results
do not depend on the number of processes. Leaves out: what is read and written (see `ray_jobs.ingest`, `ray_jobs.perceive`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Final

import pyarrow as pa
import ray
import ray.data

from boig_core.config import Data, Perception, Resources
from boig_core.data import dataset
from boig_core.data.fetch import Fetcher
from boig_core.data.images import StoredImage, decode
from boig_core.data.rejects import Rejected
from boig_core.perception.describe import Perceiver
from boig_core.storage.manifest import FileEntry

_FETCH_BATCH: Final = 512
_DESCRIBE_BATCH: Final = 256
"""Images an actor describes at a time: the fixed unit of work."""


def fetch_images(references: Sequence[str], base: str, data: Data, resources: Resources) -> Iterator[tuple[str, StoredImage | Rejected]]:
    """Fetch images on the cluster.

    Args:
        references: distinct image references.
        base: URI of the export's folder.
        data: limits of the recipe.
        resources: what a process asks for; fetching needs no GPU.

    Yields:
        Each reference with its image, or why it was rejected, in no particular order.

    Raises:
        StoreUnavailableError: the store is away (wrapped by Ray).
    """
    fetcher = Fetcher(base, data)

    def fetch(batch: pa.Table) -> pa.Table:
        wanted = [str(reference) for reference in batch["reference"].to_pylist()]
        return pa.Table.from_pylist([_row(*pair) for pair in zip(wanted, fetcher.fetch(wanted), strict=True)], _FETCHED)

    _quiet()
    rows = ray.data.from_items([{"reference": reference} for reference in references], override_num_blocks=_blocks(references))
    fetched = rows.map_batches(fetch, batch_size=_FETCH_BATCH, batch_format="pyarrow", num_cpus=resources.cpus)
    for batch in fetched.iter_batches(batch_size=None, batch_format="pyarrow"):
        for row in batch.to_pylist():
            reference, code, reason = (row.pop(name) for name in ("reference", "code", "reason"))
            yield reference, Rejected(code, reason) if code else StoredImage(**row)


def describe_images(dataset_uri: str, shards: Sequence[FileEntry], perception: Perception, resources: Resources) -> list[pa.Table]:
    """Describe every image of a dataset on a pool of actors, each of which loads its models once.

    Args:
        dataset_uri: a committed dataset.
        shards: its image shards.
        perception: the recipe's section.
        resources: what an actor asks for.

    Returns:
        One `dataset.perception_table` for each shard, boxes in pixels of the stored images.
    """
    _quiet()
    rows = [dataset.shard_rows(dataset_uri, entry) for entry in shards]
    slices = [
        {"shard": shard, "start": start, "stop": min(start + _DESCRIBE_BATCH, rows[shard])}
        for shard in range(len(shards))
        for start in range(0, rows[shard], _DESCRIBE_BATCH)
    ]
    # Half of the cluster's CPUs: an actor has to load its models first, so a few busy ones beat many that load.
    actors = max(1, min(len(slices), int(ray.cluster_resources().get("CPU", 1)) // 2))
    described = ray.data.from_items(slices, override_num_blocks=len(slices)).map_batches(
        _DescribeSlices,
        fn_constructor_args=(dataset_uri, list(shards), perception),
        batch_size=1,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=actors),
        num_cpus=resources.cpus,
        num_gpus=resources.gpus,
    )
    found: list[list[pa.Table]] = [[] for _ in shards]
    for batch in described.iter_batches(batch_size=None, batch_format="pyarrow"):
        found[batch["shard"][0].as_py()].append(batch.drop_columns(["shard"]))
    return [pa.concat_tables(tables).sort_by("sha256") for tables in found]


class _DescribeSlices:
    """Actor of `describe_images`: one slice of one shard at a time."""

    def __init__(self, dataset_uri: str, shards: list[FileEntry], perception: Perception) -> None:
        self._dataset_uri = dataset_uri
        self._shards = shards
        self._perceiver = Perceiver.from_recipe(perception)
        self._open: tuple[int, list[StoredImage]] = (-1, [])

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Perception of the batch's one slice, with the index of its shard."""
        [piece] = batch.to_pylist()
        shard = piece["shard"]
        if self._open[0] != shard:  # slices of a shard come one after another, so the last one read stays at hand
            self._open = shard, list(dataset.shard_images(self._dataset_uri, self._shards[shard]))
        images = self._open[1][piece["start"] : piece["stop"]]
        side = self._perceiver.side
        seen = self._perceiver.describe([decode(image.data) for image in images])
        described = {i.sha256: d.scaled(i.width / side, i.height / side) for i, d in zip(images, seen, strict=True)}
        table = dataset.perception_table(described, {image.sha256: (image.width, image.height) for image in images})
        return table.append_column("shard", pa.array([shard] * len(images), pa.int64()))


_FETCHED: Final = dataset.schema_of(
    {
        **dict.fromkeys(("reference", "sha256", "code", "reason"), pa.string()),
        "data": pa.binary(),
        "width": pa.int32(),
        "height": pa.int32(),
    }
)


def _row(reference: str, found: StoredImage | Rejected) -> dict[str, object]:
    image = found if isinstance(found, StoredImage) else StoredImage(b"", "", 0, 0)
    code, reason = (found.code, found.reason) if isinstance(found, Rejected) else ("", "")
    return {"reference": reference, "code": code, "reason": reason, **image.__dict__}


def _blocks(references: Sequence[str]) -> int:
    return max(1, math.ceil(len(references) / _FETCH_BATCH))


def _quiet() -> None:
    """No progress bars: a stage's log is read in Airflow, line by line."""
    ray.data.DataContext.get_current().enable_progress_bars = False
