"""``boig dataset``: look at a dataset in the store."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from boig_core.cli.options import (
    DatasetArgument,
    Json,
)
from boig_core.cli.show import show

dataset_app = typer.Typer(
    name="dataset", help="Look at a version of a dataset in the store.", no_args_is_help=True
)


@dataset_app.command("show")
def dataset_show(uri: DatasetArgument, as_json: Json = False) -> None:
    """Print the numbers of a dataset: rows, rejects by reason, KPI buckets by split, and what it
    was made from."""
    import yaml

    from boig_core.storage import manifest

    parts = manifest.read_manifest(uri, kind="dataset")
    summary = {"digest": parts.digest(), **parts.meta, "lineage": parts.lineage.model_dump()}
    show(
        json.dumps(summary, indent=1)
        if as_json
        else yaml.safe_dump(summary, sort_keys=False).rstrip()
    )


@dataset_app.command("card")
def dataset_card(
    uri: DatasetArgument,
    out: Annotated[Path, typer.Option(help="File that the page is written to.")] = Path(
        "card.html"
    ),
    as_json: Json = False,
) -> None:
    """Save the data card of a dataset, a page with counts, histograms and samples, and print where
    it is; with --json print its numbers instead."""
    from boig_core.errors import InputError
    from boig_core.storage import manifest

    if as_json:
        show(manifest.read_file(uri, "card.json", kind="dataset").decode())
        return
    page = manifest.read_file(uri, manifest.PAGE, kind="dataset")
    try:
        out.write_bytes(page)
    except OSError as exc:
        raise InputError(
            f"--out {out}",
            f"cannot be written ({exc.strerror})",
            "name a file in a folder that exists",
        ) from exc
    show(str(out.resolve()))


@dataset_app.command("verify")
def dataset_verify(uri: DatasetArgument, as_json: Json = False) -> None:
    """Read every byte of a dataset again and compare it with the hashes in its manifest; exit code
    2 when it is not whole."""
    from boig_core.data.inspect import verify_dataset

    counts = verify_dataset(uri)
    whole = f"whole: {counts['files']} files of {counts['bytes'] / 2**20:.1f} MiB, {counts['samples']} samples of {counts['images']} images"
    show(json.dumps(counts) if as_json else whole)


@dataset_app.command("rejects")
def dataset_rejects(
    uri: DatasetArgument,
    code: Annotated[
        str | None, typer.Option(help="Only rejects of this reason, such as image_missing.")
    ] = None,
    limit: Annotated[
        int, typer.Option(min=0, help="Rejects that are shown of each reason; 0: all of them.")
    ] = 5,
    rows: Annotated[
        bool, typer.Option("--rows", help="Print the rejected rows themselves, too.")
    ] = False,
    as_json: Json = False,
) -> None:
    """List what was left out of a dataset, by reason, each with file, line and post; exit code 0
    also when there is something. With --json, one object with the rejects of each reason."""
    from boig_core.data.dataset import read_rejects
    from boig_core.data.inspect import reject_lines

    by_code = read_rejects(uri, code)
    if as_json:
        print(json.dumps({name: rejects[: limit or None] for name, rejects in by_code.items()}))
        return
    show("\n".join(reject_lines(by_code, limit, rows)))


@dataset_app.command("diff")
def dataset_diff(
    old: Annotated[
        str, typer.Argument(help="Version that is compared from: its folder in the store.")
    ],
    new: Annotated[str, typer.Argument(help="Version that is compared to, usually a later one.")],
    as_json: Json = False,
) -> None:
    """Print which samples were added, removed or changed from one dataset to another, by the field
    that differs."""
    from boig_core.data.inspect import diff, diff_lines

    changes = diff(old, new)
    if as_json:
        print(json.dumps(changes))
        return
    show("\n".join(diff_lines(changes)))
