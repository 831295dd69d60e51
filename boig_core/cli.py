"""The command line: ``boig …``. Heavy imports stand inside the commands, so that ``--help`` answers
at once.

A bad input ends in one readable line on standard error and exit code 2; an infrastructure error in
exit code 1.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from boig_core.bench import bench_app
from boig_core.demo.commands import add_commands
from boig_core.errors import BoigError, UserError
from boig_core.observability.quiet import quiet_libraries

app = typer.Typer(
    help="Retrain image generators that aim at a KPI.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
recipe_app = typer.Typer(help="List, show and check recipes.", no_args_is_help=True)
dataset_app = typer.Typer(help="Look at a dataset in the store.", no_args_is_help=True)
app.add_typer(recipe_app, name="recipe")
app.add_typer(dataset_app, name="dataset")
app.add_typer(bench_app, name="bench")
add_commands(app)

Json = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", help="Override a field: section.field=value. May be repeated."),
]


@recipe_app.command("list")
def recipe_list(as_json: Json = False) -> None:
    """Names of the recipes that come with the package."""
    from boig_core.config import recipe_names

    names = recipe_names()
    print(json.dumps(names) if as_json else "\n".join(names))


@recipe_app.command("show")
def recipe_show(recipe: str, overrides: Overrides = None, as_json: Json = False) -> None:
    """A recipe with every default filled in."""
    import yaml

    from boig_core.config import load_recipe

    tree = load_recipe(recipe, overrides or []).model_dump(mode="json")
    print(
        json.dumps(tree, indent=1) if as_json else yaml.safe_dump(tree, sort_keys=False),
        end="" if not as_json else "\n",
    )


@recipe_app.command("check")
def recipe_check(recipe: str, overrides: Overrides = None, as_json: Json = False) -> None:
    """Validate a recipe by name or path; exit code 2 and one line when it is wrong."""
    from boig_core.config import load_recipe

    resolved = load_recipe(recipe, overrides or [])
    print(
        json.dumps({"name": resolved.name, "digest": resolved.digest()})
        if as_json
        else f"{resolved.name}: ok ({resolved.digest()[:12]})"
    )


@dataset_app.command("show")
def dataset_show(uri: str, as_json: Json = False) -> None:
    """The numbers of a dataset: rows, rejects by reason, buckets by split, and what it was made
    from."""
    import yaml

    from boig_core.storage import manifest

    parts = manifest.read_manifest(uri, kind="dataset")
    summary = {"digest": parts.digest(), **parts.meta, "lineage": parts.lineage.model_dump()}
    print(
        json.dumps(summary, indent=1)
        if as_json
        else yaml.safe_dump(summary, sort_keys=False).rstrip()
    )


@dataset_app.command("card")
def dataset_card(
    uri: str,
    out: Annotated[Path, typer.Option(help="Where the page goes.")] = Path("card.html"),
    as_json: Json = False,
) -> None:
    """Save the data card of a dataset as a page, and print where; with --json print its numbers
    instead."""
    from boig_core.errors import InputError
    from boig_core.storage import manifest

    if as_json:
        print(manifest.read_file(uri, "card.json", kind="dataset").decode())
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
    print(out.resolve())


@dataset_app.command("verify")
def dataset_verify(uri: str, as_json: Json = False) -> None:
    """Read every byte of a dataset again and hold it against its manifest; exit code 2 when it is
    not whole."""
    from boig_core.data.inspect import verify_dataset

    counts = verify_dataset(uri)
    whole = f"whole: {counts['files']} files of {counts['bytes'] / 2**20:.1f} MiB, {counts['samples']} samples of {counts['images']} images"
    print(json.dumps(counts) if as_json else whole)


@dataset_app.command("diff")
def dataset_diff(old: str, new: str, as_json: Json = False) -> None:
    """Samples that were added, removed or changed from one dataset to another, by the field that
    differs."""
    from boig_core.data.inspect import diff, diff_lines

    changes = diff(old, new)
    if as_json:
        print(json.dumps(changes))
        return
    print("\n".join(diff_lines(changes)))


@app.command("report")
def report(
    uri: Annotated[
        str, typer.Argument(help="Folder of a report or a comparison, or a report.json.")
    ],
    as_json: Json = False,
) -> None:
    """Show the results of a run, or a comparison of variants, as tables."""
    from rich.console import Console

    from boig_core.evaluation.compare.comparison import COMPARISON_FILE, read_comparison
    from boig_core.evaluation.report.report_json import read_report
    from boig_core.evaluation.report.terminal import print_comparison, print_report
    from boig_core.storage.store import exists, join

    compared = exists(join(uri, COMPARISON_FILE))
    loaded = read_comparison(uri) if compared else read_report(uri)
    if as_json:
        print(json.dumps(loaded, indent=1))
    else:
        (print_comparison if compared else print_report)(loaded, Console())


StoreRoot = Annotated[
    str | None,
    typer.Option("--store", help="Root of the store; default BOIG_STORE, else .boig/store."),
]


@app.command("status")
def status(
    run: Annotated[
        str | None,
        typer.Argument(
            help="DAG/RUN, a part of it that no other run has, or latest; without it, runs are listed."
        ),
    ] = None,
    store: StoreRoot = None,
    as_json: Json = False,
) -> None:
    """How every attempt of a run's stages ended, with reasons, outputs and the last metrics;
    without RUN the newest runs."""
    from dataclasses import asdict
    from datetime import datetime

    from boig_core.storage import runs

    root = _store_root(store)
    if run is None:
        newest = dict(list(runs.newest_runs(root).items())[:20])
        lines = [
            f"{datetime.fromtimestamp(at):%Y-%m-%d %H:%M}  {name}" for name, at in newest.items()
        ]
        print(json.dumps(newest) if as_json else "\n".join(lines or [f"no runs in {root}"]))
        return
    run_name = runs.find_run(root, run)
    states = runs.run_state(root, run_name)
    summary = runs.summarize(run_name, states)
    if as_json:
        print(
            json.dumps(
                {
                    "run": run_name,
                    "attempts": [asdict(state) for state in states],
                    "summary": summary,
                },
                indent=1,
            )
        )
    else:
        print(
            "\n".join(
                [run_name, *runs.status_lines(states), *runs.folded(runs.summary_line(summary))]
            )
        )


@app.command("logs")
def logs(
    run: Annotated[
        str, typer.Argument(help="DAG/RUN, a part of it that no other run has, or latest.")
    ],
    stage: Annotated[str, typer.Argument(help="Name of the task, as boig status shows it.")],
    attempt: Annotated[
        int | None, typer.Option(help="Number of the attempt; default the newest.")
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", help="Go on until the attempt has ended.")
    ] = False,
    store: StoreRoot = None,
) -> None:
    """Print what a stage logged, from the store."""
    from boig_core.storage import runs

    root = _store_root(store)
    run_name = runs.find_run(root, run)
    uri = runs.find_attempt(runs.run_state(root, run_name), run_name, stage, attempt).uri
    for text in runs.follow_log(uri) if follow else (text for _, text in runs.read_log(uri)):
        print(text, end="", flush=True)


def _store_root(root: str | None) -> str:
    import os

    from boig_core.storage.store import normalize

    return normalize(root or os.environ.get("BOIG_STORE") or ".boig/store")


@app.command("clean")
def clean(
    days: Annotated[
        float,
        typer.Option(
            min=0.0,
            help="What is younger stays, and so does all that runs of these days read or wrote.",
        ),
    ] = 30.0,
    apply: Annotated[
        bool, typer.Option("--apply", help="Remove it; without, it is only listed.")
    ] = False,
    store: StoreRoot = None,
    as_json: Json = False,
) -> None:
    """List, or remove, what no manifest, promoted model or recent run refers to. Asks MLflow's
    registry who is promoted."""
    from dataclasses import asdict

    from boig_core.orchestration.promotion import registry
    from boig_core.storage import retention

    garbage = (retention.clean if apply else retention.find_garbage)(
        _store_root(store), registry.promoted(), days
    )
    print(
        json.dumps([asdict(each) for each in garbage], indent=1)
        if as_json
        else "\n".join(retention.summary(garbage))
    )


@app.command("doctor")
def doctor(
    store: Annotated[
        str | None, typer.Option(help="Root of the store; default BOIG_STORE, else .boig/store.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Check Python, packages, shipped models, store, Ray and MLflow; exit code 1 when a check
    fails."""
    import os

    from boig_core import doctor as doctors

    findings = doctors.diagnose(store or os.environ.get("BOIG_STORE") or ".boig/store")
    if as_json:
        print(doctors.as_json(findings))
    else:
        print("\n".join(line for finding in findings for line in doctors.lines(finding)))
    if any(finding.state == "failed" for finding in findings):
        raise typer.Exit(1)


@app.command("rollback")
def rollback(
    why: Annotated[str, typer.Option(help="The reason; kept with the model in the registry.")],
    by: Annotated[
        str | None, typer.Option(help="Who decided; default: the user of this shell.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Make the previous model champion again in MLflow's registry; a second rollback undoes the
    first."""
    import getpass

    from boig_core.orchestration.promotion import registry

    champion = registry.rollback(by or getpass.getuser(), why)
    print(
        json.dumps(champion)
        if as_json
        else f"{champion['model']}: champion is version {champion['champion']}, previous {champion['previous']}"
    )


@app.command("describe-eval")
def describe_eval(
    pred: Annotated[
        Path,
        typer.Option(
            "--pred", help="Predictions: JSONL with id and description (null: could not be parsed)."
        ),
    ],
    truth: Annotated[
        Path,
        typer.Option("--truth", help="Truth: JSONL with id, bucket, width, height, description."),
    ],
    vectors: Annotated[
        str | None,
        typer.Option(
            help="What compares names: spacy:MODEL or hf:ID, as evaluation.word_vectors; default: spelling."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """The nine description metrics of one model's predictions, by bucket and for all samples, with
    95 % intervals."""
    from boig_core.evaluation.measure.description import evaluate_files
    from boig_core.llm.vectors import open_vectors

    rows = evaluate_files(truth, pred, open_vectors(vectors))
    if as_json:
        print(json.dumps(rows))
        return
    from rich.console import Console

    from boig_core.evaluation.report.terminal import print_descriptions

    print_descriptions(rows, Console())


@app.command()
def verbalize(
    image: Path,
    recipe: Annotated[str, typer.Option(help="Recipe whose perception is used.")] = "tiny",
    as_json: Json = False,
) -> None:
    """Describe an image file: colors, tones and objects, boxes in pixels of the image. Needs
    neither Ray nor Airflow."""
    from boig_core.config import load_recipe
    from boig_core.data.images import load
    from boig_core.perception.describe import Perceiver
    from boig_core.verbalization.answer import print_answer, to_answer

    settings = load_recipe(recipe)
    pixels = load(image, settings.data.max_pixels)
    perceiver = Perceiver.from_recipe(settings.perception)
    seen = perceiver.describe([pixels])[0].scaled(
        pixels.shape[1] / perceiver.side, pixels.shape[0] / perceiver.side
    )
    print(json.dumps(to_answer(seen)) if as_json else print_answer(seen))


def main() -> None:
    """Entry point of the ``boig`` command."""
    quiet_libraries()
    try:
        app()
    except BoigError as exc:
        print(f"boig: {exc}", file=sys.stderr)
        sys.exit(2 if isinstance(exc, UserError) else 1)


if __name__ == "__main__":
    main()
