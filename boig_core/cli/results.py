"""``boig report`` and ``describe-eval``: numbers of a run or of a model as tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from boig_core.cli.options import (
    Json,
)


def report(
    uri: Annotated[
        str,
        typer.Argument(
            help="Folder of a report or of a comparison in the store, or a file report.json."
        ),
    ],
    as_json: Json = False,
) -> None:
    """Print the results of a report, or of a comparison of variants, as tables."""
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


def describe_eval(
    pred: Annotated[
        Path,
        typer.Option(
            "--pred",
            help="Predictions: a JSONL file, each line with id and description (null: could not be parsed).",
        ),
    ],
    truth: Annotated[
        Path,
        typer.Option(
            "--truth",
            help="Truth: a JSONL file, each line with id, bucket, width, height and description of a sample.",
        ),
    ],
    vectors: Annotated[
        str | None,
        typer.Option(
            help="What compares names by their meaning: spacy:MODEL or hf:ID, as evaluation.word_vectors; default: their spelling."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure how well predicted descriptions of images agree with the truth: nine metrics, by KPI
    bucket and for all samples, with 95 % intervals."""
    from boig_core.evaluation.measure.description import evaluate_files
    from boig_core.llm.vectors import open_vectors

    rows = evaluate_files(truth, pred, open_vectors(vectors))
    if as_json:
        print(json.dumps(rows))
        return
    from rich.console import Console

    from boig_core.evaluation.report.terminal import print_descriptions

    print_descriptions(rows, Console())
