"""Where a demo's seconds go: of each stage, what passed before its job, while its process and its
workers started, and at work.

Reads the store of a finished demo and nothing else: when each job file and commit were written, how
long the stage says it took, and when the rows of its curve were made. Stages without a curve have
their start and their end in ``work``. The first job's ``before`` is not known: it began with
`make demo`, whose set-up stands in no store.

    python -m infra.evidence.demo.demo_seconds [--store .boig/store] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from boig_core.storage import commit, store
from boig_core.storage.runs import newest_runs, run_state
from infra.evidence import published

DAGS = ("boig_ingest", "boig_llm", "boig_sd")
CAUSES = ("before", "process", "workers", "work", "end")
LEGEND = (
    "before: Airflow, from the last commit of the stage before to this job's file",
    "process: Ray, from the job's file to the stage's first line (entry point, Python, imports)",
    "workers: from there to the first row of its curve (Ray, workers, imports, models)",
    "work: from the first row to the last; without a curve, all of the stage",
    "end: from the last row to the commit (publishing)",
)


@dataclass(frozen=True)
class StageSeconds:
    """One stage's seconds by cause; None: not known, or there is no such part."""

    stage: str
    before: float | None
    process: float
    workers: float | None
    work: float
    end: float | None


def main() -> int:
    """Print the table, and write the numbers where asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--store", default=".boig/store", help="root of the demo's store")
    parser.add_argument("--json", type=Path, help="file for the numbers")
    args = parser.parse_args()
    root = store.normalize(args.store)
    newest = newest_runs(root)
    rows = measure(root, [next(run for run in newest if run.startswith(f"{dag}/")) for dag in DAGS])
    print("\n".join([table(rows), "", *LEGEND]))
    if args.json:
        published.save(args.json, [asdict(row) for row in rows])
    return 0


def measure(root: str, runs: Sequence[str]) -> list[StageSeconds]:
    """Rows of the last attempts of all stages of some runs, in the order in which they began."""
    # Of a stage the last attempt that was committed counts: the order of a run's states is that of
    # its attempts.
    attempts = {
        state.task: state.uri
        for run in runs
        for state in run_state(root, run)
        if state.state == "committed"
    }
    rows = []
    ended: float | None = None
    for task, uri in sorted(attempts.items(), key=lambda item: _written(item[1], "job.json")):
        job, done = _written(uri, "job.json"), _written(uri, commit.COMMIT)
        # No file is written as a stage begins, but it says how long it took.
        began = done - float((commit.read_commit(uri) or {})["metrics"]["seconds"])
        times = _times(uri)
        # Without a curve all of the stage is work: where its workers began stands nowhere.
        first, last = (times[0], times[-1]) if times else (began, done)
        before = None if ended is None else job - ended
        rows.append(
            StageSeconds(
                task,
                before,
                began - job,
                first - began if times else None,
                last - first,
                done - last if times else None,
            )
        )
        ended = done
    return rows


def table(rows: Sequence[StageSeconds]) -> str:
    """A line for each stage, and their sums."""
    sums = [sum(getattr(row, cause) or 0.0 for row in rows) for cause in CAUSES]
    lines = [f"{'':<14}" + "".join(f"{cause:>9}" for cause in (*CAUSES, "all"))]
    for name, values in [
        *((row.stage, [getattr(row, cause) for cause in CAUSES]) for row in rows),
        ("all", sums),
    ]:
        cells = [*values, sum(value or 0.0 for value in values)]
        lines.append(
            f"{name:<14}"
            + "".join(f"{'' if value is None else f'{value:.1f}':>9}" for value in cells)
        )
    return "\n".join(lines)


def _written(attempt: str, name: str) -> float:
    files, path = store.filesystem(store.join(attempt, name))
    return (files.get_file_info(path).mtime_ns or 0) / 1e9


def _times(attempt: str) -> list[float]:
    uri = store.join(attempt, "metrics.jsonl")
    return (
        [json.loads(line)["time"] for line in store.read_bytes(uri).splitlines()]
        if store.exists(uri)
        else []
    )


if __name__ == "__main__":
    raise SystemExit(main())
