"""Evaluation of behaviour-conditioned image description: models in one table, compared in pairs, from memory or from JSONL files.

Files join on ``id``. Truth lines: ``{"id", "bucket", "width", "height", "description": ANSWER}``; prediction lines:
``{"id", "description": ANSWER | null}``, null for an answer that could not be parsed. Leaves out: the metrics (`llm.metrics`) and
making predictions (`llm.generate`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from boig_core.errors import InputError
from boig_core.evaluation.intervals import paired_difference
from boig_core.llm.metrics import HashedNgrams, Pair, summarize, table
from boig_core.verbalization.answer import from_answer, to_answer
from boig_core.vocabulary import BUCKETS, Description, Sample

_RULE = "must be a JSON object with"


def evaluate(
    samples: Sequence[Sample],
    predictions: Mapping[str, Sequence[Description | None]],
    *,
    compare: tuple[str, str],
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    """Content of ``description.json``.

    Args:
        samples: described, each with a bucket.
        predictions: by model, one a sample in the same order; None: could not be parsed.
        compare: candidate and base of the paired differences, models of ``predictions``.
        resamples: draws of each interval, clustered by post.
        seed: of the draws.

    Returns:
        For each MODEL its METRIC rows; beside them ``parse_rate`` by model, ``paired`` (colors_iou, candidate minus base, by bucket),
        ``n`` by bucket, and which word ``vectors`` were used.
    """
    values, result, vectors = {}, {}, HashedNgrams()
    for model, described in predictions.items():
        pairs = [_pair(sample, said) for sample, said in zip(samples, described, strict=True)]
        values[model] = table(pairs, vectors)
        result[model] = summarize(pairs, values[model])
    candidate, base = compare
    paired: dict[str, Any] = {}
    for bucket in (*BUCKETS, "all"):
        rows = [i for i, s in enumerate(samples) if bucket in (s.bucket, "all")]
        if rows:
            first, second = (values[model]["colors_iou"][rows] for model in (candidate, base))
            defined = np.isfinite(first) & np.isfinite(second)
            posts = [samples[i].post for i, kept in zip(rows, defined, strict=True) if kept]
            if posts:
                paired[bucket] = paired_difference(first[defined], second[defined], posts, resamples=resamples, seed=seed).as_json()
    return {
        **result,
        "parse_rate": {model: float(np.mean([said is not None for said in described])) for model, described in predictions.items()},
        "paired": {f"{candidate}-{base}": {"colors_iou": paired}},
        "n": {bucket: sum(s.bucket == bucket for s in samples) for bucket in BUCKETS},
        "vectors": vectors.name,
    }


def evaluate_files(truth: Path, predicted: Path) -> dict[str, dict[str, float | int | None]]:
    """The METRIC rows of one model from two JSONL files.

    Raises:
        InputError: a file or line that cannot be read, an id named twice, or ids that the two files do not share.
    """
    rows, said = _by_id(truth), _by_id(predicted)
    for ids, other, file, remedy in (
        (rows, said, predicted, "write null where an answer could not be parsed"),
        (said, rows, truth, "predict the samples of the truth file alone"),
    ):
        if lost := ids.keys() - other.keys():
            raise InputError(f"id {min(lost)!r}", f"has no line in {file}", remedy)
    pairs = []
    for key, row in rows.items():
        try:
            if row["bucket"] not in BUCKETS or not min(float(row["width"]), float(row["height"])) > 0:
                raise ValueError
            truth_description = from_answer(row["description"])
            answer = said[key]["description"]
            pairs.append(
                Pair(row["bucket"], row["width"], row["height"], truth_description, None if answer is None else from_answer(answer))
            )
        except (KeyError, TypeError, ValueError) as exc:
            if isinstance(exc, InputError):
                raise InputError(f"id {key!r}: {exc.value}", exc.rule, exc.remedy) from exc
            raise InputError(f"id {key!r}", f"{_RULE} bucket (high, medium, low), width, height, description", "mend its line") from exc
    return summarize(pairs, table(pairs))


def write_files(folder: Path, samples: Sequence[Sample], predictions: Mapping[str, Sequence[Description | None]]) -> None:
    """Write ``truth.jsonl`` and ``predictions-MODEL.jsonl``, as `evaluate_files` reads them."""
    folder.mkdir(parents=True, exist_ok=True)
    truth = [
        {"id": s.id, "bucket": s.bucket, "width": s.width, "height": s.height, "description": to_answer(s.description)}
        for s in samples
        if s.description is not None
    ]
    _write_lines(folder / "truth.jsonl", truth)
    for model, described in predictions.items():
        lines = [{"id": s.id, "description": None if said is None else to_answer(said)} for s, said in zip(samples, described, strict=True)]
        _write_lines(folder / f"predictions-{model}.jsonl", lines)


def _pair(sample: Sample, said: Description | None) -> Pair:
    if sample.description is None or sample.bucket is None:
        raise ValueError(f"sample {sample.id} has no description or no bucket")
    return Pair(sample.bucket, sample.width, sample.height, sample.description, said)


def _by_id(path: Path) -> dict[str, dict[str, Any]]:
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as exc:
        raise InputError(str(path), f"cannot be read ({exc.__class__.__name__})", "give a JSONL file in UTF-8") from exc
    rows: dict[str, dict[str, Any]] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            key = row["id"]
            row["description"]
        except (ValueError, TypeError, KeyError) as exc:
            raise InputError(f"{path}, line {number}", f"{_RULE} id and description", "mend the line") from exc
        if key in rows:
            raise InputError(f"{path}, line {number}", f"names id {key!r} again", "keep one line an id")
        rows[key] = row
    if not rows:
        raise InputError(str(path), "has no line", "give a JSONL file with one line a sample")
    return rows


def _write_lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
