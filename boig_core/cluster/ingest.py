"""The crew of an ingestion on a cluster: chunks fetched into shards on every core that there is.

The work itself lives in `boig_core.data.staging` and runs without Ray. Results do not depend on the
number of processes. Leaves out: the order of the work (see `boig_core.data.ingestion`).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import TYPE_CHECKING

from boig_core.config import Data
from boig_core.data import staging
from boig_core.data.staging import FetchChunk

if TYPE_CHECKING:
    import pyarrow as pa


class RayCrew:
    """Fetches on as many processes as the cluster has cores; implements `ingestion.ImageFetcher`.

    Connects when there is something to fetch, so that a wrong input ends before a cluster is
    started. Images that are no full first chunk are there before a cluster would have come up, so
    none is started for them."""

    def fetch(self, chunks: Iterable[FetchChunk], data: Data, root: str) -> Iterator[pa.Table]:
        """Chunk by chunk, as they come; a chunk whose process or node dies is staged again
        elsewhere.

        Raises:
            ClusterError: there is no cluster.
            StoreUnavailableError: the store is away (wrapped by Ray where a cluster is used).
        """
        waiting = iter(chunks)
        first = next(waiting, None)
        if first is None:
            return
        all_there_is = first.number == 0 and len(first.references) < staging.CHUNK
        if all_there_is and not os.environ.get("RAY_ADDRESS"):
            # Foreign images are decoded apart here as well.
            yield staging.stage(first, data, root)
            return

        import ray

        from boig_core.cluster.session import connect
        from boig_core.cluster.spread import spread

        connect()
        # Once into the object store, not once with each chunk.
        limits = ray.put(data)
        items = ((chunk, limits, root) for chunk in chain([first], waiting))
        yield from (index for _, index in spread(staging.stage, items))
