"""Evaluation of behavior-conditioned image description: models in one table, compared in pairs,
from memory or from JSONL files.

Files join on ``id``. Truth lines: ``{"id", "bucket", "width", "height", "description": ANSWER}``;
prediction lines: ``{"id", "description": ANSWER | null}``, null for an answer that could not be
parsed. Leaves out: the metrics (`llm.metrics`), vectors (`llm.vectors`) and making predictions
(`llm.generate`, `llm.baselines`, `llm.few_shot`). Shape letters: N samples, R resamples.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from boig_core.errors import InputError
from boig_core.evaluation.measure.intervals import PairedDifference, interval, resample_counts
from boig_core.llm.metrics import METRICS, PredictedPair, WordVectors, table
from boig_core.verbalization.answer import from_answer, to_answer
from boig_core.vocabulary import BUCKETS, Description, Sample

_RULE = "must be a JSON object with"


def evaluate(
    samples: Sequence[Sample],
    predictions: Mapping[str, Mapping[str, Description | None]],
    *,
    candidate: str,
    vectors: WordVectors,
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    """Content of ``description.json``.

    Args:
        samples: described, each with a bucket.
        predictions: by model and sample id; None: could not be parsed. A model may have been asked
            about some of the samples only.
        candidate: model whose paired differences from every other model are taken.
        vectors: that compare names.
        resamples: draws of each interval, clustered by post.
        seed: of the draws.

    Returns:
        For each MODEL its METRIC rows: ``high``, ``medium``, ``low`` and ``all`` (means),
        ``interval`` (95 %, where defined), ``undefined`` and ``undefined_in`` (by bucket). Beside
        them by model ``asked`` (samples) and ``parse_rate``; ``paired`` (candidate minus model, by
        metric and bucket, over the samples in which both are defined); ``n`` by bucket; and the
        name of the ``vectors``.
    """
    posts = [s.post for s in samples]
    # Drawn once for all, so that intervals differ by the values alone.
    parts, drawn = _draws_of_buckets([s.bucket for s in samples], posts, resamples, seed)
    values, result = {}, {}
    for model, predicted in predictions.items():
        asked_N = np.array([s.id in predicted for s in samples], bool)
        measured = table([_pair(s, predicted[s.id]) for s in samples if s.id in predicted], vectors)
        values[model] = {metric: _spread(column, asked_N) for metric, column in measured.items()}
        result[model] = {
            metric: _row(column, asked_N, parts, drawn) for metric, column in values[model].items()
        }
    paired = {
        f"{candidate}-{base}": {
            # NaN where either is undefined: only samples that both have count.
            metric: _differences(
                values[candidate][metric] - values[base][metric], posts, parts, drawn
            )
            for metric in METRICS
        }
        for base in predictions
        if base != candidate
    }
    return {
        **result,
        "asked": {model: len(predicted) for model, predicted in predictions.items()},
        "parse_rate": {
            model: float(np.mean([d is not None for d in predicted.values()]))
            for model, predicted in predictions.items()
        },
        "paired": paired,
        "n": {bucket: int(parts[bucket].sum()) for bucket in BUCKETS},
        "vectors": vectors.name,
    }


def _draws_of_buckets(
    buckets: Sequence[str | None], clusters: Sequence[str], resamples: int, seed: int
) -> tuple[dict[str, NDArray[np.bool_]], dict[str, NDArray[np.float64]]]:
    """Which samples lie in each bucket, and in all; and the bootstrap's draws of those (R, n), for
    each that holds any."""
    parts = {
        name: np.array([name in (bucket, "all") for bucket in buckets], bool)
        for name in (*BUCKETS, "all")
    }
    drawn = {
        name: resample_counts(
            [cluster for cluster, kept in zip(clusters, inside, strict=True) if kept],
            resamples,
            seed,
        )
        for name, inside in parts.items()
        if inside.any()
    }
    return parts, drawn


def evaluate_files(
    truth: Path,
    predicted: Path,
    vectors: WordVectors | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, dict[str, Any]]:
    """The METRIC rows of one model from two JSONL files, as `evaluate` gives them; intervals are
    clustered by id.

    Raises:
        InputError: a file or line that cannot be read, an id named twice, or ids that the two files
            do not share.
    """
    rows, predictions = _by_id(truth), _by_id(predicted)
    for ids, other, file, remedy in (
        (rows, predictions, predicted, "write null where an answer could not be parsed"),
        (predictions, rows, truth, "predict the samples of the truth file alone"),
    ):
        # Both ways: a sample that is missing on either side would move a mean without a word.
        if lost := ids.keys() - other.keys():
            raise InputError(f"id {min(lost)!r}", f"has no line in {file}", remedy)
    pairs = []
    for key, row in rows.items():
        try:
            if (
                row["bucket"] not in BUCKETS
                or not min(float(row["width"]), float(row["height"])) > 0
            ):
                raise ValueError
            truth_description = from_answer(row["description"])
            answer = predictions[key]["description"]
            pairs.append(
                PredictedPair(
                    row["bucket"],
                    row["width"],
                    row["height"],
                    truth_description,
                    None if answer is None else from_answer(answer),
                )
            )
        except (KeyError, TypeError, ValueError) as exc:
            # InputError is a ValueError too: the answer's parser has said what is wrong, and only
            # the id is added.
            if isinstance(exc, InputError):
                raise InputError(f"id {key!r}: {exc.value}", exc.rule, exc.remedy) from exc
            raise InputError(
                f"id {key!r}",
                f"{_RULE} bucket (high, medium, low), width, height, description",
                "mend its line",
            ) from exc
    buckets = [pair.bucket for pair in pairs]
    parts, drawn = _draws_of_buckets(buckets, list(rows), resamples, seed)
    asked_N = np.ones(len(pairs), bool)
    return {
        metric: _row(column, asked_N, parts, drawn)
        for metric, column in table(pairs, vectors).items()
    }


def write_files(
    folder: Path,
    samples: Sequence[Sample],
    predictions: Mapping[str, Mapping[str, Description | None]],
) -> None:
    """Write ``truth.jsonl`` and ``predictions-MODEL.jsonl``, as `evaluate_files` reads them."""
    folder.mkdir(parents=True, exist_ok=True)
    truth = [
        {
            "id": s.id,
            "bucket": s.bucket,
            "width": s.width,
            "height": s.height,
            "description": to_answer(s.description),
        }
        for s in samples
        if s.description is not None
    ]
    _write_lines(folder / "truth.jsonl", truth)
    for model, described in predictions.items():
        lines = [
            {"id": key, "description": None if prediction is None else to_answer(prediction)}
            for key, prediction in described.items()
        ]
        _write_lines(folder / f"predictions-{model}.jsonl", lines)


def _spread(column_M: NDArray[np.float64], asked_N: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Values of the samples that were asked about (M of N) at their places; NaN elsewhere."""
    column_N = np.full(len(asked_N), np.nan)
    column_N[asked_N] = column_M
    return column_N


def _row(
    column_N: NDArray[np.float64],
    asked_N: NDArray[np.bool_],
    parts: Mapping[str, NDArray[np.bool_]],
    drawn: Mapping[str, NDArray[np.float64]],
) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(parts)
    # What was not asked is NaN as well, and is no failure of the model.
    undefined_N, spans = asked_N & ~np.isfinite(column_N), {}
    for bucket, counts_RN in drawn.items():
        if means := _mean(column_N[parts[bucket]], counts_RN):
            row[bucket], *spans[bucket] = means
    missed = {
        bucket: int(undefined_N[inside].sum())
        for bucket, inside in parts.items()
        if bucket != "all"
    }
    return {**row, "undefined": int(undefined_N.sum()), "interval": spans, "undefined_in": missed}


def _differences(
    difference_N: NDArray[np.float64],
    posts: Sequence[str],
    parts: Mapping[str, NDArray[np.bool_]],
    drawn: Mapping[str, NDArray[np.float64]],
) -> dict[str, Any]:
    rows = {}
    for bucket, counts_RN in drawn.items():
        if means := _mean(difference_N[parts[bucket]], counts_RN):
            # Posts of the values that count, not of the bucket: an interval is as good as these are
            # many.
            kept = np.flatnonzero(parts[bucket] & np.isfinite(difference_N)).tolist()
            rows[bucket] = PairedDifference(
                *means, clusters=len({posts[i] for i in kept}), n=len(kept)
            ).as_json()
    return rows


def _mean(
    values_N: NDArray[np.float64], counts_RN: NDArray[np.float64]
) -> tuple[float, float, float] | None:
    """Mean of the defined values with its 95 % interval; None without any."""
    defined_N = np.isfinite(values_N)
    if not defined_N.any():
        return None
    kept_RN = counts_RN[:, defined_N]
    with np.errstate(
        invalid="ignore"
    ):  # a resample may hold none of them: NaN, which `interval` leaves out
        means_R = kept_RN @ values_N[defined_N] / kept_RN.sum(axis=1)
    return float(values_N[defined_N].mean()), *interval(means_R)


def _pair(sample: Sample, prediction: Description | None) -> PredictedPair:
    if sample.description is None or sample.bucket is None:
        raise ValueError(f"sample {sample.id} has no description or no bucket")
    return PredictedPair(sample.bucket, sample.width, sample.height, sample.description, prediction)


def _by_id(path: Path) -> dict[str, dict[str, Any]]:
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as exc:
        raise InputError(
            str(path), f"cannot be read ({exc.__class__.__name__})", "give a JSONL file in UTF-8"
        ) from exc
    rows: dict[str, dict[str, Any]] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            key = row["id"]
            # Looked up here, where the number of the line is known.
            row["description"]
        except (ValueError, TypeError, KeyError) as exc:
            raise InputError(
                f"{path}, line {number}", f"{_RULE} id and description", "mend the line"
            ) from exc
        if key in rows:
            raise InputError(
                f"{path}, line {number}", f"names id {key!r} again", "keep one line an id"
            )
        rows[key] = row
    if not rows:
        raise InputError(str(path), "has no line", "give a JSONL file with one line a sample")
    return rows


def _write_lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
