"""``boig store``: a store as a whole, checked, copied and brought up to date."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import Annotated

import typer

from boig_core.cli.options import Json, store_root
from boig_core.cli.show import show
from boig_core.escapes import visible

store_app = typer.Typer(
    name="store", help="Check, copy or migrate a store as a whole.", no_args_is_help=True
)
Root = Annotated[
    str | None,
    typer.Argument(
        help="Root of the store: a folder or s3://BUCKET/PREFIX; default: BOIG_STORE, else .boig/store."
    ),
]


@store_app.command("check")
def store_check(root: Root = None, as_json: Json = False) -> None:
    """Read every file that a manifest names and compare it with its hash; check every commit and
    what each output was made from. Exit code 2 with a list of what is wrong."""
    from boig_core.storage.check import check_store

    inspection = check_store(store_root(root), _say)
    show(json.dumps(asdict(inspection), indent=1) if as_json else "\n".join(inspection.lines()))
    if inspection.faults:
        raise typer.Exit(2)


@store_app.command("copy")
def store_copy(
    source: Annotated[str, typer.Argument(help="Root of the store: a folder or s3://.")],
    target: Annotated[
        str, typer.Argument(help="Root of the copy: empty, or an earlier copy of this store.")
    ],
    as_json: Json = False,
) -> None:
    """Copy a store to a folder or to S3, every file verified. It may be broken off and done again:
    what is there already stays. Then set BOIG_STORE to the copy."""
    from boig_core.storage.copying import copy_store

    copied = copy_store(source, target, _say)
    show(json.dumps(asdict(copied)) if as_json else copied.line())


@store_app.command("migrate")
def store_migrate(root: Root = None, as_json: Json = False) -> None:
    """Rewrite manifests, commits and jobs of a store from before schema 2, so that it can be read
    and copied. It may be broken off and done again; no run may be under way. Exit code 2 with a
    list of what could not be rewritten."""
    from boig_core.storage.migration import migrate_store

    migration = migrate_store(store_root(root), _say)
    show(json.dumps(asdict(migration), indent=1) if as_json else "\n".join(migration.lines()))
    if migration.faults:
        raise typer.Exit(2)


def _say(line: str) -> None:
    """Progress goes beside the result, which a program may read."""
    sys.stderr.write(f"{visible(line)}\n")
