from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from boig_core.cli import app
from boig_core.errors import InputError
from boig_core.evaluation.description import evaluate, evaluate_files, write_files
from boig_core.llm.metrics import METRICS
from boig_core.vocabulary import BUCKETS, Description, Sample

RED = Description({"Red": 0.5, "White": 0.5}, {"warm": 0.5, "neutral": 0.5}, {"ball": (0.0, 0.0, 10.0, 10.0)})
HALF = Description({"Red": 1.0}, {"warm": 1.0}, {})


def make_sample(index: int) -> Sample:
    return Sample(
        id=f"p{index}",
        post=f"p{index}",
        account="a",
        company="a",
        timestamp="2020-01-01T00:00:00Z",
        text="t",
        keywords=(),
        kpi=1.0,
        kpi_normalized=1.0,
        bucket=BUCKETS[index % 3],
        split="test",
        image=f"{index:064x}",
        width=64,
        height=64,
        description=RED,
    )


SAMPLES = [make_sample(i) for i in range(12)]


def test_models_are_compared_in_pairs() -> None:
    predictions: dict[str, Any] = {"boigllm": [RED] * 12, "no_kpi": [HALF] * 11 + [None]}
    got = evaluate(SAMPLES, predictions, compare=("boigllm", "no_kpi"), resamples=200, seed=0)
    assert got["boigllm"]["colors_iou"] == {"high": 1.0, "low": 1.0, "all": 1.0, "undefined": 0}
    assert got["no_kpi"]["colors_iou"]["high"] == pytest.approx(0.5)
    assert got["parse_rate"] == {"boigllm": 1.0, "no_kpi": pytest.approx(11 / 12)}
    assert got["n"] == {"high": 4, "medium": 4, "low": 4}
    high = got["paired"]["boigllm-no_kpi"]["colors_iou"]["high"]
    assert (high["mean"], high["low"], high["high"], high["n"]) == (0.5, 0.5, 0.5, 4)


def test_the_command_prints_what_the_files_say(tmp_path: Path) -> None:
    write_files(tmp_path, SAMPLES, {"boigllm": [HALF] * 11 + [None]})
    arguments = ["describe-eval", "--pred", str(tmp_path / "predictions-boigllm.jsonl"), "--truth", str(tmp_path / "truth.jsonl"), "--json"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    rows = json.loads(done.output)
    assert list(rows) == list(METRICS)
    assert rows["colors_iou"] == {"high": 0.5, "low": pytest.approx(1.5 / 4), "all": pytest.approx(5.5 / 12), "undefined": 0}
    assert rows["objects_cosine"] == {"high": None, "low": None, "all": None, "undefined": 12}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda rows: rows[:-1], "has no line"),
        (lambda rows: [*rows, rows[0]], "again"),
        (lambda rows: [*rows, {"id": "other", "description": None}], "has no line"),
        (lambda rows: [{"id": "p0"}, *rows[1:]], "must be a JSON object with"),
        (lambda rows: [{"id": "p0", "description": {"color and tones": 3}}, *rows[1:]], "must be a JSON object"),
        (lambda rows: [], "has no line"),
    ],
)
def test_bad_predictions_are_one_clear_error(tmp_path: Path, change: Any, said: str) -> None:
    write_files(tmp_path, SAMPLES, {"m": [HALF] * 12})
    pred = tmp_path / "predictions-m.jsonl"
    rows = [json.loads(line) for line in pred.read_text().splitlines()]
    pred.write_text("".join(json.dumps(row) + "\n" for row in change(rows)))
    with pytest.raises(InputError, match=said):
        evaluate_files(tmp_path / "truth.jsonl", pred)
