"""The crew of an ingestion on a cluster: chunks fetched and shards packed on every core that there is.

The work itself lives in `boig_core.data.staging` and runs without Ray. Results do not depend on the number of processes. Leaves out: the
order of the work (see `boig_core.data.ingestion`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import ray

from boig_core.cluster.spread import spread
from boig_core.config import Data
from boig_core.data import staging
from boig_core.data.ingestion import Shard
from boig_core.data.staging import Chunk
from boig_core.storage.manifest import FileEntry

if TYPE_CHECKING:
    import pyarrow as pa


class RayCrew:
    """Fetches and packs on as many processes as the cluster has cores; implements `ingestion.Crew`."""

    def fetch(self, chunks: Iterable[Chunk], data: Data, folder: str) -> Iterator[pa.Table]:
        """Chunk by chunk, as they come; a chunk whose process or node dies is staged again elsewhere.

        Raises:
            StoreUnavailableError: the store is away (wrapped by Ray).
        """
        limits = ray.put(data)
        yield from (index for _, index in spread(staging.stage, ((chunk, limits, folder) for chunk in chunks)))

    def build(self, shards: Sequence[Shard], folder: str, root: str) -> list[FileEntry]:
        """Shard by shard."""
        built = dict(spread(staging.build_shard, ((folder, shard.keys, shard.images, root) for shard in shards)))
        return [built[number] for number in range(len(shards))]
