"""``boig rollback``: the previous model is champion again."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from boig_core.cli.options import (
    Json,
)
from boig_core.cli.show import show


def rollback(
    why: Annotated[
        str, typer.Option(help="The reason, in words; it is kept with the model in the registry.")
    ],
    by: Annotated[
        str | None,
        typer.Option(help="Name of the person who decides; default: the user of this shell."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Make the model before champion again, in MLflow's registry (MLFLOW_TRACKING_URI); a second
    rollback undoes the first."""
    import getpass

    from boig_core.orchestration.promotion import registry

    champion = registry.rollback(by or getpass.getuser(), why)
    show(
        json.dumps(champion)
        if as_json
        else f"{champion['model']}: champion is version {champion['champion']}, previous {champion['previous']}"
    )
