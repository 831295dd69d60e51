"""Prompts that are too long for who reads them: counted for each reader, told, in the report."""

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from boig_core.config import load_recipe
from boig_core.evaluation.measure.evaluated_cuts import count_evaluated
from boig_core.evaluation.measure.judges import ClipJudge
from boig_core.evaluation.measure.sampling_plan import Plan
from boig_core.evaluation.report.lineage import trace
from boig_core.evaluation.report.page import render
from boig_core.evaluation.report.report_json import read_report
from boig_core.models import resolve_model
from boig_core.storage.job import Job, Stage
from boig_core.storage.store import exists
from tests.unit.evaluation.conftest import Store, make_sample


class Judge(ClipJudge):
    """Reads at most four tokens, and has no weights."""

    def __init__(self) -> None:
        from transformers import CLIPTokenizer

        self._tokenizer = CLIPTokenizer.from_pretrained(
            Path(resolve_model("package:tiny-sd")) / "tokenizer"
        )

    @property
    def _limit(self) -> int:
        return 4


@pytest.fixture
def model(tmp_path: Path) -> str:
    """A published generator: tokenizers, and weights that nobody may fetch."""
    folder = tmp_path / "sd"
    for name in ("tokenizer", "tokenizer_2"):
        (folder / name).mkdir(parents=True)
        for file in (Path(resolve_model("package:tiny-sd")) / "tokenizer").iterdir():
            text = file.read_text()
            if name == "tokenizer_2" and file.name == "tokenizer_config.json":
                text = json.dumps({**json.loads(text), "model_max_length": 30})
            (folder / name / file.name).write_text(text)
    (folder / "unet").mkdir()
    (folder / "unet" / "model.safetensors").write_text("gigabytes")
    world = Store(tmp_path, load_recipe("tiny"))
    uri = world.run(Stage.DDPO, "sd", "models/boigsd", {}, {}, folder=folder)
    weights = Path(uri) / "unet" / "model.safetensors"
    assert exists(str(weights))
    weights.write_text("torn")
    return uri


def test_each_reader_counts_by_its_own_limit(
    model: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    texts = ["red ball", "blue ball red", "red " * 28, "red " * 29, "red " * 30]
    samples = tuple(replace(make_sample(i), id=f"s{i}", text=t) for i, t in enumerate(texts))
    rewritten: Any = {"retrieval": tuple(f"{text} red red" for text in texts)}
    plan = Plan(samples, 2, tuple(range(10)), rewritten)
    with caplog.at_level(logging.WARNING):
        counts = count_evaluated(plan, model, Judge(), tmp_path / "cut")
    assert counts == {
        # The first tokenizer of the model reads 44, and tells them apart.
        "sampled": {"cut_prompts": 2, "cut_prompts_alike": 0},
        "retrieval": {"cut_prompts": 3, "cut_prompts_alike": 0},
        "clip": {"cut_prompts": 4, "cut_prompts_alike": 3},
    }
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 3
    assert told[0].startswith("evaluation's prompts: 2 of 5 prompts (40%) are longer than the 30 ")
    assert "such as that of s3" in told[0]
    assert not (tmp_path / "cut" / "unet").exists()


@pytest.mark.parametrize("counted", [True, False])
def test_the_report_shows_them(published: str, finished_run: Job, counted: bool) -> None:
    folder = Path(finished_run.inputs["generation"])
    generation = json.loads((folder / "generation.json").read_text())
    if counted:
        generation["cut"] = {
            "sampled": {"cut_prompts": 7, "cut_prompts_alike": 2},
            "boigllm": {"cut_prompts": 11, "cut_prompts_alike": 0},
            "clip": {"cut_prompts": 0, "cut_prompts_alike": 0},
        }
    steps = trace(finished_run.inputs[name] for name in ("generation", "calibration"))
    page = render(read_report(published), generation, folder, steps, finished_run.recipe, "data")
    assert ("Of the prompts, 7 of 18 are longer" in page) is counted
    assert ("2 then the same as another" in page) is counted
    assert ("Of those rewritten by BoigLLM, 11 of 18" in page) is counted
    assert "For the CLIP score" not in page
