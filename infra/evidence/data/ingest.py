"""Does the ingestion hold? Every row accounted for, memory that does not grow with the rows, and a
rate beside img2dataset's.

Starts a web of images on the loopback addresses (`ingest_server`), most of them good, a tenth
hostile in every way of `ingest_rows.KINDS`. Ingests exports of it with ``boig run ingest`` as a
user would, watches the memory of the driver and the workers, and holds each row of the dataset
against what it must become. A row that became something else ends in exit code 1 and is named. With
``--img2dataset`` (the Python of a virtual environment that has it; it is no dependency of boig) the
same URLs go through that as well, in the same run, in these modes:

* ``unchecked`` stores the bytes as they came: no decoding, no look at what they are
  (``disable_all_reencoding``);
* ``decoded`` decodes whole and stores a JPEG's bytes as they came, anything else encoded as JPEG
  (``resize_mode=no``, ``skip_reencode``);
* ``resized`` decodes whole and stores a JPEG of 256 x 256 pixels: its default.

boig decodes whole, refuses what is broken or moves, strips metadata, and names images by SHA-256.
Rates are images that were taken per second of the whole command, its start included, and per second
between the first and the last request at the server (``steady``).

    python -m infra.evidence.data.ingest --json ingest.json [--rows 20000 100000] [--img2dataset
        PYTHON] [--smoke]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import psutil
import pyarrow.parquet as pq

from boig_core.data import dataset, tables
from boig_core.storage import manifest
from infra.evidence import published
from infra.evidence.data.ingest_memory import WatchedProcess, watch
from infra.evidence.data.ingest_rows import (
    ACCEPTED,
    Export,
    by_kind,
    counts,
    differences,
    write_export,
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


def main() -> int:
    """Run everything; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--rows",
        type=int,
        nargs="+",
        default=[20_000, 100_000],
        help="sizes of the export; the first is compared",
    )
    parser.add_argument(
        "--img2dataset", type=Path, help="Python of a virtual environment with img2dataset"
    )
    parser.add_argument(
        "--modes", nargs="+", choices=MODES, default=list(MODES), help="modes of img2dataset"
    )
    parser.add_argument(
        "--processes", type=int, default=os.cpu_count() or 1, help="processes of img2dataset"
    )
    parser.add_argument(
        "--threads", type=int, default=16, help="threads of each process of img2dataset"
    )
    parser.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        help="override a field of boig's recipe",
    )
    parser.add_argument(
        "--repeats",
        type=int,
        default=1,
        help="how often each compared run is done, in turn; the median counts",
    )
    parser.add_argument(
        "--only-mixed", action="store_true", help="leave out the runs on good images alone"
    )
    parser.add_argument(
        "--pictures", type=int, default=256, help="pictures that images are made from"
    )
    parser.add_argument(
        "--smoke",
        action="store_true",
        help="300 and 600 rows from 32 pictures: does the script work?",
    )
    parser.add_argument(
        "--home", type=Path, help="folder for exports and datasets; none: a temporary one"
    )
    parser.add_argument("--json", type=Path, help="file for all numbers")
    args = parser.parse_args()
    if args.smoke:
        args.rows, args.pictures = [300, 600], 32
    with contextlib.ExitStack() as stack:
        home = args.home or Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="boig-evidence-"))
        )
        result = measure(args, home.resolve(), stack.enter_context(serving(args.pictures)))
    if args.json:
        published.save(args.json, result)
    print("\n".join(report(result)), flush=True)
    return 0 if result["every_row_accounted_for"] else 1


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


def measure(args: argparse.Namespace, home: Path, server: Server) -> dict[str, Any]:
    """All runs, in an order that lets a slow spell of the machine fall on both sides."""
    result: dict[str, Any] = {
        "machine": machine(args.img2dataset),
        "server": {**server.ready, **raw_rate(server)},
        "boig": [],
        "img2dataset": [],
    }
    say(f"server: {result['server']}")
    first, *others = args.rows
    for hostile in (True,) if args.only_mixed else (False, True):
        export = write_export(
            home / f"export-{first}-{'mixed' if hostile else 'good'}", first, server.port, hostile
        )
        for _ in range(args.repeats):
            result["boig"].append(run_boig(args, home, server, export, hostile))
            for mode in args.modes if args.img2dataset else ():
                result["img2dataset"].append(
                    run_img2dataset(args, home, server, export, mode, hostile)
                )
    for rows in others:
        export = write_export(home / f"export-{rows}", rows, server.port, hostile=True)
        result["boig"].append(run_boig(args, home, server, export, True))
    result["every_row_accounted_for"] = all(
        not run["rows_that_differ"]
        and run["stored_images"] == run["distinct_images"] == run["accepted"]
        for run in result["boig"]
    )
    result["memory"] = growth([run for run in result["boig"] if run["images"] == "mixed"])
    result["rates"] = rates(result, first)
    return result


def run_boig(
    args: argparse.Namespace, home: Path, server: Server, export: Export, hostile: bool
) -> dict[str, Any]:
    """One ingestion, watched, and each of its rows looked up."""
    rows = len(export.kinds)
    recipe, store = home / "bench.yaml", home / "store"
    limits = {
        "allow_private_hosts": True,
        "fetch_timeout_s": TIMEOUT_S,
        "max_image_mb": CAP_MB,
        "max_posts": 10_000_000,
    }
    recipe.write_text(json.dumps({"name": "bench", "data": {"name": "bench", **limits}}))
    command = [
        sys.executable,
        "-m",
        "boig_core.cli",
        "run",
        "ingest",
        "--recipe",
        str(recipe),
        "--json",
    ]
    command += ["--input", f"posts={export.posts}", "--store", str(store)]
    for override in args.overrides:
        command += ["--set", override]
    seen, asked = watched(
        server, command, {"RAY_USAGE_STATS_ENABLED": "0"}, "ray_jobs.ingest", home / "boig.log"
    )
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
    stored = sum(dataset.shard_rows(uri, shard) for shard in shards)
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
    shutil.rmtree(out, ignore_errors=True)
    urls.write_text("\n".join(export.urls))
    settings = (
        SETTINGS | MODES[mode] | {"processes_count": args.processes, "thread_count": args.threads}
    )
    places = {"url_list": str(urls), "output_folder": str(out)}
    command = [
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
        "steady_images_per_s": round(images / max(asked["server"]["seconds"], 1e-3), 1),
    }


def raw_rate(server: Server, requests: int = 3000) -> dict[str, float]:
    """How fast the server is by itself: one plain connection that reads and forgets."""
    before, started, size = server.cpu_s(), time.perf_counter(), 0
    with socket.create_connection((HOSTS[0], server.port)) as connection:
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


def growth(runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Peaks of each size side by side, and the last over the first."""
    first, last = runs[0], runs[-1]
    rows = []
    for group, measure_ in (
        ("driver", "uss"),
        ("driver", "rss"),
        ("worker", "uss"),
        ("worker", "rss"),
        ("worker", "sum_uss"),
        ("raylet", "rss"),
    ):
        peaks = {str(run["rows"]): run["peaks_mib"].get(group, {}).get(measure_) for run in runs}
        small, large = (run["peaks_mib"].get(group, {}).get(measure_) for run in (first, last))
        rows.append(
            {
                "what": f"{group} {measure_}",
                "peak_mib": peaks,
                "ratio": round(large / small, 2) if small and large else None,
            }
        )
    for name in ("object_store_mib", "total_pss_mib"):
        ratio = round(last[name] / first[name], 2) if first[name] else None
        rows.append(
            {
                "what": name.removesuffix("_mib"),
                "peak_mib": {str(run["rows"]): run[name] for run in runs},
                "ratio": ratio,
            }
        )
    return rows


def rates(found: dict[str, Any], rows: int) -> dict[str, Any]:
    """Median images per second by kind of images: of the whole command, and while requests were
    made."""
    runs = {
        "boig": [run for run in found["boig"] if run["rows"] == rows],
        **{
            f"img2dataset {mode}": [run for run in found["img2dataset"] if run["mode"] == mode]
            for mode in MODES
        },
    }
    return {
        images: {
            name: {
                measure_: statistics.median(values)
                for measure_ in ("images_per_s", "steady_images_per_s")
                if (values := [run[measure_] for run in some if run["images"] == images])
            }
            for name, some in runs.items()
            if any(run["images"] == images for run in some)
        }
        for images in ("good", "mixed")
    }


def machine(other: Path | None) -> dict[str, Any]:
    """What the numbers were measured on, and with which versions."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next(
        (line.split(":")[1].strip() for line in lines if line.startswith("model name")), "unknown"
    )
    packages = [f"{name} {version(name)}" for name in ("ray", "pillow", "pyarrow")]
    if other:
        ask = "from importlib.metadata import version; import sys; print(*(f'{n} {version(n)}' for n in sys.argv[1:]), sep='\\n')"
        asked = [str(other), "-c", ask, "img2dataset", "opencv-python-headless"]
        packages += subprocess.run(
            asked, capture_output=True, text=True, check=True
        ).stdout.splitlines()
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "python": platform.python_version(),
        "packages": packages,
        "load_before": round(os.getloadavg()[0], 2),
    }


def report(found: dict[str, Any]) -> list[str]:
    """The numbers for a reader."""
    server = found["server"]
    lines = [
        f"machine: {found['machine']['cores']} cores of {found['machine']['cpu']}, {found['machine']['memory_gib']} GiB, "
        f"load {found['machine']['load_before']}; {', '.join(found['machine']['packages'])}",
        f"server alone, one connection: {server['requests_per_s']} requests/s, {server['mib_per_s']} MiB/s, "
        f"{server['cpu_ms_per_request']} ms CPU each; an image has {server['mean_bytes'] // 1024} KiB",
        "",
        f"{'':34}{'seconds':>9}{'taken':>9}{'images/s':>10}{'steady':>9}{'CPU s':>8}{'server':>8}{'conns':>8}{'PSS MiB':>9}",
    ]
    for name, run in [*((f"boig, {run['rows']} {run['images']}", run) for run in found["boig"])] + [
        (f"img2dataset {run['mode']}, {run['urls']} {run['images']}", run)
        for run in found["img2dataset"]
    ]:
        taken = run.get("accepted", run.get("taken"))
        asked = run["server"]
        lines.append(
            f"{name:34}{run['seconds']:9.1f}{taken:9}{run['images_per_s']:10.1f}{run['steady_images_per_s']:9.1f}"
            f"{sum(run['cpu_s'].values()):8.1f}{asked['cpu_s']:8.1f}{asked['connections']:8}{run['total_pss_mib']:9.0f}"
        )
        if "by_kind" in run and run["images"] == "mixed":
            bad = ", ".join(
                f"{kind} {row['taken']}"
                for kind, row in run["by_kind"].items()
                if row["taken"] and row["must"] != ACCEPTED
            )
            lines.append(
                f"    took {run['taken_though_bad']} bad ones ({bad or '-'}), lost {run['lost_though_good']} good ones"
            )
    lines += [
        "",
        *accounting(found["boig"]),
        "",
        f"{'peak memory, MiB':22}"
        + "".join(f"{rows:>12}" for rows in found["memory"][0]["peak_mib"]),
    ]
    for row in found["memory"]:
        cells = "".join(
            f"{value:12.0f}" if value is not None else f"{'-':>12}"
            for value in row["peak_mib"].values()
        )
        lines.append(f"{row['what']:22}{cells}   x {row['ratio']}")
    return lines


def accounting(runs: Sequence[dict[str, Any]]) -> list[str]:
    """For each run, rows by what became of them, and those that differ."""
    lines = []
    for run in runs:
        result = {ACCEPTED: run["accepted"], **run["rejected"]}
        names = sorted(result.keys() | run["expected"].keys())
        cells = ", ".join(
            f"{name} {result.get(name, 0)}/{run['expected'].get(name, 0)}" for name in names
        )
        lines.append(
            f"{run['rows']} {run['images']} rows, found/expected: {cells}; {run['stored_images']} images stored"
        )
        for item in run["differences"][:10]:
            lines.append(
                f"    line {item['line']} ({item['kind']}): expected {item['expected']}, found {item['found']}"
            )
        if run["rows_that_differ"]:
            lines.append(
                f"    {run['rows_that_differ']} rows are not accounted for as they must be"
            )
    return lines


def say(text: str) -> None:
    """Progress, on standard error."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
