"""Stage ingest: an export of posts and images becomes a version of a dataset, with buckets, splits
and rejects.

Inputs, at least one: ``posts``, URI of a posts file, a folder that holds one, a glob or a web
address; ``previous``, a version to add the posts to; ``retry``, a version whose rejects are tried
again. ``period`` beside them is a file that says which posts count (`boig_core.storage.period`).
Output ``dataset``; none when the period has nothing new.
"""

from __future__ import annotations

import sys

from boig_core.cluster.stage import run_stage
from boig_core.config import load_policy
from boig_core.data import dataset, forgotten, ingestion, staging
from boig_core.data.summary import summary_lines
from boig_core.errors import InputError
from boig_core.escapes import visible
from boig_core.storage import store
from boig_core.storage.period import read_period
from boig_core.storage.stage import SKIP_REASON, Outcome, Workspace


def work(space: Workspace) -> Outcome:
    """Read, fetch, label, write.

    Raises:
        InputError: neither posts nor a version, no posts file, or not one row that can be used.
    """
    from boig_core.cluster.ingest import choose_crew

    forgotten.require_no_erasure(space.job.store)
    recipe, inputs = space.recipe, space.job.inputs
    # `previous` and `retry` both name the version to build on, so one alone can be given.
    if not inputs.keys() & {"posts", "previous", "retry"} or {"previous", "retry"} <= inputs.keys():
        raise InputError(
            f"inputs {', '.join(inputs) or 'none'}",
            "must be posts, previous or retry",
            "give posts, and previous or retry to build on",
        )
    family = f"datasets/{recipe.data.name}"
    root = store.join(space.job.store, family)
    try:
        ingested = ingestion.ingest(
            inputs.get("posts"),
            inputs.get("previous") or inputs.get("retry"),
            recipe.data,
            recipe.seed,
            root=root,
            scratch=space.scratch,
            crew=choose_crew(),
            retry="retry" in inputs,
            period=read_period(inputs["period"]) if "period" in inputs else None,
            roots=load_policy().images,
        )
    except ingestion.NothingNewError as nothing:
        # No failure: an interval without posts is an ordinary one, and what comes after is skipped.
        return Outcome(metrics={SKIP_REASON: str(nothing)})
    uri = space.publish(
        family, ingested.folder, kind=dataset.KIND, meta=ingested.meta, blobs=ingested.blobs
    )

    def finish() -> None:
        # What was staged goes after the commit: until then a stage that starts again goes on from
        # it.
        staging.clear(root, ingested.staged)
        print(visible("\n".join(summary_lines(recipe.data.name, ingested.meta))), flush=True)

    return Outcome({"dataset": uri}, ingested.meta, after=finish)


if __name__ == "__main__":
    sys.exit(run_stage(work))
