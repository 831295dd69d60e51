"""Does the ingestion stand what nobody has thought of? Mutated images through the processes that
decode, mutated rows through whole ingestions, every one accounted for.

An image must become a stored image or a reject; a line of an export must stand in the version's
sources or its rejects. Counted are outcomes, the most memory of any process, the longest time for
one item and the processes that an image brought down. Works in chunks; a chunk that is done stands
in ``--home`` and is not run again, so that the script can be stopped and started. What does not
hold ends in exit code 1.

    python -m infra.evidence.data.hostile [--images 100000] [--rows 100000] [--home
        .boig/evidence/hostile] [--json infra/evidence/results/hostile.json]
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import psutil

from boig_core.config import Data
from boig_core.data import tables
from boig_core.data.imaging.decoding import DecoderPool, allowance
from boig_core.data.ingestion import OneProcess, ingest
from boig_core.data.posts import accept
from boig_core.data.reading.sources import read_rows
from boig_core.data.rejects import Rejected
from infra.evidence import published
from infra.evidence.data.mutations import image_seeds, mutate, odd_rows, row_seeds

_CHUNK: Final = 10_000
_THREADS: Final = 16
_PROCESSES: Final = 2
_PIXELS: Final = 1_000_000
_MIB: Final = 2**20
_FATAL: Final = ("the decoder crashed", "took longer", "needed more")


def main() -> int:
    """Run what is not done yet; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--chunk", type=int, default=_CHUNK)
    parser.add_argument("--home", type=Path, default=Path(".boig/evidence/hostile"))
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    result: dict[str, Any] = {
        "images": total(chunks(args.home, "images", args.images, args.chunk, run_images)),
        "rows": total(chunks(args.home, "rows", args.rows, args.chunk, run_rows)),
    }
    result["holds"] = all(part["accounted_for"] == part["items"] for part in result.values())
    result["limits"] = {
        "decoder_mib": allowance(_PIXELS).mib,
        "decoder_cpu_seconds": allowance(_PIXELS).seconds,
    }
    print(json.dumps(result, indent=1))
    if args.json:
        published.save(args.json, result)
    return 0 if result["holds"] else 1


def chunks(
    home: Path, name: str, count: int, size: int, run: Callable[[int, int], dict[str, Any]]
) -> list[dict[str, Any]]:
    """What ``run(number, size)`` gives for each chunk, from ``home`` where it is done."""
    home.mkdir(parents=True, exist_ok=True)
    results = []
    for number in range(-(-count // size)):
        items = min(size, count - number * size)
        file = home / f"{name}-{number}-{items}.json"
        if not file.exists():
            started = time.perf_counter()
            chunk = run(number, items)
            chunk["seconds"] = round(time.perf_counter() - started, 2)
            file.with_suffix(".new").write_text(json.dumps(chunk))
            file.with_suffix(".new").rename(file)
            print(f"{name} {number}: {chunk}", flush=True)
        results.append(json.loads(file.read_text()))
    return results


def total(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """All chunks as one."""
    outcomes: Counter[str] = Counter()
    for chunk in results:
        outcomes.update(chunk["outcomes"])
    seconds = sum(chunk["seconds"] for chunk in results)
    items = sum(chunk["items"] for chunk in results)
    peaks: dict[str, float] = {}
    for chunk in results:
        for process, mib in chunk["peak_rss_mib"].items():
            peaks[process] = max(peaks.get(process, 0.0), mib)
    return {
        "items": items,
        "accounted_for": sum(chunk["accounted_for"] for chunk in results),
        "outcomes": dict(outcomes.most_common()),
        "processes_lost": sum(chunk["processes_lost"] for chunk in results),
        "peak_rss_mib": peaks,
        "longest_ms": max((chunk["longest_ms"] for chunk in results), default=0.0),
        "per_second": round(items / seconds, 1) if seconds else None,
        "seconds": round(seconds, 1),
    }


def run_images(number: int, count: int) -> dict[str, Any]:
    """Mutated images, decoded apart."""
    draw, seeds = random.Random(f"images {number}"), image_seeds()
    files = [mutate(draw.choice(seeds), seeds, draw) for _ in range(count)]
    pool = DecoderPool(_PROCESSES)
    with ThreadPoolExecutor(_PROCESSES) as threads:  # they have started before anything is timed
        list(threads.map(lambda data: _decoded(pool, data), seeds * 4))
    with _Watch(pool) as watch, ThreadPoolExecutor(_THREADS) as threads:
        verdicts = list(threads.map(lambda data: _decoded(pool, data), files))
    pool.close()
    reasons = [reason for reason, _ in verdicts]
    return {
        "items": count,
        "accounted_for": len(reasons),
        "outcomes": Counter(reason.partition(":")[0] for reason in reasons),
        "processes_lost": sum(any(word in reason for word in _FATAL) for reason in reasons),
        "peak_rss_mib": {"decoder": watch.peak, "parent": _own_peak()},
        "longest_ms": round(1000 * max(seconds for _, seconds in verdicts), 1),
    }


def _decoded(pool: DecoderPool, data: bytes) -> tuple[str, float]:
    started = time.perf_counter()
    try:
        pool.normalize(data, _PIXELS)
        verdict = "stored"
    except Rejected as exc:
        verdict = f"{exc.code}: {exc.reason}"
    return verdict, time.perf_counter() - started


def run_rows(number: int, count: int) -> dict[str, Any]:
    """Mutated lines of an export, ingested."""
    draw = random.Random(f"rows {number}")
    # Local images alone, so that nothing is asked of the network.
    seeds = [seed.replace(b"https://host.example/", b"images/") for seed in row_seeds()]
    odd = [seed.replace(b"https://host.example/", b"images/") for seed in odd_rows()]
    with tempfile.TemporaryDirectory(prefix="boig-evidence-") as folder:
        export, scratch = Path(folder, "export"), Path(folder, "scratch")
        export.mkdir()
        scratch.mkdir()
        for name, image in zip(("a.png", "b.png"), image_seeds()[6:8], strict=True):
            (export / name).write_bytes(image)
        posts = export / "posts.jsonl"
        posts.write_bytes(b"".join(_line(draw, seeds, odd, n) for n in range(count)))
        data, longest = Data(min_text=0), 0.0
        verdicts = accept(str(posts), read_rows(str(posts), data), data)
        while True:
            started = time.perf_counter()
            if next(verdicts, None) is None:
                break
            longest = max(longest, time.perf_counter() - started)
        root = str(Path(folder, "store", "datasets", "d"))
        made = ingest(str(posts), None, data, 0, root=root, scratch=scratch, crew=OneProcess())
        accepted = _column(made.folder / tables.SOURCES, "line")
        rejected = _column(made.folder / tables.REJECTS, "line")
        codes = _column(made.folder / tables.REJECTS, "code")
    lines = {*accepted, *rejected}
    return {
        "items": count,
        "accounted_for": len(lines & set(range(1, count + 1))),
        "outcomes": Counter(["samples"] * len(accepted) + codes),
        "processes_lost": 0,
        "peak_rss_mib": {"ingestion": _own_peak()},
        "longest_ms": round(1000 * longest, 1),
    }


def _line(draw: random.Random, seeds: Sequence[bytes], odd: Sequence[bytes], number: int) -> bytes:
    """A line of its own id, never empty: half of them with an odd value, half mutated bytewise."""
    data = draw.choice(odd)
    if draw.randint(0, 1):
        data = mutate(draw.choice(seeds), odd, draw).replace(b"\n", b" ")
    return (data.replace(b"p1", b"p%d" % number) if data.strip() else b"{") + b"\n"


def _column(file: Path, name: str) -> list[Any]:
    from pyarrow import parquet

    return parquet.read_table(file, columns=[name])[name].to_pylist()


def _own_peak() -> float:
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)


class _Watch:
    """The most memory of any decoding process, looked at while they work, in MiB."""

    def __init__(self, pool: DecoderPool) -> None:
        self.peak = 0.0
        self._pool, self._over = pool, threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> _Watch:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(0.1):
            for pid in self._pool.pids():
                try:
                    size = psutil.Process(pid).memory_info().rss / _MIB
                except psutil.Error:
                    continue
                self.peak = max(self.peak, round(size, 1))


if __name__ == "__main__":
    sys.exit(main())
