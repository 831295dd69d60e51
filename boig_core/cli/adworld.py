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

    # Standard output holds the result alone, which may be JSON.
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
