"""Stage evaluate_llm: the nine description metrics of BoigLLM, its no-KPI twin and two baselines on test posts (PAPER section 5).

BoigLLM is told each sample's own KPI and bucket. Chunks of prompts are answered by Ray tasks.
Inputs: dataset, boigllm, no_kpi. Output: description, with description.json, truth.jsonl and predictions-MODEL.jsonl.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Sequence

from boig_core.storage.job import Outcome, Workspace, run_stage
from boig_core.vocabulary import BUCKETS, Description, Sample

CHUNK = 384


def work(space: Workspace) -> Outcome:
    """Predict, measure and publish."""
    from boig_core.data.dataset import read_samples
    from boig_core.evaluation.description import evaluate, write_files
    from boig_core.llm.baselines import most_frequent, retrieval
    from boig_core.storage.manifest import read_manifest
    from boig_core.verbalization.templates import build_prompt, condition_of

    recipe = space.recipe
    samples = read_samples(space.job.input("dataset"))
    asked = pick(samples, recipe.llm.eval_posts)
    train = [s for s in samples if s.split == "train" and s.bucket is not None]
    prompts = {
        "boigllm": [build_prompt(s, condition_of(s)) for s in asked],
        "no_kpi": [build_prompt(s, None) for s in asked],
    }
    for name in prompts:
        read_manifest(space.job.input(name), kind="boigllm")
    predictions: dict[str, Sequence[Description | None]] = {**answer_all(space, prompts)}
    predictions["retrieval"] = retrieval(train, asked)
    predictions["most_frequent"] = [most_frequent(train)] * len(asked)

    result = evaluate(asked, predictions, compare=("boigllm", "no_kpi"), resamples=recipe.evaluation.bootstrap, seed=recipe.seed)
    folder = space.scratch / "description"
    write_files(folder, asked, predictions)
    (folder / "description.json").write_text(json.dumps(result, indent=1), "utf-8")
    uri = space.publish("evaluations/description", folder, kind="description")
    return Outcome({"description": uri}, {"paired": result["paired"], "parse_rate": result["parse_rate"], "n": result["n"]})


def pick(samples: Sequence[Sample], each: int) -> list[Sample]:
    """At most ``each`` test samples of every bucket, by the hash of their image: the same for every model and run."""
    test = sorted((s for s in samples if s.split == "test" and s.description is not None), key=lambda s: (s.image, s.id))
    return [s for bucket in BUCKETS for s in [x for x in test if x.bucket == bucket][:each]]


def answer_all(space: Workspace, prompts: dict[str, list[str]]) -> dict[str, list[Description | None]]:
    """Answers of each model to its prompts, in order, by Ray tasks over chunks."""
    import ray

    from boig_core.cluster.session import connect

    connect()
    wants, llm = space.recipe.resources, space.recipe.llm
    environment = {} if wants.gpus else {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    task = ray.remote(num_cpus=wants.cpus, num_gpus=wants.gpus, runtime_env={"env_vars": environment})(answer)
    pending = {
        name: [
            task.remote(space.job.input(name), asked[i : i + CHUNK], llm.max_new_tokens, llm.generate_batch)
            for i in range(0, len(asked), CHUNK)
        ]
        for name, asked in prompts.items()
    }
    return {name: [said for chunk in ray.get(chunks) for said in chunk] for name, chunks in pending.items()}


def answer(model_uri: str, prompts: list[str], max_new_tokens: int, batch: int) -> list[Description | None]:
    """One chunk on one worker: fetch the model, answer, parse."""
    from pathlib import Path

    from boig_core.llm.generate import generate_answers, load_llm, parse_or_none
    from boig_core.storage.manifest import fetch_folder

    with tempfile.TemporaryDirectory(prefix="boig-llm-") as folder:
        fetch_folder(model_uri, Path(folder), kind="boigllm")
        model, tokenizer = load_llm(folder)
    texts = generate_answers(model, tokenizer, prompts, max_new_tokens=max_new_tokens, batch=batch)
    return [parse_or_none(text) for text in texts]


if __name__ == "__main__":
    sys.exit(run_stage(work))
