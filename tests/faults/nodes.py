"""Nodes of a Ray cluster on this machine, each a process that can be taken away."""

from __future__ import annotations

import _thread
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
from ray.cluster_utils import Cluster

if TYPE_CHECKING:
    pass


def nothing(*_: Any) -> None:
    pass


class Nodes:
    """The cluster's nodes, and a thread that takes away those of processes that ask for it."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.pools: dict[str, str] = {}

    def add(self, pool: str, **resources: Any) -> str:
        node = self.cluster.add_node(
            wait=False, **{"num_cpus": 1, "labels": {"pool": pool}, **resources}
        )
        self.cluster._wait_for_node(node, 240)
        self.pools[node.node_id] = pool
        return str(node.node_id)

    def remove(self, node_id: str) -> None:
        """All processes at once, as when the machine goes down."""
        [node] = [node for node in self.cluster.worker_nodes if node.node_id == node_id]
        [raylet] = node.all_processes["raylet"]
        process = psutil.Process(raylet.process.pid)
        for item in (process, *process.children(recursive=True)):
            item.kill()
        self.cluster.remove_node(node, allow_graceful=False)
        del self.pools[node_id]

    def replace(self, node_id: str) -> None:
        pool = self.pools[node_id]
        self.remove(node_id)
        self.add(pool)

    @contextmanager
    def answering(self, folder: Path, act: Callable[[str], Any]) -> Iterator[None]:
        """Call ``act`` with the node of each process that strikes a point."""
        ended = threading.Event()

        def watch() -> None:
            done: set[Path] = set()
            while not ended.wait(0.05):
                for struck in set(folder.glob("*.struck")) - done:
                    done.add(struck)
                    try:
                        act(struck.read_text())
                    except BaseException:  # who struck waits for ever
                        traceback.print_exc()
                        _thread.interrupt_main()
                        raise

        folder.mkdir(exist_ok=True)
        watching = threading.Thread(target=watch)
        watching.start()
        try:
            yield
        finally:
            ended.set()
            watching.join()
