"""Options that several commands take, declared once so that they read the same everywhere."""

from __future__ import annotations

import os
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", help="Override a field: section.field=value. May be repeated."),
]
RecipeName = Annotated[str, typer.Option(help="Recipe by name or path.")]
LawName = Annotated[
    str, typer.Option(help="KPI law: a name (sunlit, nordic) or the path of a law file.")
]
StoreRoot = Annotated[
    str | None,
    typer.Option("--store", help="Root of the store; default BOIG_STORE, else .boig/store."),
]
RunName = Annotated[str, typer.Option("--name", help="Name of the run in the store.")]


def store_root(root: str | None) -> str:
    """Root of the store: what ``--store`` names, else ``BOIG_STORE``, else ``.boig/store``."""
    from boig_core.storage.store import normalize

    return normalize(root or os.environ.get("BOIG_STORE") or ".boig/store")
