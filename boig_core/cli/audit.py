"""``boig audit``: what a promotion stands on, as a folder that is verified offline."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from boig_core.cli.options import Json, StoreRoot, store_root
from boig_core.cli.show import show


class _RunFirst(TyperGroup):
    """``boig audit RUN`` is short for ``boig audit export RUN``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        named = args and (args[0] in self.commands or args[0].startswith("-"))
        return super().parse_args(ctx, args if named or not args else ["export", *args])


audit_app = typer.Typer(
    name="audit",
    cls=_RunFirst,
    help="Hand out what a promotion stands on, and verify it: boig audit RUN --to FOLDER.",
    no_args_is_help=True,
)


@audit_app.command("export")
def audit_export(
    run: Annotated[
        str,
        typer.Argument(help="Run of boig_promote: its name, a part that no other has, or latest."),
    ],
    to: Annotated[Path, typer.Option(help="Folder that is written; it must not exist yet.")],
    store: StoreRoot = None,
    as_json: Json = False,
) -> None:
    """Write one folder with the decision, its gates, report, recipe, lineage and signature, which
    an auditor verifies with the public key alone."""
    from boig_core.storage import evidence

    root = store_root(store)
    place = evidence.find_decision(root, run)
    is_signed = evidence.export(root, place, to)
    result = {"run": place, "folder": str(to.resolve()), "signed": is_signed}
    note = "signed" if is_signed else "not signed: no key was set when it was decided"
    show(json.dumps(result) if as_json else f"{to.resolve()}: {place}, {note}")


@audit_app.command("verify")
def audit_verify(
    folder: Annotated[Path, typer.Argument(help="Folder that boig audit has written.")],
    key: Annotated[Path, typer.Option(help="PEM file of the signer's public key.")],
    as_json: Json = False,
) -> None:
    """Verify such a folder offline: the signature, every byte, and the lineage; exit code 2 when
    anything differs."""
    from boig_core.storage import evidence

    decision = evidence.verify_export(folder, key)
    line = f"verified: {decision.get('decision')} {decision.get('candidate')}"
    show(json.dumps(decision, indent=1) if as_json else line)
