"""One ingestion of the evidence, by boig or by img2dataset, watched while it runs.

Leaves out: which runs, and what they say together (see `ingest` and `ingest_report`)."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psutil
import pyarrow.parquet as pq

from boig_core.data import dataset, tables
from boig_core.storage import manifest
from infra.evidence.data.ingest_memory import WatchedProcess, watch
from infra.evidence.data.ingest_rows import (
    ACCEPTED,
    Export,
    by_kind,
    counts,
    differences,
)
from infra.evidence.data.ingest_server import CAP_MB, HOSTS

TIMEOUT_S: Final = 5
TRIES: Final = 3
"""The same patience for both: seconds for an image, and how often one is asked for when the failure
may pass."""
MODES: Final[dict[str, dict[str, Any]]] = {
    "unchecked": {"disable_all_reencoding": True},
    "decoded": {"resize_mode": "no", "skip_reencode": True},
    "resized": {},
}
SETTINGS: Final[dict[str, Any]] = {
    "input_format": "txt",
    "output_format": "parquet",
    "number_sample_per_shard": 1000,
    "extract_exif": False,
    "compute_hash": "sha256",
    "timeout": TIMEOUT_S,
    "retries": TRIES - 1,
    "enable_wandb": False,
}
"""What spares img2dataset work that boig does not do either, and gives each process several
shards."""


@dataclass(frozen=True)
class Server:
    """The server's process and what it said when it was ready."""

    process: psutil.Process
    port: int
    ready: dict[str, Any]

    def ask(self, name: str) -> bytes:
        """Answer to one of the control paths."""
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(
            f"http://127.0.0.1:{self.port}/{name}", timeout=30
        ) as answer:
            return bytes(answer.read())

    def cpu_s(self) -> float:
        """CPU time it has used so far."""
        times = self.process.cpu_times()
        return float(times.user + times.system)


@contextlib.contextmanager
def serving(pictures: int) -> Iterator[Server]:
    """The server, ended at the end."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = "infra.evidence.data.ingest_server"
    command = [sys.executable, "-m", server, str(port), str(pictures)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise RuntimeError("the server has ended before it was ready")
        yield Server(psutil.Process(process.pid), port, json.loads(line))
    finally:
        process.terminate()
        process.wait()


def boig_command(args: argparse.Namespace, home: Path, export: Export) -> list[str]:
    """The ingestion as a user starts it, under a recipe of its own."""
    recipe = home / "bench.yaml"
    # The web stands on loopback addresses, which are refused by default; and all posts are taken,
    # none is sampled away.
    limits = {
        "allow_private_hosts": True,
        "fetch_timeout_s": TIMEOUT_S,
        "max_image_mb": CAP_MB,
        "max_posts": 10_000_000,
    }
    recipe.write_text(json.dumps({"name": "bench", "data": {"name": "bench", **limits}}))
    command = [sys.executable, "-m", "boig_core.cli", "run", "ingest", "--recipe", str(recipe)]
    command += ["--json", "--input", f"posts={export.posts}", "--store", str(home / "store")]
    for override in args.overrides:
        command += ["--set", override]
    return command


def run_boig(
    args: argparse.Namespace, home: Path, server: Server, export: Export, hostile: bool
) -> dict[str, Any]:
    """One ingestion, watched, and each of its rows looked up."""
    rows, store = len(export.kinds), home / "store"
    command = boig_command(args, home, export)
    seen, asked = watched(
        server, command, {"RAY_USAGE_STATS_ENABLED": "0"}, "ray_jobs.ingest", home / "boig.log"
    )
    # A run that failed has no rate.
    if seen.code:
        raise RuntimeError(
            f"boig run ingest ended with {seen.code}:\n{(home / 'boig.log').read_text()[-4000:]}"
        )
    done = json.loads(seen.output)
    uri = done["outputs"]["dataset"]
    posts, images = columns(f"{uri}/{tables.LABELS}", "post", "image")
    lines, codes, reasons = columns(f"{uri}/{tables.REJECTS}", "line", "code", "reason")
    wrong = differences(export, posts, zip(lines, codes, strict=True))
    messages = dict(zip(lines, reasons, strict=True))
    for item in wrong[:5]:
        say(f"    line {item.line}: {messages.get(item.line, 'not rejected')}")
    shards = dataset.shards(manifest.read_manifest(uri, kind=dataset.KIND), tables.IMAGES)
    # Counted in the shards themselves, not taken from what the labels say.
    stored = sum(dataset.shard_rows(uri, shard) for shard in shards)
    # The next run begins with an empty store, as this one did.
    shutil.rmtree(store)
    run = {
        "rows": rows,
        "images": "mixed" if hostile else "good",
        "accepted": len(posts),
        "distinct_images": len(set(images)),
        "stored_images": stored,
        "stored_mib": round(sum(shard.size for shard in shards) / 2**20, 1),
        "rejected": counts(codes),
        "expected": counts(list(export.expected.values())),
        # Enough to see what is wrong; the next number counts all of them.
        "differences": [vars(item) for item in wrong[:100]],
        "rows_that_differ": len(wrong),
        "stage_s": done["metrics"]["seconds"],
        **asked,
        **speed(len(posts), seen, asked),
        **seen.as_json(),
    }
    say(
        f"boig, {rows} {run['images']} rows: {run['images_per_s']} images/s, {len(wrong)} rows differ"
    )
    return run


def run_img2dataset(
    args: argparse.Namespace, home: Path, server: Server, export: Export, mode: str, hostile: bool
) -> dict[str, Any]:
    """The same URLs through img2dataset."""
    out, urls = home / "img2dataset", home / "urls.txt"
    # What is left of an earlier run would be counted, or not fetched again.
    shutil.rmtree(out, ignore_errors=True)
    urls.write_text("\n".join(export.urls))
    settings = (
        SETTINGS | MODES[mode] | {"processes_count": args.processes, "thread_count": args.threads}
    )
    places = {"url_list": str(urls), "output_folder": str(out)}
    command = [
        # Its program lies beside the Python of its environment.
        str(args.img2dataset.with_name("img2dataset")),
        *(f"--{name}={value}" for name, value in (settings | places).items()),
    ]
    seen, asked = watched(
        server,
        command,
        {"NO_ALBUMENTATIONS_UPDATE": "1"},
        "bin/img2dataset",
        home / "img2dataset.log",
    )
    if seen.code:
        raise RuntimeError(
            f"img2dataset ended with {seen.code}:\n{(home / 'img2dataset.log').read_text()[-4000:]}"
        )
    outcomes: dict[str, bool] = {}
    for shard in sorted(out.glob("*.parquet")):
        outcomes |= {
            url: status == "success"
            for url, status in zip(*columns(str(shard), "url", "status"), strict=True)
        }
    kinds = by_kind(outcomes)
    size = sum(path.stat().st_size for path in out.glob("*.parquet"))
    shutil.rmtree(out)
    taken = sum(outcomes.values())
    run = {
        "mode": mode,
        "images": "mixed" if hostile else "good",
        "urls": len(export.urls),
        "urls_without_outcome": len(set(export.urls) - outcomes.keys()),
        "taken": taken,
        "taken_though_bad": sum(
            kind["taken"] for kind in kinds.values() if kind["must"] != ACCEPTED
        ),
        "lost_though_good": sum(
            kind["urls"] - kind["taken"] for kind in kinds.values() if kind["must"] == ACCEPTED
        ),
        "by_kind": kinds,
        "stored_mib": round(size / 2**20, 1),
        "settings": settings,
        **asked,
        **speed(taken, seen, asked),
        **seen.as_json(),
    }
    say(f"img2dataset {mode}, {run['urls']} {run['images']} URLs: {run['images_per_s']} images/s")
    return run


def columns(path: str, *names: str) -> list[list[Any]]:
    """Columns of a Parquet file."""
    table = pq.read_table(path, columns=list(names))
    return [table[name].to_pylist() for name in names]


def watched(
    server: Server, command: Sequence[str], env: dict[str, str], driver: str, log: Path
) -> tuple[WatchedProcess, dict[str, Any]]:
    """Run a command against a server that has forgotten everything; returns what it took, and what
    the server saw and spent.

    Proxies are taken out of its environment, since none can reach the loopback addresses, and a Ray
    cluster that may be named there.
    """
    # The counters begin with the run, and kinds that fail at first fail anew.
    server.ask("reset")
    before = server.cpu_s()
    away = {"http_proxy", "https_proxy", "all_proxy", "ray_address"}
    seen = watch(
        command,
        {name: value for name, value in os.environ.items() if name.lower() not in away} | env,
        driver,
        log=str(log),
    )
    spent = server.cpu_s() - before
    return seen, {"server": {**json.loads(server.ask("stats")), "cpu_s": round(spent, 1)}}


def speed(images: int, seen: WatchedProcess, asked: dict[str, Any]) -> dict[str, float]:
    """Images per second, of the whole command and while requests were made."""
    return {
        "images_per_s": round(images / seen.seconds, 1),
        # One request alone has no time between the first and the last.
        "steady_images_per_s": round(images / max(asked["server"]["seconds"], 1e-3), 1),
    }


def raw_rate(server: Server, requests: int = 3000) -> dict[str, float]:
    """How fast the server is by itself: one plain connection that reads and forgets."""
    before, started, size = server.cpu_s(), time.perf_counter(), 0
    with socket.create_connection((HOSTS[0], server.port)) as connection:
        # One buffer for all answers: the client must cost next to nothing beside the server.
        room = memoryview(bytearray(2**20))
        for n in range(requests):
            connection.sendall(b"GET /good/%d.jpg HTTP/1.1\r\nHost: a\r\n\r\n" % n)
            head, wanted = b"", None
            while wanted is None or wanted > 0:
                got = connection.recv_into(room)
                size += got
                if wanted is None:
                    head += room[:got]
                    end = head.find(b"\r\n\r\n")
                    if end >= 0:
                        wanted = int(head.split(b"Content-Length: ")[1].split(b"\r\n")[0]) - (
                            len(head) - end - 4
                        )
                else:
                    wanted -= got
    seconds = time.perf_counter() - started
    cpu_ms = 1000 * (server.cpu_s() - before) / requests
    return {
        "requests_per_s": round(requests / seconds),
        "mib_per_s": round(size / seconds / 2**20),
        "cpu_ms_per_request": round(cpu_ms, 3),
    }


def say(text: str) -> None:
    """Progress, on standard error."""
    print(text, file=sys.stderr, flush=True)
