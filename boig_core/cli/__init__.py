"""The command line: ``boig …``, a file per group of commands.

Heavy imports stand inside the commands, so that ``--help`` answers at once.

A bad input ends in one readable line on standard error and exit code 2; an infrastructure error in
exit code 1.
"""

from __future__ import annotations

import sys

import typer

from boig_core.cli import (
    adworld,
    audit,
    bench,
    champion,
    dataset,
    demo,
    doctor,
    forget,
    policy,
    recipe,
    results,
    resume,
    runs,
    stage,
    store,
    use,
    verbalize,
)
from boig_core.errors import BoigError, UserError
from boig_core.observability.logs import hide_secrets
from boig_core.observability.quiet import quiet_libraries
from boig_core.storage.disk import full_disk

app = typer.Typer(
    help="Retrain image generators that aim at a KPI.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
for command in (
    demo.demo,
    adworld.adworld,
    adworld.tiny_models,
    stage.ingest,
    stage.run,
    verbalize.verbalize,
    use.describe,
    use.generate,
    results.report,
    results.describe_eval,
    runs.status,
    runs.logs,
    resume.resume,
    runs.clean,
    forget.forget,
    champion.rollback,
    doctor.doctor,
):
    app.command()(command)
for group in (
    recipe.recipe_app,
    policy.policy_app,
    dataset.dataset_app,
    store.store_app,
    audit.audit_app,
    bench.bench_app,
):
    app.add_typer(group)


def main() -> None:
    """Entry point of the ``boig`` command."""
    # Before a command imports the libraries: some of them print as they are imported.
    quiet_libraries()
    try:
        app()
    except Exception as exc:
        error = exc if isinstance(exc, BoigError) else full_disk(exc)
        if error is None:
            raise
        print(f"boig: {hide_secrets(str(error))}", file=sys.stderr)
        sys.exit(2 if isinstance(error, UserError) else 1)
