"""``boig run STAGE``: one stage as a subprocess of this machine, with a job file of its own,
without Airflow.

Leaves out: Ray: a stage starts or joins a cluster by itself.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final

from boig_core.config import load_recipe
from boig_core.errors import BoigError, InfrastructureError, InputError, UserError
from boig_core.storage import commit, store
from boig_core.storage.job import Job, Stage, write_job

STEADY_MEMORY: Final = {
    "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1),
}
"""glibc gives large tensors back to the kernel at once, and fetching zeroed pages anew slows small
models several times over."""


def parse_inputs(items: Sequence[str]) -> dict[str, str]:
    """Inputs of the command line, ``name=URI`` each.

    Raises:
        InputError: an item without a name or a URI.
    """
    inputs = {}
    for item in items:
        name, _, uri = item.partition("=")
        if not name or not uri:
            raise InputError(
                f"--input {item}",
                "must read name=URI",
                "for example --input dataset=.boig/store/datasets/posts/VERSION",
            )
        inputs[name] = store.normalize_source(uri)
    return inputs


def run_one_stage(
    stage: str,
    recipe: str,
    overrides: Sequence[str],
    inputs: Mapping[str, str],
    root: str | None,
    run: str,
) -> dict[str, Any]:
    """Run a stage to its end; each call is a new attempt of ``STORE/runs/manual/RUN/STAGE``.

    Args:
        stage: name of the stage.
        recipe: name or path.
        overrides: ``section.field=value`` settings.
        inputs: URI of each input by name.
        root: root of the store; None: ``BOIG_STORE``, else ``.boig/store``.
        run: name of the run.

    Returns:
        ``{"outputs", "metrics", "attempt"}``.

    Raises:
        UserError, InfrastructureError: what the stage left in ``error.json``.
    """
    if stage not in [known.value for known in Stage]:
        raise InputError(f"stage {stage!r}", "is not known", f"use one of {', '.join(Stage)}")
    home = store.normalize(root or os.environ.get("BOIG_STORE") or ".boig/store")
    resolved = load_recipe(recipe, overrides)
    store.probe(home)
    task = store.join(home, "runs", "manual", run, stage)
    number = max(commit.attempts(task), default=0) + 1
    job = Job(
        stage=Stage(stage),
        recipe=resolved,
        inputs=dict(inputs),
        store=home,
        root=f"manual/{run}",
        task=task,
        attempt=number,
    )
    uri = write_job(job)
    command = [sys.executable, "-m", f"ray_jobs.{stage}", uri]
    code = subprocess.run(
        command, env=STEADY_MEMORY | dict(os.environ), stdout=sys.stderr, check=False
    ).returncode
    done = commit.read_commit(job.attempt_uri)
    if code == 0 and done is not None:
        return {"outputs": done["outputs"], "metrics": done["metrics"], "attempt": job.attempt_uri}
    failure = commit.read_failure(job.attempt_uri)
    if failure is None:
        raise InfrastructureError(
            stage, f"ended with exit code {code} and without a word", "see the lines above"
        )
    kind: type[BoigError] = UserError if failure.user else InfrastructureError
    raise kind(stage, f"{failure.type}: {failure.message}", failure.remedy)
