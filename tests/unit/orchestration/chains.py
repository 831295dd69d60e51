"""A store that holds all a candidate comes from, made by stand-ins of the stages."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from boig_core.config import Recipe, load_recipe
from boig_core.storage import commit, store
from boig_core.storage.job import Job, Stage, write_job
from boig_core.storage.stage import Workspace
from tests.dags.conftest import stand_in

DAGS = {
    "boig_ingest": ("ingest", "perceive"),
    "boig_llm": ("finetune_llm", "evaluate_llm", "calibrate"),
    "boig_sd": ("finetune_sd", "ddpo", "evaluate_sd", "report"),
}
INPUTS: Mapping[str, tuple[str, ...]] = {
    "perceive": ("dataset",),
    "finetune_llm": ("dataset",),
    "evaluate_llm": ("dataset", "boigllm", "no_kpi"),
    "calibrate": ("dataset", "boigllm", "predictor"),
    "finetune_sd": ("dataset",),
    "ddpo": ("dataset", "boigllm", "calibration", "predictor"),
    "evaluate_sd": (
        "dataset",
        "boigllm",
        "calibration",
        "predictor",
        "judge",
        "high_kpi",
        "boigsd",
    ),
    "report": ("dataset", "description", "calibration", "generation"),
}


def job_of(
    root: str,
    stage: str,
    inputs: Mapping[str, str],
    *,
    recipe: Recipe | None = None,
    by: Sequence[str] | None = (),
    attempt: int = 1,
    run: str = "r",
) -> Job:
    dag = next(dag for dag, stages in DAGS.items() if stage in stages)
    return Job(
        stage=Stage(stage),
        recipe=recipe or load_recipe("tiny"),
        inputs=dict(inputs),
        store=root,
        root="boig_ingest/r",
        task=f"{root}/runs/{dag}/{run}/{stage}",
        attempt=attempt,
        triggered_by=None if by is None else tuple(by),
    )


def make(job: Job) -> dict[str, str]:
    """Run a stage's stand-in and commit it; returns its outputs."""
    write_job(job)
    with tempfile.TemporaryDirectory() as scratch:
        outcome = stand_in(Workspace(job, Path(scratch)))
    commit.commit(job.attempt_uri, outcome.outputs, outcome.metrics)
    return outcome.outputs


def whole_chain(
    root: str, by: Mapping[str, Sequence[str] | None] | None = None, *overrides: str, run: str = "r"
) -> dict[str, str]:
    """All outputs of the three DAGs by name; ``by`` says who triggered which."""
    recipe, outputs = load_recipe("tiny", overrides), {"posts": f"{root}/posts.jsonl"}
    store.write_bytes(outputs["posts"], b"{}\n")
    for dag, stages in DAGS.items():
        for stage in stages:
            names = INPUTS.get(stage, ("posts",))
            inputs = {name: outputs[name] for name in names}
            named = (by or {}).get(dag, ())
            outputs |= make(job_of(root, stage, inputs, recipe=recipe, by=named, run=run))
    return outputs


def change(uri: str, **fields: Any) -> None:
    """Change fields of a JSON file of the store."""
    tree = json.loads(store.read_bytes(uri))
    store.write_bytes(uri, json.dumps({**tree, **fields}).encode())
