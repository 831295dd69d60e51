"""The commands ``demo``, ``run``, ``ingest``, ``adworld`` and ``tiny-models`` of the command line;
heavy imports stand inside them."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", help="Override a field: section.field=value. May be repeated."),
]
LawName = Annotated[
    str, typer.Option(help="KPI law: a name (sunlit, nordic) or the path of a law file.")
]


def add_commands(app: typer.Typer) -> None:
    """Add the commands of this module to the command line."""
    app.command("demo")(demo)
    app.command("run")(run)
    app.command("ingest")(ingest)
    app.command("adworld")(adworld)
    app.command("tiny-models")(tiny_models)


def demo(
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave Airflow, Ray and MLflow up at the end.")
    ] = False,
    stop: Annotated[
        bool, typer.Option("--stop", help="Only stop what an earlier demo left up.")
    ] = False,
    recipe: Annotated[str, typer.Option(help="Recipe by name or path.")] = "tiny",
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

    from boig_core.demo.run import DemoSettings, run_demo
    from boig_core.demo.services import clean_up

    if stop:
        print(f"stopped {clean_up(home.resolve())} servers")
        return
    settings = DemoSettings(home, recipe, tuple(overrides or ()), posts, law, seed, keep, minutes)
    raise typer.Exit(run_demo(settings, Console()))


def run(
    stage: str,
    recipe: Annotated[str, typer.Option(help="Recipe by name or path.")] = "tiny",
    inputs: Annotated[
        list[str] | None, typer.Option("--input", help="An input: name=URI. May be repeated.")
    ] = None,
    overrides: Overrides = None,
    store: Annotated[
        str | None, typer.Option(help="Root of the store; default BOIG_STORE, else .boig/store.")
    ] = None,
    name: Annotated[str, typer.Option(help="Name of the run in the store.")] = "local",
    as_json: Json = False,
) -> None:
    """Run one stage on this machine, without Airflow; prints its outputs."""
    _run(stage, recipe, overrides, inputs or [], store, name, as_json)


def ingest(
    posts: Annotated[
        str | None,
        typer.Argument(
            help="Posts: a file, a folder that holds one, a quoted glob or a web address."
        ),
    ] = None,
    previous: Annotated[
        str | None, typer.Option(help="Version of the dataset that the posts are added to.")
    ] = None,
    retry_rejects: Annotated[
        str | None, typer.Option(help="Version whose rejected rows and images are tried again.")
    ] = None,
    recipe: Annotated[str, typer.Option(help="Recipe by name or path.")] = "tiny",
    overrides: Overrides = None,
    store: Annotated[
        str | None, typer.Option(help="Root of the store; default BOIG_STORE, else .boig/store.")
    ] = None,
    name: Annotated[str, typer.Option(help="Name of the run in the store.")] = "local",
    as_json: Json = False,
) -> None:
    """Make a version of a dataset from an export, on this machine, without Airflow; prints its
    URI."""
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
    from boig_core.demo.stage import parse_inputs, run_one_stage

    outcome = run_one_stage(stage, recipe, overrides or [], parse_inputs(inputs), store, name)
    if as_json:
        print(json.dumps(outcome))
    else:
        print(
            "\n".join(
                [
                    *(f"{key} = {uri}" for key, uri in outcome["outputs"].items()),
                    json.dumps(outcome["metrics"]),
                ]
            )
        )


def adworld(
    out: Annotated[Path | None, typer.Option(help="Folder to write; must be new or empty.")] = None,
    posts: Annotated[int, typer.Option(min=2, help="Lines of posts.jsonl.")] = 4000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of everything.")] = 0,
    law: LawName = "sunlit",
    side: Annotated[int, typer.Option(min=16, help="Side of the images, in pixels.")] = 128,
    ceiling: Annotated[
        bool,
        typer.Option(
            "--ceiling", help="Only print the law's own ceiling for the gain in colors IOU."
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Write a procedural world of brands, posts and images whose likes follow a known law."""
    from boig_core.adworld.law import Law
    from boig_core.errors import InputError

    rules = Law.load(law)
    if ceiling:
        from boig_core.adworld.ceiling import ceilings

        written = {
            bucket: {**asdict(value), "gain": value.gain}
            for bucket, value in ceilings(rules, seed=seed).items()
        }
        lines = [
            f"{bucket:<7} " + "  ".join(f"{name} {value:.4f}" for name, value in row.items())
            for bucket, row in written.items()
        ]
        print(json.dumps(written) if as_json else "\n".join(lines))
        return
    if out is None:
        raise InputError("--out", "is missing", "name the folder to write")
    from rich.console import Console
    from rich.progress import Progress

    from boig_core.adworld.export import write_world

    with Progress(console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("Writing posts", total=posts)
        summary = write_world(
            posts, seed, rules, out, side, lambda done, _: progress.update(bar, completed=done)
        )
    print(json.dumps(asdict(summary), default=str) if as_json else f"{out}: {summary}")


def tiny_models(
    out: Annotated[Path, typer.Option(help="Folder to write tiny-sd, clip and clip-judge into.")],
    seed: Annotated[int, typer.Option(min=0, help="Seed of everything.")] = 0,
    scale: Annotated[float, typer.Option(help="Share of the full training, for a trial.")] = 1.0,
) -> None:
    """Train the tiny CLIPs and the tiny Stable Diffusion that ship with the package."""
    from boig_core.adworld.tiny_models.build import build

    print(json.dumps(build(out, seed, scale), indent=1, default=str))
