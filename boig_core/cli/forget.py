"""``boig forget``: erase an account or a post from a store, for good."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated

import typer

from boig_core.cli.options import Json, StoreRoot, store_root
from boig_core.cli.show import show
from boig_core.escapes import visible


def forget(
    account: Annotated[
        str | None,
        typer.Option(help="Account whose posts are forgotten, as the export writes it."),
    ] = None,
    post: Annotated[
        str | None, typer.Option("--id", help="Id of the one post that is forgotten.")
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(help="Name of the dataset; default: all of the store, and those to come."),
    ] = None,
    apply: Annotated[
        bool,
        typer.Option(
            "--apply",
            help="Erase for good, not to the trash; without it, what would go is only listed.",
        ),
    ] = False,
    store: StoreRoot = None,
    as_json: Json = False,
) -> None:
    """Forget an account or a post: erase it from datasets, caches, evaluations and reports, keep it
    out of every later ingestion, and list the models that have learned from it. It may be broken
    off and run again."""
    from boig_core.cli.stage import person
    from boig_core.data.forgetting import erasure
    from boig_core.data.forgotten import Subject
    from boig_core.errors import InputError

    subjects = [Subject("account", account)] if account is not None else []
    subjects += [Subject("id", post)] if post is not None else []
    if len(subjects) != 1:
        raise InputError("boig forget", "takes --account or --id", "give one of the two")
    [subject] = subjects
    root = store_root(store)
    done = (
        erasure.forget(root, subject, name, person(), _say)
        if apply
        else erasure.survey(root, subject, name)
    )
    served = _served(root, done.models)
    if as_json:
        show(json.dumps(asdict(done) | {"served": served}, indent=1))
        return
    show(
        "\n".join([*erasure.lines(done), *(f"{alias:10} is {at}" for at, alias in served.items())])
    )


def _served(root: str, models: Sequence[str]) -> dict[str, str]:
    """Alias in MLflow's registry of the models that have one, by their place; without a registry
    that answers, none is known, and that is said."""
    from boig_core.errors import BoigError
    from boig_core.orchestration.promotion import registry
    from boig_core.storage.store import join

    if not models:
        return {}
    try:
        named = registry.named_models()
    except BoigError as exc:
        # What was erased is told all the same.
        _say(f"whether one of the models is champion is not known: {exc}")
        return {}
    return {place: named[at] for place in models if (at := join(root, place)) in named}


def _say(line: str) -> None:
    sys.stderr.write(f"{visible(line)}\n")
