"""Ray Data around the data and perception rooms: images fetched, and described, on as many processes as the cluster offers.

The batch functions themselves live in `boig_core.data` and `boig_core.perception` and run without Ray; here they only get fed. Results
do not depend on the number of processes. Leaves out: what is read and written (see `ray_jobs.ingest`, `ray_jobs.perceive`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import pyarrow as pa
import ray
import ray.data

from boig_core.config import Data, Perception, Resources
from boig_core.data import dataset, staging
from boig_core.data.images import StoredImage, decode
from boig_core.data.ingestion import Shard
from boig_core.data.staging import Chunk
from boig_core.perception.describe import Perceiver
from boig_core.storage.manifest import FileEntry

_DESCRIBE_BATCH: Final = 256
"""Images an actor describes at a time: the fixed unit of work."""


@dataclass(frozen=True)
class RayCrew:
    """Fetches and packs on as many processes as the cluster offers; implements `ingestion.Crew`.

    Attributes:
        resources: what a process asks for; neither work needs a GPU.
    """

    resources: Resources

    def fetch(self, chunks: Iterable[Chunk], data: Data, folder: str) -> Iterator[pa.Table]:
        """Chunk by chunk, as they come; a chunk whose process or node dies is staged again elsewhere.

        Raises:
            StoreUnavailableError: the store is away (wrapped by Ray).
        """

        def stage_batch(batch: pa.Table) -> pa.Table:
            [chunk] = batch.to_pylist()
            return staging.stage(Chunk(chunk["number"], chunk["key"], tuple(chunk["addresses"])), data, folder)

        yield from _spread([asdict(chunk) for chunk in chunks], stage_batch, self.resources)

    def build(self, shards: Sequence[Shard], folder: str, root: str) -> list[FileEntry]:
        """Shard by shard."""

        def build_batch(batch: pa.Table) -> pa.Table:
            [shard] = batch.to_pylist()
            entry = staging.build_shard(folder, shard["keys"], shard["images"], root)
            return pa.table({"nr": [shard["nr"]], "entry": [entry.model_dump_json()]})

        tasks = [{"nr": nr, "keys": list(shard.keys), "images": list(shard.images)} for nr, shard in enumerate(shards)]
        built = {row["nr"]: row["entry"] for table in _spread(tasks, build_batch, self.resources) for row in table.to_pylist()}
        return [FileEntry.model_validate_json(built[nr]) for nr in range(len(shards))]


def _spread(items: list[dict[str, Any]], work: Callable[[pa.Table], pa.Table], resources: Resources) -> Iterator[pa.Table]:
    """The result of each item, in no particular order."""
    if not items:
        return
    _quiet()
    rows = ray.data.from_items(items, override_num_blocks=len(items))
    done = rows.map_batches(work, batch_size=1, batch_format="pyarrow", num_cpus=resources.cpus)
    yield from done.iter_batches(batch_size=None, batch_format="pyarrow")


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


def _quiet() -> None:
    """No progress bars: a stage's log is read in Airflow, line by line."""
    ray.data.DataContext.get_current().enable_progress_bars = False
