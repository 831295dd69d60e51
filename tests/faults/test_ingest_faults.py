"""``kill -9`` during ingest, at counted requests of the image server: of a Ray worker, of a node,
of the driver.

Whatever dies, the version that comes out is the undisturbed one byte for byte, and nothing that was
staged is fetched again.
"""

import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import psutil
import pyarrow.parquet as pq
import pytest
from ray.cluster_utils import Cluster

from boig_core.cluster.stage import run_stage
from boig_core.config import load_recipe
from boig_core.data import staging, tables
from boig_core.storage import commit, store
from boig_core.storage.job import Job, Stage, write_job
from boig_core.storage.manifest import read_manifest
from ray_jobs import ingest
from tests.clusters import cluster_of_nodes
from tests.unit.data.conftest import Archive, picture, row

IMAGES = 160
CHUNK = 8
OVERRIDES = (
    "data.allow_private_hosts=true",
    "data.shard_mb=0.02",
    "data.fetch_concurrency=2",
    "data.negatives=0.25",
)


class Server(BaseHTTPRequestHandler):
    """Serves pictures, and calls ``strike`` with the client's port at request ``strike_at``,
    once."""

    protocol_version = "HTTP/1.1"
    pictures: ClassVar[list[bytes]] = [picture(i) for i in range(IMAGES)]
    asked: ClassVar[Counter[str]] = Counter()
    strike_at: ClassVar[int] = 0
    strike: ClassVar[Callable[[int], None]]
    lock: ClassVar[threading.Lock] = threading.Lock()

    def do_GET(self) -> None:
        with self.lock:
            self.asked[self.path] += 1
            now = self.strike_at and self.asked.total() == self.strike_at
        if now:
            type(self).strike_at = 0
            type(self).strike(self.client_address[1])
        data = self.pictures[int(self.path.strip("/").removesuffix(".png"))]
        try:
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)
        except OSError:  # the client was struck
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def location(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An export whose images come from the server."""
    http = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    rows = [
        row(f"{i:03}", 30 + i, f"http://127.0.0.1:{http.server_port}/{i}.png", account="ab"[i % 2])
        for i in range(IMAGES)
    ]
    yield Archive(tmp_path_factory.mktemp("export")).export(rows, {})
    http.shutdown()
    http.server_close()


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staging, "CHUNK", CHUNK)
    Server.asked.clear()


@pytest.fixture(scope="module")
def undisturbed(location: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Content of the version that no one disturbs, made in one process."""
    archive = Archive(tmp_path_factory.mktemp("undisturbed"))
    recipe = load_recipe("tiny", OVERRIDES)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(staging, "CHUNK", CHUNK)
        uri = archive.ingest(location, seed=recipe.seed, **recipe.data.model_dump())
    return content(uri)


def content(uri: str) -> dict[str, str]:
    return {
        entry.path: entry.sha256
        for entry in read_manifest(uri).files
        if entry.path != tables.REJECTS
    }


def job(folder: Path, location: str, attempt: int) -> Job:
    recipe = load_recipe("tiny", OVERRIDES)
    task = f"{folder}/runs/boig_ingest/r/ingest"
    return Job(
        stage=Stage.INGEST,
        recipe=recipe,
        inputs={"posts": location},
        store=str(folder),
        root="test",
        task=task,
        attempt=attempt,
    )


def committed(made: Job) -> dict[str, str]:
    done = commit.read_commit(made.attempt_uri)
    assert done is not None
    assert done["metrics"]["rejected"] == 0
    assert not store.list_files(
        store.join(made.store, "datasets", made.recipe.data.name, "staging")
    )
    return content(done["outputs"]["dataset"])


def client(port: int) -> int:
    """Process behind a port of this machine."""
    [pid] = {
        item.pid
        for item in psutil.net_connections("tcp")
        if item.laddr and item.laddr.port == port and item.pid not in {None, os.getpid()}
    }
    return int(pid)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A head without CPUs, and a node that does the work."""
    with cluster_of_nodes() as created:
        created.add_node(num_cpus=2)
        yield created


@pytest.mark.parametrize("victim", ["worker", "node"])
def test_a_killed_worker_or_node_changes_nothing(
    victim: str,
    cluster: Cluster,
    location: str,
    undisturbed: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A stage that is told no cluster fetches on its own machine.
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    struck: list[int] = []

    def strike(port: int) -> None:
        pid = client(port)
        if victim == "worker":
            os.kill(pid, signal.SIGKILL)
        else:
            node = psutil.Process(pid).parent()
            assert node is not None
            assert "raylet" in node.name()
            cluster.add_node(num_cpus=2)
            for process in (node, *node.children(recursive=True)):  # as when the machine goes down
                process.kill()
        struck.append(pid)

    Server.asked.clear()
    Server.strike, Server.strike_at = staticmethod(strike), IMAGES // 2
    created = job(tmp_path, location, 1)
    assert run_stage(ingest.work, [write_job(created)]) == 0
    assert len(struck) == 1
    assert committed(created) == undisturbed
    # What was under way came again, and nothing else.
    assert IMAGES < Server.asked.total() <= IMAGES + 4 * CHUNK


@pytest.mark.parametrize("strike_at", [IMAGES // 2, IMAGES])
def test_a_killed_driver_is_started_again_and_fetches_only_what_is_missing(
    strike_at: int, location: str, undisturbed: dict[str, str], tmp_path: Path
) -> None:
    script = f"from boig_core.data import staging; staging.CHUNK = {CHUNK}; from boig_core.cluster.session import connect; connect(2); "
    script += "import sys; from boig_core.cluster.stage import run_stage; from ray_jobs import ingest; sys.exit(run_stage(ingest.work))"
    first, second = (job(tmp_path, location, attempt) for attempt in (1, 2))
    running: list[subprocess.Popen[bytes]] = []

    def start(made: Job) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-c", script, write_job(made)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    Server.strike, Server.strike_at = staticmethod(lambda port: running[0].kill()), strike_at
    running.append(start(first))
    assert running[0].wait(120) == -signal.SIGKILL
    assert commit.fate(first.attempt_uri) == "open"
    assert not store.list_files(
        store.join(str(tmp_path), "datasets", first.recipe.data.name, first.version)
    )
    staging_folder = Path(str(tmp_path), "datasets", first.recipe.data.name, "staging")
    safe = [
        address
        for file in staging_folder.glob("*.parquet")
        for address in pq.read_table(file)["address"].to_pylist()
    ]
    assert commit.fence(first.attempt_uri) is None
    assert start(second).wait(120) == 0
    assert committed(second) == undisturbed
    assert len(safe) >= strike_at - 6 * CHUNK
    assert {Server.asked[f"/{address.rsplit('/', 1)[1]}"] for address in safe} == {1}
