"""Stage ``finetune_sd``: the baseline, Stable Diffusion trained further on the high-KPI images
alone; Ray Train + DeepSpeed.

Reads ``dataset``; publishes ``high_kpi``: a whole diffusers folder that
``DiffusionPipeline.from_pretrained`` opens.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from boig_core.cluster.stage import run_stage
from boig_core.config import Recipe
from boig_core.data.dataset import read_images, read_samples
from boig_core.observability.metrics import MetricLog, experiment
from boig_core.storage import store
from boig_core.storage.job import Job
from boig_core.storage.manifest import WentOnFrom
from boig_core.storage.models import version_of
from boig_core.storage.stage import Outcome, Workspace


def work(space: Workspace) -> Outcome:
    """Train on the cluster; the worker of rank 0 publishes the pipeline with the trained UNet."""
    from boig_core.cluster.session import connect
    from boig_core.cluster.train import run_training

    recipe = space.recipe
    connect()
    uri, loss, cuts = run_training(
        train,
        {"job": space.job},
        workers=recipe.sd.workers,
        resources=recipe.resources,
        scratch=space.scratch / "train",
    )
    return Outcome({"high_kpi": uri}, {"steps": recipe.sd.steps, "loss": loss, **cuts})


def train(config: dict[str, Any]) -> tuple[str, float | None, dict[str, float]]:
    """One training worker: URI of the published model, empty on other ranks than 0, the mean of the
    last reported losses, and how many texts were cut, empty on other ranks than 0.

    None in place of that mean: there was nothing left to train.
    """
    from boig_core.diffusion.finetune import finetune
    from boig_core.training.checkpoint import Checkpoints
    from boig_core.training.ranks import rank

    job: Job = config["job"]
    recipe: Recipe = job.recipe
    checkpoints = Checkpoints.of_job(job)
    uri = store.join(job.attempt_uri, "metrics.jsonl")
    curve = (
        MetricLog(
            lambda data: store.write_bytes(uri, data),
            experiment=experiment(job.stage),
            run=job.version,
        )
        if rank() == 0
        else None
    )

    def report(step: int, values: dict[str, float]) -> None:
        if curve is not None:
            curve.log(step, **values)

    cuts: dict[str, float] = {}
    examples = read_examples(job.input("dataset"), recipe)
    try:
        adapter = finetune(
            recipe, examples, checkpoints, report, lambda counted: cuts.update(counted.metrics)
        )
    finally:
        # Rows are written every few seconds; an error must not take the last ones with it.
        if curve is not None and curve.rows:
            curve.close()
    losses = [row["loss"] for row in curve.rows[-10:]] if curve is not None else []
    loss = float(np.mean(losses)) if losses else None
    published = publish(job, adapter, cuts, checkpoints.went_on_from) if rank() == 0 else ""
    return published, loss, cuts


def publish(
    job: Job, adapter: Any, cuts: dict[str, float], went_on_from: tuple[WentOnFrom, ...]
) -> str:
    """Publish the base with the trained weights, from a process that has imported all that it
    takes; returns the URI."""
    from boig_core.diffusion.card import sd_card
    from boig_core.diffusion.lora import open_policy, save_policy
    from boig_core.serving.mlflow_model import add_image_model

    sd = job.recipe.sd
    meta = {"base": sd.base, "steps": sd.steps, "lora_rank": sd.lora_rank, **cuts}
    with tempfile.TemporaryDirectory(prefix="boig-sd-") as scratch:
        folder = Path(scratch) / "high-kpi"
        save_policy(
            open_policy(sd.base, sd.lora_rank, job.recipe.seed, adapter),
            folder,
            lora=sd.lora_rank is not None,
        )
        add_image_model(folder, job.recipe)
        # A name alone does not say which state of the base it was.
        meta["base_version"] = version_of(sd.base)
        card = sd_card("high-kpi", sd.base, sd.lora_rank, meta)
        (folder / "README.md").write_text(card, "utf-8")
        return Workspace(job, Path(scratch)).publish(
            "models/high-kpi", folder, kind="sd", meta=meta, went_on_from=went_on_from
        )


def read_examples(dataset: str, recipe: Recipe) -> Any:
    """Images and texts of the high-KPI training samples, at the recipe's resolution."""
    from boig_core.diffusion.finetune import ImageExamples

    samples = [
        sample
        for sample in read_samples(dataset)
        if sample.split == "train" and sample.bucket == "high"
    ]
    images = read_images(dataset, {sample.image for sample in samples}, recipe.sd.resolution)
    side = recipe.sd.resolution
    # `np.stack` refuses an empty list; `finetune` says of no examples what to do.
    pixels = (
        np.stack([images[sample.image] for sample in samples])
        if samples
        else np.zeros((0, side, side, 3), np.uint8)
    )
    texts, ids = [sample.text for sample in samples], [sample.id for sample in samples]
    return ImageExamples(pixels, texts, ids)


if __name__ == "__main__":
    sys.exit(run_stage(work))
