"""One Ray for all files that want it (`ray_cluster`), and what stages start from (`prepared`): a
store with a perceived dataset, a BoigLLM with random weights and its calibration."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from boig_core.adworld.export import write_world
from boig_core.adworld.law import Law
from boig_core.cluster.session import connect
from boig_core.cluster.stage import run_stage
from boig_core.config import load_recipe
from boig_core.data import dataset, perceived
from boig_core.data.imaging.images import decode
from boig_core.data.ingestion import OneProcess, ingest
from boig_core.data.perceived import Question
from boig_core.llm.tokens import build_tokenizer
from boig_core.perception.describe import Perceiver
from boig_core.storage import commit, manifest, store
from boig_core.storage.job import Job, Stage, write_job
from boig_core.verbalization.templates import build_prompt, condition_of
from boig_core.vocabulary import Perceived
from tests.s3 import set_s3_environment

SETTINGS = (
    "llm.max_new_tokens=16", "reward.posts=24", "reward.chunk=16", "reward.weights={contrast: 1, mean_logprob: 0.5}",
    "evaluation.bootstrap=100", "data.split=[0.6, 0.2, 0.2]", "data.judge=0.15", "perception.kinds=[]",
    "data.percentiles=[40, 60]", "data.floors=[-1, -1, -1]",
)  # fmt: skip


@pytest.fixture(scope="package")
def ray_cluster(s3_endpoint: str) -> Iterator[None]:
    """A Ray of this process, whose workers know the way to moto's S3."""
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        patch.setenv("RAY_metrics_report_interval_ms", "1000")  # see test_gauges
        set_s3_environment(patch, s3_endpoint)
        connect(8)
    yield
    ray.shutdown()


class PreparedStore:
    """That store."""

    settings = SETTINGS

    def __init__(self, folder: Path) -> None:
        self.root = str(folder / "store")
        self.dataset = self.perceived(folder)
        self.samples = dataset.read_samples(self.dataset)
        self.inputs = {"dataset": self.dataset, "boigllm": self.llm(folder / "llm")}
        self.inputs |= self.run(Stage.CALIBRATE, **self.inputs)["outputs"]

    def publish(self, family: str, local: Path, kind: str, **more: Any) -> str:
        attempt, uri = f"{self.root}/runs/{family}/attempt-1", f"{self.root}/{family}/v1"
        lineage = manifest.Lineage(inputs={}, recipe="", code="")
        manifest.publish_folder(
            local,
            uri,
            kind=kind,
            lineage=lineage,
            commit=store.join(attempt, commit.COMMIT),
            **more,
        )
        commit.commit(attempt, {kind: uri}, {})
        return uri

    def perceived(self, folder: Path) -> str:
        """Ingested and looked at in this process."""
        recipe, root = load_recipe("tiny", SETTINGS), f"{self.root}/datasets/adworld"
        write_world(200, 3, Law.load("sunlit"), folder / "world")
        scratch = folder / "scratch"
        scratch.mkdir()
        created = ingest(
            str(folder / "world"),
            None,
            recipe.data,
            0,
            root=root,
            scratch=scratch,
            crew=OneProcess(),
        )
        [shard] = [entry for entry in created.blobs if store.name(entry.path).startswith("images-")]
        images = list(dataset.shard_images(f"{root}/v1", shard))
        perceiver, kept = (
            Perceiver.from_recipe(recipe.perception),
            perceived.folder_of(self.root, "key"),
        )
        seen = {
            Question(image.sha256): Perceived(
                description.scaled(image.width / perceiver.side, image.height / perceiver.side)
            )
            for image, description in zip(
                images, perceiver.describe([decode(image.data) for image in images]), strict=True
            )
        }
        part = perceived.keep_part(
            perceived.table_of(
                seen, {image.sha256: (image.width, image.height) for image in images}
            ),
            kept,
        )
        entry = perceived.build_shard(kept, list(seen), dict.fromkeys(seen, part))
        meta = {**created.meta, "perceived": True, "perception": "key"}
        return self.publish(
            "datasets/adworld",
            created.folder,
            dataset.KIND,
            meta=meta,
            blobs=(*created.blobs, entry),
        )

    def llm(self, local: Path) -> str:
        """Saved and published."""
        tokenizer = build_tokenizer(
            [build_prompt(s, condition_of(s)) for s in self.samples if s.bucket is not None], 600
        )
        torch.manual_seed(0)
        sizes = {
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
        }
        LlamaForCausalLM(
            LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=512, **sizes)
        ).save_pretrained(local)
        tokenizer.save_pretrained(local)
        return self.publish("models/boigllm", local, "boigllm")

    def run(self, stage: Stage, *overrides: str, name: str = "r", **inputs: str) -> dict[str, Any]:
        recipe = load_recipe("tiny", [*SETTINGS, *overrides])
        task = f"{self.root}/runs/dag/{name}/{stage}"
        job = Job(
            stage=stage,
            recipe=recipe,
            inputs=inputs,
            store=self.root,
            root="test",
            task=task,
            attempt=1,
        )
        run_stage(import_module(f"ray_jobs.{stage}").work, [write_job(job)])
        return commit.read_commit(job.attempt_uri) or {}


@pytest.fixture(scope="package")
def prepared(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> PreparedStore:
    return PreparedStore(tmp_path_factory.mktemp("made"))
