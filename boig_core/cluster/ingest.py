"""The crews of an ingestion: chunks fetched into shards on every core, of a cluster or of this
machine.

The work itself lives in `boig_core.data.staging` and runs without either. Results do not depend on
the number of processes. Leaves out: the order of the work (see `boig_core.data.ingestion`).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import TYPE_CHECKING

from boig_core.cluster.processes import Processes
from boig_core.config import Data
from boig_core.data import staging
from boig_core.data.ingestion import ImageFetcher
from boig_core.data.staging import FetchChunk

if TYPE_CHECKING:
    import pyarrow as pa


def choose_crew() -> ImageFetcher:
    """A cluster's where the environment names one, which may reach what this machine does not; else
    this machine's."""
    return RayCrew() if os.environ.get("RAY_ADDRESS") else LocalCrew()


class LocalCrew:
    """Fetches on as many processes as this machine has cores; implements `ingestion.ImageFetcher`.

    The first chunk is fetched right here, where foreign images are decoded apart as well, while the
    processes start; they end with the chunks after it. A first chunk that is not full is all there
    is, and none are started for it."""

    def __init__(self) -> None:
        self._processes: Processes[pa.Table] | None = None

    def fetch(self, chunks: Iterable[FetchChunk], data: Data, root: str) -> Iterator[pa.Table]:
        """Chunk by chunk, as they come; a chunk whose process dies is staged again by another.

        Raises:
            ClusterError: a chunk has lost its process too often.
            StoreUnavailableError: the store is away.
        """
        waiting = iter(chunks)
        for chunk in waiting:
            if chunk.number == 0:
                if len(chunk.references) == staging.CHUNK:
                    self._processes = self._start()
                yield staging.stage(chunk, data, root)
            else:
                processes = self._processes or self._start()
                items = ((each, data, root) for each in chain([chunk], waiting))
                yield from (index for _, index in processes.spread(items))

    def _start(self) -> Processes[pa.Table]:
        return Processes(staging.stage, os.cpu_count() or 1)


class RayCrew:
    """Fetches on as many processes as the cluster has cores; implements `ingestion.ImageFetcher`.

    Connects when there is something to fetch, so that a wrong input ends before."""

    def fetch(self, chunks: Iterable[FetchChunk], data: Data, root: str) -> Iterator[pa.Table]:
        """Chunk by chunk, as they come; a chunk whose process or node dies is staged again
        elsewhere.

        Raises:
            ClusterError: there is no cluster.
            StoreUnavailableError: the store is away (wrapped by Ray).
        """
        waiting = iter(chunks)
        first = next(waiting, None)
        if first is None:
            return

        import ray

        from boig_core.cluster.session import connect
        from boig_core.cluster.spread import spread

        connect()
        # Once into the object store, not once with each chunk.
        limits = ray.put(data)
        items = ((chunk, limits, root) for chunk in chain([first], waiting))
        yield from (index for _, index in spread(staging.stage, items))
