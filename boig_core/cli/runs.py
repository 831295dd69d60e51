"""``boig status``, ``logs`` and ``clean``: what runs have left in the store."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from boig_core.cli.options import (
    Json,
    StoreRoot,
    store_root,
)
from boig_core.cli.show import show


def status(
    run: Annotated[
        str | None,
        typer.Argument(
            help="Run: DAG/RUN, a part of it that no other run has, or latest; without it, the newest runs are listed."
        ),
    ] = None,
    store: StoreRoot = None,
    as_json: Json = False,
) -> None:
    """Print how every attempt of a run's stages ended, with reasons, outputs and last metrics, and
    what the run has used; without RUN, list the newest runs."""
    from dataclasses import asdict
    from datetime import datetime

    from boig_core.storage import runs

    root = store_root(store)
    if run is None:
        newest = dict(list(runs.newest_runs(root).items())[:20])
        lines = [
            f"{datetime.fromtimestamp(at):%Y-%m-%d %H:%M}  {name}" for name, at in newest.items()
        ]
        show(json.dumps(newest) if as_json else "\n".join(lines or [f"no runs in {root}"]))
        return
    run_name = runs.find_run(root, run)
    states = runs.run_state(root, run_name)
    summary = runs.summarize(run_name, states)
    if as_json:
        show(
            json.dumps(
                {
                    "run": run_name,
                    "attempts": [asdict(state) for state in states],
                    "summary": summary,
                },
                indent=1,
            )
        )
    else:
        show(
            "\n".join(
                [run_name, *runs.status_lines(states), *runs.folded(runs.summary_line(summary))]
            )
        )


def logs(
    run: Annotated[
        str, typer.Argument(help="Run: DAG/RUN, a part of it that no other run has, or latest.")
    ],
    stage: Annotated[
        str, typer.Argument(help="Stage: the name of its task, as boig status shows it.")
    ],
    attempt: Annotated[
        int | None, typer.Option(help="Number of the attempt, from 1; default: the newest.")
    ] = None,
    follow: Annotated[
        bool,
        typer.Option("--follow", help="Print new lines as they come, until the attempt has ended."),
    ] = False,
    store: StoreRoot = None,
) -> None:
    """Print what a stage of a run has logged, as it is kept in the store."""
    from boig_core.storage import runs

    root = store_root(store)
    run_name = runs.find_run(root, run)
    uri = runs.find_attempt(runs.run_state(root, run_name), run_name, stage, attempt).uri
    for text in runs.follow_log(uri) if follow else (text for _, text in runs.read_log(uri)):
        show(text, end="")


def clean(
    days: Annotated[
        float,
        typer.Option(
            min=0.0,
            help="Days back from the newest file of a run: younger files stay, and so does all that runs of these days read or wrote.",
        ),
    ] = 30.0,
    apply: Annotated[
        bool,
        typer.Option(
            "--apply",
            help="Move what is found to .trash/ in the store, and remove what has been there for a week; without it, all is only listed.",
        ),
    ] = False,
    store: StoreRoot = None,
    as_json: Json = False,
) -> None:
    """List, or with --apply remove, what no manifest, promoted model or recent run in the store
    refers to. It asks MLflow's registry (MLFLOW_TRACKING_URI) which models are promoted. Files that
    are not boig's stay."""
    from boig_core.orchestration.promotion import registry
    from boig_core.storage import retention

    result = (retention.clean if apply else retention.survey)(
        store_root(store), registry.promoted(), days
    )
    show(
        json.dumps(retention.as_json(result), indent=1)
        if as_json
        else "\n".join(retention.summary(result))
    )
