from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from boig_core.cli import app
from boig_core.errors import InputError
from boig_core.evaluation.measure.description import evaluate, evaluate_files, write_files
from boig_core.evaluation.measure.intervals import paired_difference
from boig_core.evaluation.report.paper_figures import PUBLISHED
from boig_core.llm.metrics import METRICS, HashedNgrams, PredictedPair, table
from boig_core.vocabulary import BUCKETS, Description, Sample

RED = Description(
    {"Red": 0.5, "White": 0.5}, {"warm": 0.5, "neutral": 0.5}, {"ball": (0.0, 0.0, 10.0, 10.0)}
)
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


def by_id(said: list[Any], samples: list[Sample] = SAMPLES) -> dict[str, Any]:
    return {s.id: d for s, d in zip(samples, said, strict=True)}


def measure(
    predictions: dict[str, Any], samples: list[Sample] = SAMPLES, resamples: int = 200
) -> dict[str, Any]:
    return evaluate(
        samples,
        predictions,
        candidate="boigllm",
        vectors=HashedNgrams(),
        resamples=resamples,
        seed=0,
    )


def test_models_are_compared_in_pairs() -> None:
    got = measure(
        {
            "boigllm": by_id([RED] * 12),
            "no_kpi": by_id([HALF] * 11 + [None]),
            "retrieval": by_id([HALF] * 12),
        }
    )
    perfect = got["boigllm"]["colors_iou"]
    assert {key: perfect[key] for key in ("high", "medium", "low", "all", "undefined")} == {
        "high": 1.0, "medium": 1.0, "low": 1.0, "all": 1.0, "undefined": 0,
    }  # fmt: skip
    assert perfect["interval"] == {key: [1.0, 1.0] for key in ("high", "medium", "low", "all")}
    assert got["no_kpi"]["colors_iou"]["high"] == pytest.approx(0.5)
    assert got["parse_rate"] == {"boigllm": 1.0, "no_kpi": pytest.approx(11 / 12), "retrieval": 1.0}
    assert got["n"] == {"high": 4, "medium": 4, "low": 4}
    assert list(got["paired"]) == ["boigllm-no_kpi", "boigllm-retrieval"]
    for pair in got["paired"].values():
        assert set(pair) == set(METRICS)
        high = pair["colors_iou"]["high"]
        assert (high["mean"], high["low"], high["high"], high["n"]) == (0.5, 0.5, 0.5, 4)
    assert got["paired"]["boigllm-no_kpi"]["colors_coverage_rmse"]["all"]["n"] == 11
    assert got["paired"]["boigllm-no_kpi"]["objects_cosine"] == {}
    assert "fallback" in got["vectors"]


def test_undefined_samples_are_counted_by_bucket_and_have_no_interval() -> None:
    got = measure({"boigllm": by_id([RED, RED, HALF] * 4), "no_kpi": by_id([None] * 12)})
    row = got["boigllm"]["objects_cosine"]
    assert (row["high"], row["low"], row["undefined"]) == (pytest.approx(1.0), None, 4)
    assert row["undefined_in"] == {"high": 0, "medium": 0, "low": 4}
    assert set(row["interval"]) == {"high", "medium", "all"}
    assert got["no_kpi"]["objects_iou"]["interval"]["low"] == [0.0, 0.0]
    assert got["no_kpi"]["objects_cosine"]["interval"] == {}


def test_a_model_that_was_asked_about_some_samples_is_compared_on_those() -> None:
    some = by_id([HALF] * 3, SAMPLES[:3]) | by_id([RED], SAMPLES[6:7])
    got = measure({"boigllm": by_id([RED] * 12), "few_shot": some})
    assert got["asked"] == {"boigllm": 12, "few_shot": 4}
    assert got["few_shot"]["colors_iou"]["high"] == pytest.approx(0.75)
    assert got["few_shot"]["objects_cosine"]["undefined_in"] == {"high": 1, "medium": 1, "low": 1}
    gain = got["paired"]["boigllm-few_shot"]["colors_iou"]["high"]
    assert (gain["mean"], gain["n"]) == (pytest.approx(0.25), 2)


def test_intervals_hold_whole_posts_and_shrink_with_their_number() -> None:
    rng = np.random.default_rng(0)
    right = rng.random(240) < 0.5
    samples = [replace(make_sample(i), bucket="high") for i in range(240)]
    answers = by_id([RED if hit else HALF for hit in right], samples)
    apart = measure({"boigllm": answers}, samples, 2000)["boigllm"]["colors_iou"]
    low, high = apart["interval"]["high"]
    expected = 1.96 * 0.25 / math.sqrt(240)
    assert low < apart["high"] < high
    assert (high - low) / 2 == pytest.approx(expected, rel=0.1)
    order = np.argsort(~right, kind="stable")  # posts of ten images that are all right or all wrong
    clustered = [replace(samples[i], post=f"post{place // 10}") for place, i in enumerate(order)]
    low, high = measure({"boigllm": answers}, clustered, 2000)["boigllm"]["colors_iou"]["interval"][
        "high"
    ]
    assert (high - low) / 2 == pytest.approx(expected * math.sqrt(10), rel=0.15)


def test_differences_are_those_of_the_paired_bootstrap() -> None:
    rng = np.random.default_rng(1)
    looks = [RED, HALF, Description({"White": 1.0}, {"cool": 1.0}, {})]
    samples = [replace(make_sample(i), bucket="low", post=f"post{i // 2}") for i in range(60)]
    answers = {
        model: by_id([looks[i] for i in rng.integers(0, 3, 60)], samples)
        for model in ("boigllm", "no_kpi")
    }
    got = measure(answers, samples)
    values = {
        model: table([PredictedPair("low", 64, 64, RED, d) for d in result.values()])["colors_iou"]
        for model, result in answers.items()
    }
    expected = paired_difference(
        values["boigllm"], values["no_kpi"], [s.post for s in samples], resamples=200, seed=0
    ).as_json()
    assert got["paired"]["boigllm-no_kpi"]["colors_iou"]["low"] == pytest.approx(expected)


def test_the_command_prints_what_the_files_say(tmp_path: Path) -> None:
    write_files(tmp_path, SAMPLES, {"boigllm": by_id([HALF] * 11 + [None])})
    arguments = [
        "describe-eval",
        "--pred",
        str(tmp_path / "predictions-boigllm.jsonl"),
        "--truth",
        str(tmp_path / "truth.jsonl"),
        "--json",
    ]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    rows = json.loads(done.output)
    assert list(rows) == list(METRICS)
    colors, objects = rows["colors_iou"], rows["objects_cosine"]
    means = {
        "high": 0.5,
        "medium": 0.5,
        "low": pytest.approx(1.5 / 4),
        "all": pytest.approx(5.5 / 12),
    }
    assert {bucket: colors[bucket] for bucket in means} == means
    assert colors["undefined"] == 0
    low, high = colors["interval"]["low"]
    assert low < colors["low"] <= high == 0.5
    assert (objects["medium"], objects["all"], objects["interval"], objects["undefined"]) == (
        None,
        None,
        {},
        12,
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda rows: rows[:-1], "has no line"),
        (lambda rows: [*rows, rows[0]], "again"),
        (lambda rows: [*rows, {"id": "other", "description": None}], "has no line"),
        (lambda rows: [{"id": "p0"}, *rows[1:]], "must be a JSON object with"),
        (
            lambda rows: [{"id": "p0", "description": {"color and tones": 3}}, *rows[1:]],
            "must be a JSON object",
        ),
        (lambda rows: [], "has no line"),
    ],
)
def test_bad_predictions_are_one_clear_error(tmp_path: Path, change: Any, said: str) -> None:
    write_files(tmp_path, SAMPLES, {"m": by_id([HALF] * 12)})
    pred = tmp_path / "predictions-m.jsonl"
    rows = [json.loads(line) for line in pred.read_text().splitlines()]
    pred.write_text("".join(json.dumps(row) + "\n" for row in change(rows)))
    with pytest.raises(InputError, match=said):
        evaluate_files(tmp_path / "truth.jsonl", pred)


def test_the_published_figures_are_complete() -> None:
    assert all(list(row) == list(METRICS) for row in PUBLISHED.values())
    assert PUBLISHED["BoigLLM"]["colors_iou"] == (0.407, 0.453)
    assert PUBLISHED["GPT-3.5, 5 examples"]["objects_position_error"] == (0.362, 0.362)
