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


def demo(
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave Airflow, Ray and MLflow up at the end.")
    ] = False,
    stop: Annotated[
        bool, typer.Option("--stop", help="Only stop what an earlier demo left up.")
    ] = False,
    recipe: RecipeName = "tiny",
    overrides: Overrides = None,
    posts: Annotated[int, typer.Option(min=50, help="Posts of the ad world.")] = 4000,
    law: LawName = "sunlit",
    seed: Annotated[int, typer.Option(min=0, help="Seed of the world and of the recipe.")] = 0,
    minutes: Annotated[float, typer.Option(help="Longest time that the runs are followed.")] = 60.0,
    home: Annotated[Path, typer.Option(help="Folder for everything the demo makes.")] = Path(
        ".boig"
    ),
) -> None:
    """Run the whole loop on an ad world: local Ray, MLflow and Airflow, four DAGs, one report."""
    from rich.console import Console

    from boig_core.demo.processes import clean_up
    from boig_core.demo.run import DemoSettings, run_demo

    if stop:
        print(f"stopped {clean_up(home.resolve())} servers")
        return
    settings = DemoSettings(home, recipe, tuple(overrides or ()), posts, law, seed, keep, minutes)
    raise typer.Exit(run_demo(settings, Console()))
