"""``boig demo``: the whole loop on an ad world, on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from boig_core.cli.options import (
    LawName,
    Overrides,
    RecipeName,
)
from boig_core.cli.show import show


def demo(
    keep: Annotated[
        bool,
        typer.Option(
            "--keep", help="Leave Airflow, Ray and MLflow running at the end, to look around."
        ),
    ] = False,
    stop: Annotated[
        bool,
        typer.Option(
            "--stop", help="Run nothing; stop the servers that an earlier demo has left running."
        ),
    ] = False,
    recipe: RecipeName = "tiny",
    overrides: Overrides = None,
    posts: Annotated[int, typer.Option(min=50, help="Number of posts that are made up.")] = 4000,
    law: LawName = "sunlit",
    seed: Annotated[
        int,
        typer.Option(
            min=0,
            help="Seed of all random choices, in the ad world and in the recipe; another one makes another world.",
        ),
    ] = 0,
    minutes: Annotated[
        float,
        typer.Option(help="Longest time for all runs, in minutes; then the demo ends as failed."),
    ] = 60.0,
    home: Annotated[Path, typer.Option(help="Folder for everything that the demo makes.")] = Path(
        ".boig"
    ),
) -> None:
    """Run the whole loop, from posts to a promoted model, on a made-up world of brands (ad world):
    starts Ray, MLflow and Airflow on this machine, follows four DAGs, and leaves one report."""
    from rich.console import Console

    from boig_core.demo.processes import clean_up
    from boig_core.demo.run import DemoSettings, run_demo

    if stop:
        show(f"stopped {clean_up(home.resolve())} servers")
        return
    settings = DemoSettings(home, recipe, tuple(overrides or ()), posts, law, seed, keep, minutes)
    raise typer.Exit(run_demo(settings, Console()))
