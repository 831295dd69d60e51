"""Stage finetune_llm: behaviour fine-tuning of BoigLLM and of its no-KPI twin, on Ray Train workers with DeepSpeed.

They are trained one after the other by the same workers, on the same samples, steps and seed; the twin's prompts lack the KPI line. Where
the recipe says so, the engagement predictor follows (``llm.predictor``), and another one that judges (``evaluation.judge``), by the split
``judge`` alone. Input: dataset (perceived). Outputs: boigllm, no_kpi, predictor, judge.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from boig_core.observability.logs import get_logger
from boig_core.storage import store
from boig_core.storage.job import Job, Outcome, Workspace, run_stage

log = get_logger("ray_jobs.finetune_llm")  # this module runs as __main__
FAMILIES = {"boigllm": "models/boigllm", "no_kpi": "models/boigllm-no-kpi", "predictor": "models/predictor", "judge": "models/judge"}


def work(space: Workspace) -> Outcome:
    """Train the models and publish them."""
    from boig_core.cluster.session import connect
    from boig_core.cluster.train import run_training
    from boig_core.storage.manifest import verify

    verify(space.job.input("dataset"), kind="dataset")
    connect()
    llm = space.recipe.llm
    config = {"job": space.job.model_dump_json()}
    result = run_training(train_models, config, workers=llm.workers, resources=space.recipe.resources, scratch=space.scratch)
    return Outcome(outputs=result["outputs"], metrics=result["metrics"])


def train_models(config: dict[str, Any]) -> dict[str, Any]:
    """What each worker runs: rank 0 keeps the metrics and publishes the models."""
    from boig_core.data.dataset import read_samples
    from boig_core.llm.finetune import export, train
    from boig_core.llm.predictor import Rating, judge_samples
    from boig_core.llm.task import Describing, Task
    from boig_core.observability.metrics import MetricLog, experiment
    from boig_core.training.checkpoint import Checkpoints
    from boig_core.training.engine import Engine, rank
    from boig_core.verbalization.templates import TEMPLATES_VERSION

    job = Job.model_validate_json(config["job"])
    samples = read_samples(job.input("dataset"))
    uri = store.join(job.attempt_uri, "metrics.jsonl")
    curve = MetricLog(lambda data: store.write_bytes(uri, data), experiment=experiment(job.stage), run=job.version) if rank() == 0 else None
    outputs, metrics = {}, {}
    tasks: dict[str, Task] = {"boigllm": Describing(job.recipe, with_kpi=True), "no_kpi": Describing(job.recipe, with_kpi=False)}
    if job.recipe.llm.predictor != "none":
        tasks["predictor"] = Rating(job.recipe)
    if job.recipe.evaluation.judge == "predictor":
        tasks["judge"] = Rating(job.recipe, kind="judge")
    for number, (name, task) in enumerate(tasks.items(), 1):
        if rank() == 0:
            log.info("training %s, model %d of %d", name, number, len(tasks))

        def report(step: int, values: dict[str, float], name: str = name) -> None:
            if curve is not None:
                curve.log(step, **{f"{name}_{key}": value for key, value in values.items()})

        def started(engine: Engine) -> None:
            store.write_bytes(store.join(job.attempt_uri, "deepspeed.json"), json.dumps(engine.settings, indent=1).encode())

        checkpoints = Checkpoints(job.task, job.attempt, name)
        learnt = judge_samples(samples) if name == "judge" else samples
        label = f"{name} {number} of {len(tasks)}"
        trained = train(learnt, job.recipe, task, checkpoints=checkpoints, report=report, started=started, label=label)
        metrics[name] = trained.metrics
        with tempfile.TemporaryDirectory(prefix="boig-llm-") as scratch:
            folder = Path(scratch) / "model"
            export(trained, folder)
            if rank() == 0:
                meta = {**task.about, "templates": TEMPLATES_VERSION, **trained.metrics}
                outputs[name] = Workspace(job, Path(scratch)).publish(FAMILIES[name], folder, kind=task.kind, meta=meta)
    if curve is not None:
        curve.close()
    return {"outputs": outputs, "metrics": metrics}


if __name__ == "__main__":
    sys.exit(run_stage(work))
