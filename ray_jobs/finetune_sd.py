"""Stage ``finetune_sd``: the baseline, Stable Diffusion trained further on the high-KPI images alone; Ray Train + DeepSpeed.

Reads ``dataset``; publishes ``high_kpi``: a whole diffusers folder that ``DiffusionPipeline.from_pretrained`` opens.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from boig_core.cluster.session import connect
from boig_core.cluster.train import run_training
from boig_core.config import Recipe
from boig_core.data.dataset import read_images, read_samples
from boig_core.diffusion.lora import Adapter, open_policy, save_policy
from boig_core.observability.metrics import MetricLog, experiment
from boig_core.storage import store
from boig_core.storage.job import Job, Outcome, Workspace, run_stage
from boig_core.training.checkpoint import Checkpoints
from boig_core.training.engine import rank


def work(space: Workspace) -> Outcome:
    """Train on the cluster, then publish the pipeline with the trained UNet."""
    recipe = space.recipe
    connect()
    adapter, loss = run_training(
        train, {"job": space.job}, workers=recipe.sd.workers, resources=recipe.resources, scratch=space.scratch / "train"
    )
    out = space.scratch / "high-kpi"
    save_policy(open_policy(recipe.sd.base, recipe.sd.lora_rank, recipe.seed, adapter), out, lora=recipe.sd.lora_rank is not None)
    meta = {"base": recipe.sd.base, "steps": recipe.sd.steps, "lora_rank": recipe.sd.lora_rank}
    return Outcome({"high_kpi": space.publish("models/high-kpi", out, kind="sd", meta=meta)}, {"steps": recipe.sd.steps, "loss": loss})


def train(config: dict[str, Any]) -> tuple[Adapter, float | None]:
    """One training worker: the trained weights and the mean of the last reported losses, None when there was nothing left to train."""
    from boig_core.diffusion.finetune import finetune

    job: Job = config["job"]
    recipe: Recipe = job.recipe
    checkpoints = Checkpoints(job.task, job.attempt)
    uri = store.join(job.attempt_uri, "metrics.jsonl")
    curve = MetricLog(lambda data: store.write_bytes(uri, data), experiment=experiment(job.stage), run=job.version) if rank() == 0 else None

    def report(step: int, values: dict[str, float]) -> None:
        if curve is not None:
            curve.log(step, **values)

    examples = read_examples(job.input("dataset"), recipe)
    try:
        adapter = finetune(recipe, examples, checkpoints, report)
    finally:
        if curve is not None and curve.rows:
            curve.close()
    losses = [row["loss"] for row in curve.rows[-10:]] if curve is not None else []
    return adapter, float(np.mean(losses)) if losses else None


def read_examples(dataset: str, recipe: Recipe) -> Any:
    """Images and texts of the high-KPI training samples, at the recipe's resolution."""
    from boig_core.diffusion.finetune import Examples

    samples = [sample for sample in read_samples(dataset) if sample.split == "train" and sample.bucket == "high"]
    images = read_images(dataset, {sample.image for sample in samples}, recipe.sd.resolution)
    side = recipe.sd.resolution
    pixels = np.stack([images[sample.image] for sample in samples]) if samples else np.zeros((0, side, side, 3), np.uint8)
    return Examples(pixels, [sample.text for sample in samples])


if __name__ == "__main__":
    sys.exit(run_stage(work))
