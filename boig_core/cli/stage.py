"""``boig run STAGE`` and ``ingest``: one stage as a subprocess of this machine, without Airflow.

It gets a job file and an attempt of its own.

Leaves out: Ray: a stage starts or joins a cluster by itself.
"""

from __future__ import annotations

import getpass
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from boig_core.cli.options import (
    Json,
    Overrides,
    RecipeName,
    RunName,
    StoreRoot,
    store_root,
)
from boig_core.cli.preview import preview_export
from boig_core.cli.show import show
from boig_core.errors import BoigError, InfrastructureError, InputError, UserError

if TYPE_CHECKING:
    from boig_core.storage.commit import Failure


def run(
    stage: Annotated[
        str,
        typer.Argument(
            help="ingest, perceive, finetune_llm, evaluate_llm, calibrate, score_rewards, finetune_sd, ddpo, evaluate_sd, report or compare"
        ),
    ],
    recipe: RecipeName = "tiny",
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            help="Input of the stage: name=URI, such as dataset=.boig/store/datasets/posts/VERSION. May be repeated.",
        ),
    ] = None,
    overrides: Overrides = None,
    store: StoreRoot = None,
    name: RunName = "local",
    as_json: Json = False,
) -> None:
    """Run one stage on this machine, without Airflow, and print its outputs and metrics."""
    _run(stage, recipe, overrides, inputs or [], store, name, as_json)


def ingest(
    posts: Annotated[
        str | None,
        typer.Argument(
            help="Posts: a file, a folder that holds one, a glob in quotes, or a web address. Needed unless a version is named."
        ),
    ] = None,
    previous: Annotated[
        str | None,
        typer.Option(help="Version of the dataset, by its URI, that the posts are added to."),
    ] = None,
    retry_rejects: Annotated[
        str | None,
        typer.Option(
            help="Version of the dataset, by its URI, whose rejected rows and images are tried again."
        ),
    ] = None,
    preview: Annotated[
        bool,
        typer.Option(
            "--preview",
            help="Make nothing: print within seconds how the posts are read, what would be lost, and the lines of a recipe that save it.",
        ),
    ] = False,
    write: Annotated[
        Path | None,
        typer.Option(help="With --preview: file that a recipe with these lines is written to."),
    ] = None,
    recipe: RecipeName = "tiny",
    overrides: Overrides = None,
    store: StoreRoot = None,
    name: RunName = "local",
    as_json: Json = False,
) -> None:
    """Make a version of a dataset from an export of posts, on this machine, without Airflow, and
    print its URI and numbers. Look at a new export with --preview first."""
    if preview:
        if posts is None or previous or retry_rejects:
            raise InputError(
                "--preview",
                "looks at posts alone",
                "name posts, and neither --previous nor rejects",
            )
        preview_export(posts, recipe, overrides or [], store_root(store), write, as_json)
        return
    if write is not None:
        raise InputError(f"--write {write}", "goes with --preview alone", "add --preview")
    sources = {"posts": posts, "previous": previous, "retry": retry_rejects}
    _run(
        "ingest",
        recipe,
        overrides,
        [f"{key}={uri}" for key, uri in sources.items() if uri],
        store,
        name,
        as_json,
    )


def _run(
    stage: str,
    recipe: str,
    overrides: list[str] | None,
    inputs: list[str],
    store: str | None,
    name: str,
    as_json: bool,
) -> None:
    outcome = run_one_stage(stage, recipe, overrides or [], parse_inputs(inputs), store, name)
    if as_json:
        print(json.dumps(outcome))
    else:
        show(
            "\n".join(
                [
                    *(f"{key} = {uri}" for key, uri in outcome["outputs"].items()),
                    json.dumps(outcome["metrics"]),
                ]
            )
        )


def parse_inputs(items: Sequence[str]) -> dict[str, str]:
    """Inputs of the command line, ``name=URI`` each.

    Raises:
        InputError: an item without a name or a URI.
    """
    from boig_core.storage.store import normalize_source

    inputs = {}
    for item in items:
        # The first = parts them: a URI may hold more.
        name, _, uri = item.partition("=")
        if not name or not uri:
            raise InputError(
                f"--input {item}",
                "must read name=URI",
                "for example --input dataset=.boig/store/datasets/posts/VERSION",
            )
        inputs[name] = normalize_source(uri)
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
    from boig_core.config import load_policy, load_recipe
    from boig_core.storage import commit, marker, store
    from boig_core.storage.job import Job, Stage, write_job
    from boig_core.storage.stage import STEADY_MEMORY

    if stage not in [known.value for known in Stage]:
        raise InputError(f"stage {stage!r}", "is not known", f"use one of {', '.join(Stage)}")
    home = store_root(root)
    resolved, policy = load_recipe(recipe, overrides), load_policy()
    policy.require(resolved, home)
    marker.ensure(home)
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
        policy=policy.digest(),
        triggered_by=person(),
    )
    uri = write_job(job)
    command = [sys.executable, "-m", f"ray_jobs.{stage}", uri]
    code = subprocess.run(
        command, env=STEADY_MEMORY | dict(os.environ), stdout=sys.stderr, check=False
    ).returncode
    done = commit.read_commit(job.attempt_uri)
    if code == 0 and done is not None:
        return {"outputs": done["outputs"], "metrics": done["metrics"], "attempt": job.attempt_uri}
    raise _error_of(stage, code, commit.read_failure(job.attempt_uri))


def _error_of(stage: str, code: int, failure: Failure | None) -> BoigError:
    """What a stage has left, as an error of this command."""
    if failure is None:
        return InfrastructureError(
            stage, f"ended with exit code {code} and without a word", "see the lines above"
        )
    kind: type[BoigError] = UserError if failure.user else InfrastructureError
    return kind(stage, f"{failure.type}: {failure.message}", failure.remedy)


def person() -> tuple[str, ...] | None:
    """Who runs this command; None where the system has no name for them, as in some containers."""
    try:
        return (getpass.getuser(),)
    except (KeyError, OSError):
        return None
