"""Stage evaluate_llm: the nine description metrics of BoigLLM, its no-KPI twin and two baselines on test posts (PAPER section 5).

BoigLLM is told each sample's own KPI and bucket. Chunks of prompts are answered by Ray tasks.
Inputs: dataset, boigllm, no_kpi. Output: description, with description.json, truth.jsonl and predictions-MODEL.jsonl.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

from boig_core.storage.job import Outcome, Workspace, run_stage
from boig_core.vocabulary import BUCKETS, Description, Sample


def work(space: Workspace) -> Outcome:
    """Predict, measure and publish."""
    from boig_core.cluster.evaluation import answer_prompts
    from boig_core.cluster.session import connect
    from boig_core.data.dataset import read_samples
    from boig_core.evaluation.description import evaluate, write_files
    from boig_core.llm.baselines import most_frequent, retrieval
    from boig_core.storage.manifest import read_manifest
    from boig_core.verbalization.templates import Wording, build_prompt, condition_of

    recipe = space.recipe
    wording = Wording.of(recipe)
    samples = read_samples(space.job.input("dataset"))
    asked = pick(samples, recipe.llm.eval_posts)
    train = [s for s in samples if s.split == "train" and s.bucket is not None]
    prompts = {
        "boigllm": [build_prompt(s, condition_of(s, wording), wording) for s in asked],
        "no_kpi": [build_prompt(s, None, wording) for s in asked],
    }
    for name in prompts:
        read_manifest(space.job.input(name), kind="boigllm")
    connect()
    answered = {name: answer_prompts(space.job.input(name), found, recipe) for name, found in prompts.items()}
    predictions: dict[str, Sequence[Description | None]] = {name: answers() for name, answers in answered.items()}
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


if __name__ == "__main__":
    sys.exit(run_stage(work))
