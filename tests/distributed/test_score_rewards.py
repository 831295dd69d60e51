"""Stages calibrate, score_rewards and ddpo over a real dataset and a BoigLLM with random weights,
by Ray actors, from store to store."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from boig_core.config import load_recipe
from boig_core.data import dataset
from boig_core.rewards import REWARDS, offered
from boig_core.storage import commit, manifest
from boig_core.storage.job import Job, Stage
from boig_core.verbalization.answer import print_answer
from boig_core.verbalization.templates import Wording
from ray_jobs import finetune_llm

pytestmark = pytest.mark.usefixtures("ray_cluster")


def read(done: dict[str, Any]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    folder = Path(done["outputs"]["rewards"])
    return pq.read_table(folder / "rewards.parquet").to_pylist(), json.loads(
        (folder / "rewards.json").read_text()
    )


def test_a_split_is_scored_once_and_a_folder_of_its_images_alike(
    prepared: Any, tmp_path: Path
) -> None:
    calibration = json.loads(Path(prepared.inputs["calibration"], "calibration.json").read_text())
    assert calibration["reward"] == "contrast + 0.5 mean_logprob"
    assert set(calibration["splits"]["test"]) >= {
        "dsg",
        "contrast",
        "mean_logprob",
        calibration["reward"],
    }
    assert set(calibration["scales"]) == set(offered(predictor=False))

    done = prepared.run(Stage.SCORE_REWARDS, "reward.actors=2", **prepared.inputs)
    rows, result = read(done)
    test = {sample.id: sample for sample in prepared.samples if sample.split == "test"}
    assert sorted(row["id"] for row in rows) == sorted(test)
    assert set(rows[0]) == {"id", "image", "account", *offered(predictor=False), "tokens", "reward"}
    assert done["metrics"]["known"] == 24  # those that the calibration scored
    low, high = calibration["clip"]
    for row in rows:
        parts = [(row[name] - scale["mean"]) / scale["std"] * weight for name, weight in (("contrast", 1.0), ("mean_logprob", 0.5))
                 for scale in [calibration["scales"][name]]]  # fmt: skip
        assert row["reward"] == pytest.approx(np.clip(sum(parts), low, high))
        assert row["tokens"] > len(print_answer(test[row["id"]].description)) / 20  # type: ignore[arg-type]
    assert result["all"]["n"] == len(test)

    again = prepared.run(Stage.SCORE_REWARDS, name="again", **prepared.inputs)
    assert again["metrics"]["known"] == len(test)
    assert read(again) == (rows, result)

    chosen = list(test.values())[:3]
    pixels = dataset.read_images(prepared.dataset, [sample.image for sample in chosen])
    for sample in chosen:
        Image.fromarray(pixels[sample.image]).save(tmp_path / f"{sample.id}.png")
    lines = [json.dumps({"image": f"{sample.id}.png", "id": sample.id}) for sample in chosen]
    (tmp_path / "posts.jsonl").write_text("\n".join(lines))
    files = {"images": str(tmp_path), "posts": str(tmp_path / "posts.jsonl")}
    done = prepared.run(Stage.SCORE_REWARDS, name="files", **prepared.inputs, **files)
    by_id = {row["id"]: row for row in rows}
    for row in read(done)[0]:
        assert row["image"] == f"{row['id']}.png"
        assert row["contrast"] == pytest.approx(by_id[row["id"]]["contrast"], abs=1e-4)
    assert done["metrics"]["known"] == 0


def test_a_reward_that_was_not_calibrated_is_refused(prepared: Any) -> None:
    assert (
        prepared.run(
            Stage.SCORE_REWARDS, "reward.weights={dsg: 1}", name="other", **prepared.inputs
        )
        == {}
    )
    failure = commit.read_failure(f"{prepared.root}/runs/dag/other/score_rewards/attempt-1")
    assert failure is not None
    assert "calibrate again" in failure.remedy


def test_a_predictor_is_trained_and_its_reward_measured_and_scored(prepared: Any) -> None:
    rated = ("llm.predictor=head", "reward.weights={engagement: 1}", "evaluation.judge=predictor")
    outputs = train_rated(prepared, rated)
    inputs = {
        "dataset": prepared.dataset,
        "boigllm": outputs["boigllm"],
        "predictor": outputs["predictor"],
    }
    done = prepared.run(Stage.CALIBRATE, *rated, name="rated", **inputs)
    calibration = json.loads(Path(done["outputs"]["calibration"], "calibration.json").read_text())
    assert set(calibration["splits"]["test"]) == set(REWARDS)
    assert 0 <= calibration["clip"][0] < calibration["clip"][1] <= 100
    assert 0 < done["metrics"]["engagement_rmse_test"] < 100
    assert done["metrics"]["mean_kpi_rmse_test"] > 0

    inputs |= done["outputs"]
    scored = prepared.run(Stage.SCORE_REWARDS, *rated, name="rated", **inputs)
    assert scored["metrics"]["known"] == 24
    rows, _ = read(scored)
    assert set(rows[0]) == {"id", "image", "account", *REWARDS, "tokens", "reward"}
    for row in rows:
        assert row["reward"] == pytest.approx(np.clip(row["engagement"], *calibration["clip"]))

    del inputs["predictor"]
    assert prepared.run(Stage.SCORE_REWARDS, *rated, name="unrated", **inputs) == {}
    failure = commit.read_failure(f"{prepared.root}/runs/dag/unrated/score_rewards/attempt-1")
    assert failure is not None
    assert failure.user
    assert failure.message.startswith("input 'predictor'")


def train_rated(prepared: Any, rated: tuple[str, ...]) -> dict[str, str]:
    """Outputs of a finetune_llm that trains predictor and judge, too."""
    sizes = "hidden=32 layers=1 steps=40 checkpoint_every=40 batch=12 micro_batch=12"
    small = [f"llm.{size}" for size in sizes.split()]
    job = Job(
        stage=Stage.FINETUNE_LLM, recipe=load_recipe("tiny", [*prepared.settings, *small, *rated]), inputs={"dataset": prepared.dataset},
        store=prepared.root, root="test", task=f"{prepared.root}/runs/dag/rated/finetune_llm", attempt=1,
    )  # fmt: skip
    curve: list[dict[str, float]] = []
    config = {"job": job.model_dump_json(), "rows": lambda step, values: curve.append(values)}
    trained = {
        name: finetune_llm.train_model({**config, "model": name}) for name in job.recipe.llm_models
    }
    outputs, metrics = ({name: part[i] for name, part in trained.items()} for i in (0, 1))
    commit.commit(job.attempt_uri, outputs, {})
    assert set(outputs) == {"boigllm", "no_kpi", "predictor", "judge"}
    assert [sum(f"{name}_loss" in row for row in curve) for name in outputs] == [40] * 4
    counts = Counter(sample.split for sample in prepared.samples if sample.bucket is not None)
    assert metrics["predictor"]["train_samples"] == counts["train"]
    assert metrics["judge"]["train_samples"] < counts["judge"]
    manifest.read_manifest(outputs["judge"], kind="judge")
    messages = metrics["predictor"]
    assert messages["steps"] == 40
    # Whether forty steps beat a head that says the middle of everything is not asked here, only
    # that they are told of as they were.
    assert messages["best_step"] == 40
    assert messages["loss_fell"] is (messages["best_val_loss"] < messages["first_val_loss"])
    published = manifest.read_manifest(outputs["predictor"], kind="predictor")
    assert published.meta["method"] == "head"
    assert {"head.safetensors", "predictor.json", "README.md"} <= {
        entry.path for entry in published.files
    }
    return outputs


def test_an_alignment_is_watched_by_a_predictor_that_it_does_not_maximize(
    prepared: Any, tmp_path: Path
) -> None:
    folder = tmp_path / "predictor"
    shutil.copytree(
        prepared.inputs["boigllm"], folder, ignore=shutil.ignore_patterns(manifest.MANIFEST)
    )
    save_file(
        {"weight": torch.full((1, 32), 0.1), "bias": torch.tensor([0.5])},
        folder / "head.safetensors",
    )
    about = {
        "method": "head",
        "wording": asdict(Wording.of(load_recipe("tiny", prepared.settings))),
    }
    (folder / "predictor.json").write_text(json.dumps(about))
    predictor = prepared.publish("models/predictor", folder, "predictor")
    sizes = "epochs=2 prompts=2 images_per_prompt=2 chunk=4 sampling_steps=3 window=1 updates=1"
    settings = [f"ddpo.{size}" for size in [*sizes.split(), "probe_every=2"]]
    settings.append("reward.min_auc=null")
    done = prepared.run(Stage.DDPO, *settings, **prepared.inputs, predictor=predictor)
    assert set(done["outputs"]) == {"boigsd"}

    attempt = Path(prepared.root, "runs/dag/r/ddpo/attempt-1")
    first, second = (
        json.loads(line) for line in (attempt / "metrics.jsonl").read_text().splitlines()
    )
    assert 0 <= first["probe_engagement"] <= 100
    low, high = json.loads(Path(prepared.inputs["calibration"], "calibration.json").read_text())[
        "clip"
    ]
    assert low <= first["probe_reward"] <= high
    assert first["probe_diversity"] > 0
    assert not any(name.startswith("probe_") for name in second)
    for row in (first, second):
        assert all(
            0 < row[f"idle_{pool}"] < 1 for pool in ("learner", "rollout_actors", "reward_actors")
        )

    assert sorted(path.name for path in (attempt / "samples").iterdir()) == [
        "epoch-0000.json", "epoch-0001.json", "probe-0000.json", "probe-0000.png"
    ]  # fmt: skip
    texts = {
        split: {sample.text for sample in prepared.samples if sample.split == split}
        for split in ("train", "validation")
    }
    trained = json.loads((attempt / "samples/epoch-0001.json").read_text())
    assert {row["prompt"] for row in trained} <= texts["train"]
    assert [row["reward"] for row in trained] == pytest.approx(
        [second["reward_prompt_max"], second["reward_prompt_min"]]
    )
    probed = json.loads((attempt / "samples/probe-0000.json").read_text())
    assert {row["prompt"] for row in probed["rows"]} <= texts["validation"]
    assert np.mean([row["engagement"] for row in probed["rows"]]) == pytest.approx(
        first["probe_engagement"]
    )
    with Image.open(attempt / "samples/probe-0000.png") as grid:
        assert grid.size == (4 * 100 - 4, len(probed["rows"]) * 100 - 4)
