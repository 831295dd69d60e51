"""A whole run in a store, with made-up numbers: what the stage `report` finds when everything
before it is done. And a CLIP."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from boig_core.config import Recipe, load_recipe
from boig_core.evaluation.measure.breakdown import by_bucket_and_account
from boig_core.evaluation.measure.files import write_generation
from boig_core.evaluation.measure.generation import ImageMeasures, summarize
from boig_core.evaluation.measure.real_images import Real
from boig_core.evaluation.measure.rewriting import rewrite_by_description, rewrite_by_retrieval
from boig_core.evaluation.measure.sampling_plan import ROWS, make_plan
from boig_core.evaluation.measure.validity import validity
from boig_core.llm.metrics import METRICS
from boig_core.rewards import REWARDS
from boig_core.storage import commit, manifest, store
from boig_core.storage.job import Job, Stage, write_job
from boig_core.storage.stage import Workspace, run_stage
from boig_core.vocabulary import BUCKETS, Description, KpiValue, Sample
from ray_jobs.report import work


def make_sample(index: int, **changes: Any) -> Sample:
    sample = Sample(
        id=f"{index:05d}", post=f"{index:05d}", account=f"account{index % 3}", company="solara", timestamp="2021-07-01T10:00:00Z",
        text=f"Made-up post number {index} of a summer brand with one ball", keywords=("ball",), kpi=float(index % 90), kpi_normalized=50.0,
        bucket="high", split="test", image=f"{index:064d}", width=128, height=128,
    )  # fmt: skip
    return replace(sample, **changes)


def shrunken() -> Recipe:
    return load_recipe(
        "tiny",
        [
            "evaluation.unguided=true",
            "evaluation.prompts=18",
            "evaluation.images_per_prompt=4",
            "evaluation.bootstrap=200",
            "evaluation.rewrite=[retrieval, boigllm]",
            "evaluation.best_of_n=4",
        ],
    )


def made_up_models(
    recipe: Recipe, gain: float = 1.0
) -> tuple[Any, dict[str, ImageMeasures], dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    train = make_sample(60, split="train")
    plan = make_plan(
        [*(make_sample(i, bucket=BUCKETS[i // 3 % 3]) for i in range(60)), train], recipe
    )
    described = Description(
        {"Light_Blue": 0.6, "White": 0.4}, {"cool": 1.0}, {"ball": (50.0, 50.0, 70.0, 70.0)}
    )
    rewritten = {
        "retrieval": tuple(rewrite_by_retrieval([train], plan.samples)),
        "boigllm": tuple(rewrite_by_description(plan.samples, [described] * len(plan.samples))),
    }
    plan = replace(plan, rewritten=rewritten)
    count = len(plan.seeds)
    measured, images = {}, {}
    shifts = {
        "high_kpi": 0.4,
        "boigsd": 1.0,
        "boigsd_prompt_rewrite": 1.5,
        "boigsd_description_rewrite": 1.7,
        "boigsd_unguided": 0.9,
    }
    for name in ROWS:
        shift = gain * shifts.get(name, 0.0)
        embedding_ND = rng.normal(size=(count, 16))
        measured[name] = ImageMeasures(
            reward_N=rng.normal(shift, 0.5, count),
            judge_N=rng.normal(shift, 0.5, count),
            clip_N=rng.normal(30, 1, count),
            mismatched_N=rng.normal(20, 1, count),
            aesthetic_N=None,
            named_N=rng.choice([0.0, 0.5, 1.0], count),
            embedding_ND=embedding_ND / np.linalg.norm(embedding_ND, axis=1, keepdims=True),
            features_NF=rng.normal(0.1 * shift, 1, size=(count, 12)),
        )
        colors = (
            rng.integers(0, 255, size=(count, 1, 1, 3))
            * np.linspace(1, 0.6, 32)[None, :, None, None]
        )
        images[name] = np.broadcast_to(colors, (count, 32, 32, 3)).astype(np.uint8)
    return plan, measured, images


def made_up_validity(seed: int) -> dict[str, Any]:
    """Validity of each formulation on made-up posts: the first tells HIGH from LOW, the last pays
    for length."""
    rng = np.random.default_rng(seed)
    buckets = ["low"] * 12 + ["medium"] * 6 + ["high"] * 2
    samples = [
        make_sample(
            i,
            bucket=buckets[i // 3 % 20],
            kpi_normalized=5.0 * (i // 3 % 20),
            more_kpis={"shares": KpiValue(1.0, i % 97, None)},
        )
        for i in range(600)
    ]
    length_N = rng.integers(40, 60, 600).astype(float)
    rewards = {name: rng.normal(size=600) for name in REWARDS}
    rewards["contrast"] += [sample.kpi_normalized / 40 for sample in samples]
    rewards["dsg"] += length_N / 4
    return {
        name: validity(
            reward_N, length_N, samples, more_kpis=("shares",), resamples=200, seed=0
        ).as_json()
        for name, reward_N in rewards.items()
    }


class Store:
    """A store in which stages commit made-up outputs."""

    def __init__(self, root: Path, recipe: Recipe, run: str = "run") -> None:
        self.root, self.recipe, self.name = str(root / "store"), recipe, run
        self.scratch = root / "scratch" / run

    def run(
        self, stage: Stage, kind: str, family: str, files: dict[str, Any], inputs: dict[str, str], meta: dict[str, Any] | None = None,
        rows: list[dict[str, float]] | None = None, folder: Path | None = None,
    ) -> str:  # fmt: skip
        job = self.job(stage, inputs)
        write_job(job)
        local = folder or self.scratch / stage.value
        local.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (local / name).write_text(json.dumps(content))
        uri = Workspace(job, self.scratch).publish(family, local, kind=kind, meta=meta)
        if rows:
            store.write_bytes(
                store.join(job.attempt_uri, "metrics.jsonl"),
                "".join(json.dumps(row) + "\n" for row in rows).encode(),
            )
        commit.commit(job.attempt_uri, {kind: uri}, {"seconds": 12.5})
        return uri

    def job(self, stage: Stage, inputs: dict[str, str]) -> Job:
        task = store.join(self.root, "runs", "dag", self.name, stage.value)
        return Job(
            stage=stage,
            recipe=self.recipe,
            inputs=inputs,
            store=self.root,
            root=f"dag/{self.name}",
            task=task,
            attempt=1,
        )


def evaluate(
    world: Store, inputs: dict[str, str], rng: np.random.Generator, gain: float = 1.0
) -> str:
    """What evaluate_sd publishes of made-up images; the base's are the same each time, BoigSD's are
    better by ``gain``."""
    recipe = world.recipe
    plan, measured, images = made_up_models(recipe, gain)
    summary = summarize(
        measured,
        plan,
        Real(rng.normal(size=(60, 12)), np.eye(16), np.array([1.0, 0.5]), np.eye(16)[:9]),
        recipe,
    )
    summary["by"] = by_bucket_and_account(measured, plan, recipe)
    summary["settings"] = {
        **recipe.evaluation.model_dump(mode="json"),
        "prompts": 18,
        "reward": "contrast",
        "reward_clip": [-4.0, 6.0],
    }
    out = world.scratch / "generation"
    out.mkdir(parents=True)
    write_generation(out, summary, plan, images, measured)
    return world.run(
        Stage.EVALUATE_SD, "generation", "evaluations/generation", {}, inputs, folder=out
    )


@pytest.fixture
def finished_run(tmp_path: Path) -> Job:
    return make_finished_run(tmp_path)


def made_up_descriptions() -> dict[str, Any]:
    """Content of ``description.json``."""
    row = {
        metric: {"high": 0.4, "medium": None, "low": 0.35, "all": 0.38, "undefined": 3,
                 "undefined_in": {"high": 0, "medium": 2, "low": 1}, "interval": {"high": [0.37, 0.43], "low": [0.31, 0.39]}}
        for metric in METRICS
    }  # fmt: skip
    gain = {"mean": 0.05, "low": 0.03, "high": 0.07, "clusters": 200, "n": 200}
    loss = {"mean": -0.02, "low": -0.05, "high": 0.01, "clusters": 200, "n": 200}
    gains = {
        "colors_iou": {"high": gain, "low": gain},
        "objects_iou": {"high": gain},
        "tones_coverage_rmse": {"high": loss, "low": loss},
    }
    return {"boigllm": row, "no_kpi": row, "retrieval": row, "most_frequent": row, "few_shot_3": row,
                 "paired": {"boigllm-no_kpi": gains, "boigllm-retrieval": gains, "boigllm-most_frequent": gains},
                 "n": {"high": 70, "medium": 60, "low": 70}, "asked": {"boigllm": 200, "no_kpi": 200, "few_shot_3": 90},
                 "parse_rate": {"boigllm": 1.0, "no_kpi": 0.995, "few_shot_3": 0.9}, "constrained": True,
                 "parse_rate_unconstrained": {"boigllm": 0.95, "texts": 60}, "vectors": "hashed character n-grams, the offline fallback",
                 "failures": {"few_shot_3": {"HTTP 500": 2, "the text is no answer": 7}}}  # fmt: skip


def make_finished_run(tmp_path: Path) -> Job:
    """Job of the stage `report`, all of whose inputs are there."""
    recipe = shrunken()
    world = Store(tmp_path, recipe)
    rng = np.random.default_rng(1)
    meta = {
        "posts": 3920,
        "rejected": 80,
        "images": 3920,
        "buckets": {"high": 390, "medium": 1170, "low": 2360},
    }
    raw = world.run(
        Stage.INGEST, "dataset", "datasets/raw", {"labels.json": {}}, {"posts": "posts.jsonl"}, meta
    )
    dataset = world.run(
        Stage.PERCEIVE, "dataset", "datasets/perceived", {"labels.json": {}}, {"dataset": raw}, meta
    )
    losses = [
        {"step": s, "time": 0.0, "loss": float(4 * np.exp(-s / 60) + 1 + rng.normal(0, 0.05))}
        for s in range(0, 300, 5)
    ]
    config = {"config.json": {}}
    data = {"dataset": dataset}
    llm = world.run(Stage.FINETUNE_LLM, "boigllm", "models/boigllm", config, data, rows=losses)
    inputs = {**data, "boigllm": llm}
    described = {"description.json": made_up_descriptions()}
    description = world.run(
        Stage.EVALUATE_LLM, "description", "evaluations/description", described, inputs
    )
    calibrated = {"schema_version": 2, "reward": "contrast", "clip": [-4.0, 6.0], "recommended": "contrast",
                  "conditions": {"accounts": {}, "fallback": {"high": 200.0, "low": 20.0}},
                  "splits": {split: made_up_validity(seed) for seed, split in enumerate(("validation", "test"))}}  # fmt: skip
    numbers = {"calibration.json": calibrated}
    calibration = world.run(
        Stage.CALIBRATE, "calibration", "evaluations/calibration", numbers, inputs
    )
    finetune = world.run(
        Stage.FINETUNE_SD, "sd", "models/high-kpi", {"model_index.json": {}}, {"dataset": dataset},
        rows=[{"step": s, "time": 0.0, "loss": float(0.3 + 0.2 * np.exp(-s / 80) + rng.normal(0, 0.02))} for s in range(0, 300, 5)],
    )  # fmt: skip
    rewards = [
        {"step": s, "time": 0.0, "reward": float(0.2 + 0.05 * s + rng.normal(0, 0.1))}
        for s in range(30)
    ]
    index, inputs = {"model_index.json": {}}, {**data, "calibration": calibration}
    ddpo = world.run(Stage.DDPO, "sd", "models/boigsd", index, inputs, rows=rewards)
    generation = evaluate(world, {**data, "high_kpi": finetune, "boigsd": ddpo}, rng)
    assert manifest.read_manifest(generation).kind == "generation"
    inputs |= {"description": description, "generation": generation}
    job = world.job(Stage.REPORT, inputs)
    write_job(job)
    return job


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP with random weights, as transformers saves one."""
    folder = tmp_path_factory.mktemp("clip")
    words = [
        "<|startoftext|>",
        "<|endoftext|>",
        "red</w>",
        "ball</w>",
        "box</w>",
        "r",
        "e",
        "d",
        "b",
        "a",
        "l",
        "o",
        "x",
    ]
    tokenizer = CLIPTokenizer(
        vocab={w: i for i, w in enumerate(words)},
        merges=[("r", "e"), ("re", "d</w>")][:0],
        model_max_length=16,
    )
    torch.manual_seed(0)
    text = {"vocab_size": len(words), "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
            "max_position_embeddings": 16, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}  # fmt: skip
    vision = {
        "hidden_size": 24,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 16,
        "patch_size": 8,
    }
    CLIPModel(
        CLIPConfig(text_config=text, vision_config=vision, projection_dim=12)
    ).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    CLIPImageProcessorPil(size={"height": 16, "width": 16}, do_center_crop=False).save_pretrained(
        folder
    )
    return folder


@pytest.fixture
def published(finished_run: Job) -> str:
    assert run_stage(work, [store.join(finished_run.attempt_uri, "job.json")]) == 0
    committed = commit.read_commit(finished_run.attempt_uri)
    assert committed is not None
    return str(committed["outputs"]["report"])
