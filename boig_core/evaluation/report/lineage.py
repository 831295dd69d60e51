"""Which runs a report stands on: from output folders back through commits and job files to the
first input.

Each manifest names its commit, each commit lies beside its ``job.json``, each job names its inputs.
Leaves out: what to do with them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from boig_core.errors import NotFoundInStoreError
from boig_core.storage import commit as commits
from boig_core.storage import manifest, store
from boig_core.storage.job import Job, read_job


@dataclass(frozen=True)
class LineageStep:
    """One run of a stage.

    Attributes:
        job: what it was told.
        seconds: how long it took; None when its commit does not say.
        outputs: digest of each output's manifest, by name.
    """

    job: Job
    seconds: float | None
    outputs: dict[str, str]

    def metrics(self) -> list[dict[str, Any]]:
        """Rows of the metrics that its attempts logged, by step; where an attempt resumed, the
        newer row counts."""
        rows: dict[tuple[Any, ...], dict[str, Any]] = {}
        # In order, so that what a later attempt did again overwrites the earlier one.
        for attempt in range(1, self.job.attempt + 1):
            try:
                text = store.read_bytes(
                    store.join(commits.attempt_uri(self.job.task, attempt), "metrics.jsonl")
                ).decode()
            except NotFoundInStoreError:
                continue
            for row in map(json.loads, text.splitlines()):
                # By step and names: a step may log several rows of different metrics, and only a
                # row of the same ones is replaced.
                rows[row["step"], *sorted(row.keys() - {"step", "time"})] = row
        return list(rows.values())


def trace(uris: Iterable[str]) -> dict[str, LineageStep]:
    """The runs that made these outputs and, in turn, their inputs; by stage. Inputs that no stage
    made end the walk.

    Raises:
        CorruptError: an output that was never committed.
    """
    steps: dict[str, LineageStep] = {}
    seen: set[str] = set()
    queue = list(uris)
    while queue:
        uri = queue.pop(0)
        # Exports and files that people give have no manifest; outputs that several stages read come
        # up again.
        if uri in seen or not store.exists(store.join(uri, manifest.MANIFEST)):
            continue
        seen.add(uri)
        attempt = manifest.read_record(uri).commit.rsplit("/", 1)[0]
        try:
            job = read_job(store.join(attempt, "job.json"))
        except NotFoundInStoreError:  # an output that was brought here without its run
            continue
        done = commits.read_commit(attempt) or {}
        # The walk goes breadth first, so the run nearest to the outputs counts where a stage ran
        # twice.
        if job.stage.value not in steps:
            outputs = {
                name: manifest.read_record(out).digest()
                for name, out in done.get("outputs", {}).items()
            }
            steps[job.stage.value] = LineageStep(
                job, done.get("metrics", {}).get("seconds"), outputs
            )
        queue += job.inputs.values()
    return steps
