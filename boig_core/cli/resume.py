"""``boig resume``: a training goes on from an earlier attempt although its task is cleared.

Leaves out: clearing the task, which is Airflow's.
"""

from __future__ import annotations

import json
from typing import Annotated

import typer

from boig_core.cli.options import Json, StoreRoot, store_root
from boig_core.cli.show import show
from boig_core.cli.stage import person
from boig_core.errors import InputError


def resume(
    run: Annotated[
        str, typer.Argument(help="Run: DAG/RUN, a part of it that no other run has, or latest.")
    ],
    stage: Annotated[
        str, typer.Argument(help="Training: the name of its task, as boig status shows it.")
    ],
    attempt: Annotated[
        int | None,
        typer.Option(
            help="Number of the attempt to go on from, from 1; default: the newest that has a checkpoint."
        ),
    ] = None,
    store: StoreRoot = None,
    as_json: Json = False,
) -> None:
    """Let the next attempt of a training go on from the checkpoints of an earlier one although its
    task is cleared, and although boig was updated. Ask first, then clear the task."""
    from boig_core.storage import ancestry, runs
    from boig_core.storage import store as files
    from boig_core.training.checkpoint_marker import steps_below

    root = store_root(store)
    run_name = runs.find_run(root, run)
    states = runs.run_state(root, run_name)
    newest = runs.find_attempt(states, run_name, stage)
    kept = {
        state.attempt: steps
        for state in states
        if state.task == stage and (steps := steps_below(state.uri))
    }
    number = max(kept, default=newest.attempt) if attempt is None else attempt
    source = runs.find_attempt(states, run_name, stage, number)
    if source.state == "committed":
        raise InputError(
            source.uri, "has finished, so nothing is left to go on with", "clear the task alone"
        )
    if number not in kept:
        rule = "has no complete checkpoint to go on from"
        raise InputError(source.uri, rule, "clear the task: it begins anew")
    wish = ancestry.Resume(attempt=number, asked_by=person())
    ancestry.write_resume(files.join(root, "runs", run_name, stage), newest.attempt, wish)
    places = ", ".join(f"{name} step {step}".strip() for name, step in kept[number].items())
    line = f"after attempt {newest.attempt}, {stage} goes on from attempt {number} ({places}): clear the task now"
    show(json.dumps({"run": run_name, "stage": stage, **wish.model_dump()}) if as_json else line)
