"""Stage finetune_llm: behavior fine-tuning of BoigLLM and of its no-KPI twin, on Ray Train workers
with DeepSpeed.

They are trained on the same samples, steps and seed; the twin's prompts lack the KPI line. Where
the recipe says so, the engagement predictor follows (``llm.predictor``), and another one that
judges (``evaluation.judge``), by the split ``judge`` alone. Each model has workers of its own;
``llm.at_once`` of them are trained side by side, and their numbers stand in one curve. Input:
dataset (perceived). Outputs: boigllm, no_kpi, predictor, judge.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from boig_core.cluster.stage import run_stage
from boig_core.observability.metrics import MetricLog, experiment
from boig_core.storage import store
from boig_core.storage.job import Job
from boig_core.storage.stage import Outcome, Workspace

FAMILIES = {
    "boigllm": "models/boigllm",
    "no_kpi": "models/boigllm-no-kpi",
    "predictor": "models/predictor",
    "judge": "models/judge",
}


def work(space: Workspace) -> Outcome:
    """Train the models, each by workers of its own, whose rank 0 publishes it."""
    from boig_core.cluster.session import connect
    from boig_core.cluster.side_by_side import run_trainings
    from boig_core.storage.manifest import verify

    job, recipe = space.job, space.recipe
    # A wrong input ends the stage before a cluster is asked for workers.
    verify(job.input("dataset"), kind="dataset")
    connect()
    uri = store.join(job.attempt_uri, "metrics.jsonl")
    # One writer for all models: each write replaces the whole file, so trainings side by side would
    # overwrite each other's rows.
    curve = MetricLog(
        lambda data: store.write_bytes(uri, data), experiment=experiment(job.stage), run=job.version
    )
    configs = {name: {"job": job.model_dump_json(), "model": name} for name in recipe.llm_models}
    options = {
        "workers": recipe.llm.workers,
        "resources": recipe.resources,
        "scratch": space.scratch,
        "on_row": curve.log_row,
    }
    try:
        trained = run_trainings(train_model, configs, at_once=recipe.llm.at_once, **options)
    finally:
        # Rows are written every few seconds; an error must not take the last ones with it.
        if curve.rows:
            curve.close()
    return Outcome(
        {name: uri for name, (uri, _) in trained.items()},
        {name: metrics for name, (_, metrics) in trained.items()},
    )


def train_model(config: dict[str, Any]) -> tuple[str, dict[str, float]]:
    """What each worker of a model runs: its published URI, empty on other ranks than 0, and the
    metrics of the training."""
    from boig_core.data.dataset import read_samples
    from boig_core.llm.finetune import export, train
    from boig_core.llm.predictor import Rating, judge_samples
    from boig_core.llm.task import Describing, Task
    from boig_core.serving.mlflow_model import add_language_model
    from boig_core.training.checkpoint import Checkpoints
    from boig_core.training.engine import Engine
    from boig_core.training.ranks import rank
    from boig_core.verbalization.templates import TEMPLATES_VERSION

    job, name = Job.model_validate_json(config["job"]), config["model"]
    samples = read_samples(job.input("dataset"))
    rating, with_kpi = name in {"predictor", "judge"}, name == "boigllm"
    task: Task = (
        Rating(job.recipe, kind=name) if rating else Describing(job.recipe, with_kpi=with_kpi)
    )

    def report(step: int, values: dict[str, float]) -> None:
        # By model, since all of them share one curve.
        config["rows"](step, {f"{name}_{key}": value for key, value in values.items()})

    def started(engine: Engine) -> None:
        store.write_bytes(
            store.join(job.attempt_uri, "deepspeed.json"),
            json.dumps(engine.settings, indent=1).encode(),
        )

    checkpoints = Checkpoints.of_job(job, name)
    learnt = judge_samples(samples) if name == "judge" else samples
    models = list(job.recipe.llm_models)
    label = f"{name} {models.index(name) + 1} of {len(models)}"
    trained = train(
        learnt,
        job.recipe,
        task,
        checkpoints=checkpoints,
        report=report,
        started=started,
        label=label,
    )
    with tempfile.TemporaryDirectory(prefix="boig-llm-") as scratch:
        folder = Path(scratch) / "model"
        # On every rank, since each holds a part of the weights; rank 0 alone writes.
        export(trained, folder)
        if rank() != 0:
            return "", trained.metrics
        if not rating:
            add_language_model(folder)
        meta = {**task.about, "templates": TEMPLATES_VERSION, **trained.metrics}
        return Workspace(job, Path(scratch)).publish(
            FAMILIES[name],
            folder,
            kind=task.kind,
            meta=meta,
            went_on_from=checkpoints.went_on_from,
        ), trained.metrics


if __name__ == "__main__":
    sys.exit(run_stage(work))
