"""Stage evaluate_sd from store to store, sampled and asked on Ray: every row that a recipe can ask
for."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from boig_core.cluster import evaluation
from boig_core.cluster.evaluation import sample_draws
from boig_core.config import load_recipe
from boig_core.errors import InputError
from boig_core.evaluation.measure.generation import MODELS, measure
from boig_core.evaluation.measure.judges import ClipJudge
from boig_core.evaluation.measure.real_images import real_samples, see_real
from boig_core.evaluation.measure.sampling_plan import CHAMPION, ROWS
from boig_core.llm.finetune import export, train
from boig_core.llm.predictor import Rating, judge_samples
from boig_core.models import resolve_model
from boig_core.storage.job import Stage
from boig_core.vocabulary import PALETTE
from ray_jobs import evaluate_sd

pytestmark = pytest.mark.usefixtures("ray_cluster")


@pytest.fixture
def waits_for_the_first_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sampling goes on after its first row when a row is being measured."""
    begun = threading.Event()

    def measure_and_tell(*args: Any) -> Any:
        begun.set()
        return measure(*args)

    def sample(*args: Any) -> Any:
        *others, drawn = args

        def drawn_and_wait(name: str, images: Any) -> None:
            drawn(name, images)
            assert begun.wait(300), f"{name} is not measured while the next are sampled"

        return sample_draws(*others, drawn_and_wait)

    monkeypatch.setattr(evaluate_sd, "measure", measure_and_tell)
    monkeypatch.setattr(evaluation, "sample_draws", sample)


@pytest.mark.usefixtures("waits_for_the_first_measurement")
def test_every_row_is_sampled_and_measured_as_the_prompts_own(
    prepared: Any, tmp_path: Path
) -> None:
    judge = publish_judge(prepared, tmp_path / "judge")
    model = prepared.publish("models/tiny", Path(resolve_model("package:tiny-sd")), "sd")
    settings = (
        "evaluation.unguided=true",
        "evaluation.prompts=3", "evaluation.images_per_prompt=2", "evaluation.sampling_steps=2", "evaluation.best_of_n=2",
        "evaluation.rewrite=[retrieval, boigllm]", "evaluation.judge=predictor", "llm.predictor=head", "llm.max_new_tokens=160",
        "ddpo.chunk=4", "ddpo.prompts=2", "ddpo.images_per_prompt=4",
    )  # fmt: skip
    done = prepared.run(
        Stage.EVALUATE_SD,
        *settings,
        **prepared.inputs,
        high_kpi=model,
        boigsd=model,
        champion=model,
        judge=judge,
    )
    folder = Path(done["outputs"]["generation"])
    result = json.loads((folder / "generation.json").read_text())
    assert [name for name, row in result["generation"].items() if row] == [*MODELS, CHAMPION]
    assert result["grid_rows"] == [name for name in ROWS if not name.endswith("_unguided")]
    assert result["settings"]["judge"] == "engagement predictor of the split judge"
    assert result["paired"]["boigsd-champion"]["judge"]["mean"] == 0
    # The models are one and the same here: only prompts and guidance make a difference.
    rows = result["generation"]
    assert rows["boigsd"] == rows["base"]
    assert 0 < rows["base"]["judge"] < 100
    assert (
        rows["boigsd_description_rewrite"] == rows["description_rewrite"] != rows["prompt_rewrite"]
    )
    assert rows["base_unguided"]["clip"] != rows["base"]["clip"]
    assert rows["base"]["forwards"] == 2 * rows["base_unguided"]["forwards"] == 4
    assert {prompt["id"]: set(prompt["rewritten"]) for prompt in result["prompts"]} == {
        prompt["id"]: {"retrieval", "boigllm"} for prompt in result["prompts"]
    }
    check_prompts(result, folder)
    assert sum(part["n"] for part in result["by"]["bucket"].values()) == 6


def publish_judge(prepared: Any, folder: Path) -> str:
    """URI of an engagement predictor of the split judge, trained for two steps."""
    sizes = ("llm.hidden=32", "llm.layers=1", "llm.steps=2", "llm.batch=4")
    rated = load_recipe("tiny", [*prepared.settings, "llm.predictor=head", *sizes])
    export(train(judge_samples(prepared.samples), rated, Rating(rated, kind="judge")), folder)
    return str(prepared.publish("models/judge", folder, "judge"))


def check_prompts(result: dict[str, Any], folder: Path) -> None:
    """Each row was sampled for the prompt's own words, with what its way of rewriting adds."""
    table = pq.read_table(folder / "images.parquet").to_pylist()
    assert len(table) == 6 * len(ROWS)
    texts = {prompt["id"]: prompt for prompt in result["prompts"]}
    names = {name.replace("_", " ").lower() for name in PALETTE}
    for row in table:
        way = ROWS[row["model"]].rewrite
        prompt = texts[row["sample"]]
        assert row["prompt"] == (prompt["text"] if way is None else prompt["rewritten"][way])
        assert row["prompt"].startswith(prompt["text"])
    assert any(
        f"in {name}" in prompt["rewritten"]["boigllm"]
        for prompt in result["prompts"]
        for name in names
    )


def test_real_images_are_held_out_high_ones_and_novelty_knows_those_of_the_training(
    prepared: Any,
) -> None:
    recipe, clip = load_recipe("tiny", prepared.settings), ClipJudge("package:clip-judge")
    seen = see_real(prepared.dataset, prepared.samples, clip, clip, recipe)
    stored = real_samples(prepared.samples)
    assert {(sample.split == "train", sample.bucket) for sample in stored} == {(False, "high")}
    assert (
        len(seen.features_HF)
        == len(seen.embedding_HD)
        == len(seen.named_H)
        == len({sample.image for sample in stored})
    )
    train = {
        sample.image
        for sample in prepared.samples
        if sample.split == "train" and sample.bucket == "high"
    }
    assert len(seen.embedding_TD) == len(train)
    nearest = (seen.embedding_HD @ seen.embedding_TD.T).max(axis=1)
    assert (nearest < 1 - 1e-6).all()  # near-duplicates never cross splits
    np.testing.assert_allclose((seen.embedding_TD @ seen.embedding_TD.T).max(axis=1), 1.0)
    with pytest.raises(InputError, match="at least 4"):
        real_samples([sample for sample in prepared.samples if sample.split == "train"])
