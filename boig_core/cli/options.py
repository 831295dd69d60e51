"""Options that several commands take, declared once so that they read the same everywhere."""

from __future__ import annotations

from typing import Annotated

import typer

from boig_core import environment

Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs, instead of text.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="Change a field of the recipe: section.field=value, such as ddpo.epochs=5. May be repeated.",
    ),
]
RecipeName = Annotated[
    str,
    typer.Option(help="Recipe: a name that boig recipe list prints, or the path of a YAML file."),
]
RecipeArgument = Annotated[
    str,
    typer.Argument(help="Recipe: a name that boig recipe list prints, or the path of a YAML file."),
]
DatasetArgument = Annotated[
    str,
    typer.Argument(help="Version of a dataset: its folder in the store, as boig ingest prints it."),
]
LawName = Annotated[
    str,
    typer.Option(
        help="Law that decides the likes of the ad world: sunlit, nordic, random:SEED for one that is drawn, or the path of a law file."
    ),
]
StoreRoot = Annotated[
    str | None,
    typer.Option(
        "--store",
        help="Root of the store, where inputs and outputs lie: a folder or s3://BUCKET/PREFIX; default: BOIG_STORE, else .boig/store.",
    ),
]
RunName = Annotated[
    str,
    typer.Option("--name", help="Name of the run, which is kept in the store under runs/manual."),
]


def store_root(root: str | None) -> str:
    """Root of the store: what ``--store`` names, else ``BOIG_STORE``, else ``.boig/store``."""
    from boig_core.storage.store import normalize

    return normalize(root or environment.STORE.read() or ".boig/store")
