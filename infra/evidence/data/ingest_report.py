"""What the runs of `ingest` say together: memory, rates beside the peer's, each row's fate.

Leaves out: running."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from infra.evidence.data.ingest_rows import (
    ACCEPTED,
)
from infra.evidence.data.ingest_runs import MODES


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
