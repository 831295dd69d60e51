"""``boig adworld`` and ``tiny-models``: a made-up world with a known KPI law, the demo's models."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from boig_core.cli.options import (
    Json,
    LawName,
)
from boig_core.cli.show import show


def adworld(
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder to write the world into; it must be new or empty. Needed unless --ceiling is given."
        ),
    ] = None,
    posts: Annotated[
        int, typer.Option(min=2, help="Number of posts, one a line of posts.jsonl.")
    ] = 4000,
    seed: Annotated[
        int,
        typer.Option(min=0, help="Seed of all random choices: the same one makes the same world."),
    ] = 0,
    law: LawName = "sunlit",
    side: Annotated[
        int, typer.Option(min=16, help="Width and height of the images, in pixels.")
    ] = 128,
    ceiling: Annotated[
        bool,
        typer.Option(
            "--ceiling",
            help="Write nothing; print how much knowing the KPI can gain at most, in colors IOU, for each KPI bucket under this law.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Write an ad world: posts and drawn images of invented brands, whose likes follow a known law,
    as an export that boig ingest reads."""
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
        show(json.dumps(written) if as_json else "\n".join(lines))
        return
    if out is None:
        raise InputError("--out", "is missing", "name the folder to write")
    from rich.console import Console
    from rich.progress import Progress

    from boig_core.adworld.export import write_world

    # Standard output holds the result alone, which may be JSON.
    with Progress(console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("Writing posts", total=posts)
        summary = write_world(
            posts, seed, rules, out, side, lambda done, _: progress.update(bar, completed=done)
        )
    show(json.dumps(asdict(summary), default=str) if as_json else f"{out}: {summary}")


def tiny_models(
    out: Annotated[
        Path,
        typer.Option(
            help="Folder to write the models tiny-sd, clip and clip-judge into; those that are there are replaced."
        ),
    ],
    seed: Annotated[
        int,
        typer.Option(min=0, help="Seed of all random choices: the same one makes the same models."),
    ] = 0,
    scale: Annotated[
        float,
        typer.Option(
            help="Share of the full training, above 0 and at most 1. Less is a trial, whose models may be of any quality."
        ),
    ] = 1.0,
) -> None:
    """Train again the tiny CLIPs and the tiny Stable Diffusion that ship with the package, and
    print how good they are."""
    from boig_core.adworld.tiny_models.build import build

    print(json.dumps(build(out, seed, scale), indent=1, default=str))
