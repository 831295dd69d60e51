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
import os
import platform
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from infra.evidence import published
from infra.evidence.data.ingest_report import growth, rates, report
from infra.evidence.data.ingest_rows import (
    write_export,
)
from infra.evidence.data.ingest_runs import (
    MODES,
    Server,
    raw_rate,
    run_boig,
    run_img2dataset,
    say,
    serving,
)


def arguments() -> argparse.Namespace:
    """What this script can be told."""
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
    return args


def main() -> int:
    """Run everything; returns the exit code."""
    args = arguments()
    with contextlib.ExitStack() as stack:
        home = args.home or Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="boig-evidence-"))
        )
        result = measure(args, home.resolve(), stack.enter_context(serving(args.pictures)))
    if args.json:
        published.save(args.json, result)
    print("\n".join(report(result)), flush=True)
    return 0 if result["every_row_accounted_for"] else 1


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
        # One export for all of the same kind of images, so that boig and its peer fetch the same
        # URLs.
        export = write_export(
            home / f"export-{first}-{'mixed' if hostile else 'good'}", first, server.port, hostile
        )
        for _ in range(args.repeats):
            result["boig"].append(run_boig(args, home, server, export, hostile))
            for mode in args.modes if args.img2dataset else ():
                result["img2dataset"].append(
                    run_img2dataset(args, home, server, export, mode, hostile)
                )
    # Larger exports are for the memory alone, so boig takes them once and its peer never.
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


def machine(other: Path | None) -> dict[str, Any]:
    """What the numbers were measured on, and with which versions."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next(
        (line.split(":")[1].strip() for line in lines if line.startswith("model name")), "unknown"
    )
    packages = [f"{name} {version(name)}" for name in ("ray", "pillow", "pyarrow")]
    if other:
        # The peer's versions are known in its own environment alone.
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


if __name__ == "__main__":
    sys.exit(main())
