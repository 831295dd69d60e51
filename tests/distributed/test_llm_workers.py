"""BoigLLM in real processes over gloo: the same loss for any number of workers, any ZeRO stage,
packed or not; and by torchrun alone."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from boig_core.config import Data, Recipe, parse_recipe
from boig_core.data import dataset, perceived, tables
from boig_core.data.ingestion import OneProcess, ingest
from boig_core.data.perceived import Question
from boig_core.llm.finetune import finetune
from boig_core.llm.generate import load_llm
from boig_core.llm.predictor import train_predictor
from boig_core.storage import commit, store
from boig_core.storage.manifest import Lineage, publish_folder
from boig_core.vocabulary import Description, Perceived
from tests.processes import run_ranks


def curves_of(recipe: dict[str, Any], dataset_uri: str) -> dict[str, list[float]]:
    """Loss curves by ZeRO stage, packed or not, and of predictors."""
    samples, curves = dataset.read_samples(dataset_uri), dict[str, list[float]]()
    for stage in (1, 2, 3):
        for packing in (True, False):
            losses: list[float] = []
            varied = parse_recipe(
                {**recipe, "llm": {**recipe["llm"], "zero_stage": stage, "packing": packing}}
            )
            finetune(
                samples,
                varied,
                with_kpi=True,
                report=lambda step, values, losses=losses: losses.append(values["loss"]),
            )
            curves[f"ZeRO {stage}, {'packed' if packing else 'unpacked'}"] = losses
        rated: list[float] = []
        train_predictor(
            samples, varied, report=lambda step, values, rated=rated: rated.append(values["loss"])
        )
        curves[f"predictor, ZeRO {stage}"] = rated
    return curves


def small(**llm: Any) -> Recipe:
    sizes = {
        "hidden": 48,
        "layers": 2,
        "heads": 2,
        "vocab_size": 512,
        "context": 256,
        "batch": 12,
        "micro_batch": 3,
        "steps": 6,
    }
    return parse_recipe(
        {
            "name": "small",
            "llm": {**sizes, "lr": 1e-2, "max_new_tokens": 64, "checkpoint_every": 6, **llm},
        }
    )


@pytest.fixture(scope="module")
def dataset_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A perceived dataset of 60 posts whose texts differ widely in length."""
    folder = tmp_path_factory.mktemp("dataset")
    root, export = store.join(str(folder), "datasets", "d"), folder / "export"
    export.mkdir()
    rng, rows = np.random.default_rng(4), []
    for i in range(60):
        pixels = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(pixels, format="PNG")
        (export / f"{i}.png").write_bytes(pixels.getvalue())
        text = f"Acme shows you number {i} " + "and a ball " * int(rng.integers(0, 12))
        post = {"id": f"{i}", "account": "acme", "timestamp": "2020-01-01", "text": text}
        rows.append({**post, "images": [f"{i}.png"], "likes": i})
    (export / "posts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    rules = Data(min_text=0, floors=(-1, -1, -1), near_duplicates=None)
    created = ingest(
        str(export), None, rules, 0, root=root, scratch=folder, crew=OneProcess(), retry=False
    )
    images = [entry for entry in created.blobs if f"{tables.IMAGES}-" in entry.path]
    questions = sorted(
        (
            Question(result.sha256)
            for e in images
            for result in dataset.shard_images(f"{root}/v", e)
        ),
        key=lambda q: q.sha256,
    )
    looks = {"Red": 0.6, "Blue": 0.4}, {"warm": 0.6, "neutral": 0.0, "cool": 0.4}
    seen = {
        q: Perceived(Description(*looks, {"ball": (1.0, 2.0, 3.0 + i % 5, 4.0)} if i % 3 else {}))
        for i, q in enumerate(questions)
    }
    kept = perceived.folder_of(str(folder), "key")
    part = perceived.keep_part(
        perceived.table_of(seen, {q.sha256: (8, 8) for q in questions}), kept
    )
    created = replace(
        created,
        blobs=(
            *created.blobs,
            perceived.build_shard(kept, questions, dict.fromkeys(questions, part)),
        ),
    )
    uri, attempt = store.join(root, "v1"), store.join(str(folder), "runs", "v1")
    lineage, meta = Lineage(inputs={}, recipe="r", code="c"), {**created.meta, "perceived": True}
    publish_folder(
        created.folder,
        uri,
        kind=dataset.KIND,
        lineage=lineage,
        commit=store.join(attempt, commit.COMMIT),
        meta=meta,
        blobs=created.blobs,
    )
    commit.commit(attempt, {"dataset": uri}, {})
    return uri


def torchrun(*arguments: str) -> str:
    """Standard output of two processes."""
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        *arguments,
    ]
    done = subprocess.run(
        command,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=1500,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_workers_zero_stages_and_packing_give_one_loss_curve(
    dataset_uri: str, tmp_path: Path
) -> None:
    alone: list[float] = []
    samples = dataset.read_samples(dataset_uri)
    finetune(
        samples,
        small(packing=False),
        with_kpi=True,
        report=lambda step, values: alone.append(values["loss"]),
    )
    rated: list[float] = []
    train_predictor(
        samples, small(predictor="head"), report=lambda step, values: rated.append(values["loss"])
    )
    assert len(alone) == len(rated) == 6
    assert alone[-1] < alone[0] - 1
    # Each step of the predictor draws other posts, whose squared errors differ by more than six
    # steps learn: curves that could agree by standing still would be no proof either.
    assert max(rated) - min(rated) > 1
    curves, _ = run_ranks(
        curves_of, 2, small(predictor="head").model_dump(mode="json"), dataset_uri
    )
    assert len(curves) == 9
    for name, curve in curves.items():
        assert curve == pytest.approx(
            rated if name.startswith("predictor") else alone, rel=1e-4, abs=1e-4
        ), name


def test_torchrun_trains_without_ray(dataset_uri: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ["-m", "boig_core.llm", "tiny", dataset_uri, str(out)]
    sizes = small(steps=4, checkpoint_every=2).llm
    fields = (
        "hidden",
        "vocab_size",
        "context",
        "batch",
        "micro_batch",
        "steps",
        "lr",
        "checkpoint_every",
    )
    for name in fields:
        arguments += ["--set", f"llm.{name}={getattr(sizes, name)}"]
    messages = json.loads(torchrun(*arguments).strip().splitlines()[-1])
    assert messages["steps"] == 4
    assert messages["loss_fell"] is True
    assert json.loads((out / "deepspeed.json").read_text())["zero_optimization"]["stage"] == 2
    assert parse_recipe(json.loads((out / "recipe.json").read_text())).llm.hidden == 48
    assert [
        json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()
    ] == [1, 2, 3, 4]
    model, _ = load_llm(out / "model")
    assert model.config.hidden_size == 48
    assert "Intended use" in (out / "model" / "README.md").read_text()
    samples = dataset.read_samples(dataset_uri)
    alone = finetune(
        samples, parse_recipe(json.loads((out / "recipe.json").read_text())), with_kpi=True
    )
    assert alone.metrics["last_val_loss"] == pytest.approx(messages["last_val_loss"], abs=1e-4)
