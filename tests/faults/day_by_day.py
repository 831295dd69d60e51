"""The stage ingest as it is, in one process instead of several, and a perceive that looks
at nothing.

``BOIG_FAULTS`` is the folder of the marks: ``order.txt`` gets a line when a stage starts and when
it has published. A stage whose name is a file there fails once as if the store were away.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from boig_core.cluster import ingest as cluster
from boig_core.data import dataset
from boig_core.data.ingestion import OneProcess
from boig_core.errors import StoreUnavailableError
from boig_core.storage.stage import Outcome, Workspace, run_stage
from ray_jobs import ingest

SIGNALS = Path(os.environ["BOIG_FAULTS"])


def work(space: Workspace) -> Outcome:
    _mark(space, "starts")
    broken = SIGNALS / f"{space.job.stage}-fails"
    if broken.exists():
        broken.unlink()
        raise StoreUnavailableError("s3://somewhere", "is away", "wait")
    outcome = ingest.work(space) if space.job.stage == "ingest" else perceive(space)
    _mark(space, "ends")
    return outcome


def perceive(space: Workspace) -> Outcome:
    folder, parts = space.fetch("dataset", dataset.KIND)
    blobs = tuple(entry for entry in parts.files if entry.path.startswith("../"))
    meta: dict[str, Any] = {**parts.meta, "perceived": True}
    return Outcome(
        {
            "dataset": space.publish(
                f"datasets/{space.recipe.data.name}",
                folder,
                kind=dataset.KIND,
                meta=meta,
                blobs=blobs,
            )
        }
    )


def _mark(space: Workspace, what: str) -> None:
    with (SIGNALS / "order.txt").open("a") as file:
        file.write(f"{space.job.task.rsplit('/', 2)[-2]} {space.job.stage} {what}\n")


def main(uri: str) -> int:
    """Run the job's stage; the exit code."""
    cluster.choose_crew = OneProcess
    return run_stage(work, [uri])
