"""Stage evaluate_llm: the nine description metrics of BoigLLM, its no-KPI twin and baselines on
test posts.

BoigLLM is told each sample's own KPI and bucket. Chunks of prompts are answered by Ray tasks; a
general language model is asked only where the recipe names its endpoint (``evaluation.few_shot``).
Inputs: dataset, boigllm, no_kpi. Output: description, with description.json, truth.jsonl and
predictions-MODEL.jsonl.
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Mapping, Sequence

from boig_core.cluster.stage import run_stage
from boig_core.config import Recipe
from boig_core.storage.stage import Outcome, Workspace
from boig_core.vocabulary import BUCKETS, Description, Sample

Said = Mapping[str, Description | None]


def work(space: Workspace) -> Outcome:
    """Predict, measure and publish."""
    from boig_core.cluster.evaluation import answer_prompts
    from boig_core.cluster.session import connect
    from boig_core.data.dataset import read_samples
    from boig_core.evaluation.measure.description import evaluate, write_files
    from boig_core.llm.baselines import most_frequent, retrieval
    from boig_core.llm.vectors import open_vectors
    from boig_core.storage.manifest import read_manifest
    from boig_core.verbalization.templates import Wording, build_prompt, condition_of

    recipe, wording = space.recipe, Wording.of(space.recipe)
    samples = read_samples(space.job.input("dataset"))
    asked = pick(samples, recipe.llm.eval_posts)
    train = [s for s in samples if s.split == "train" and s.bucket is not None]
    some = pick(samples, recipe.llm.unconstrained_posts) if recipe.llm.constrained else []

    def told(posts: list[Sample]) -> list[str]:
        return [build_prompt(s, condition_of(s, wording), wording) for s in posts]

    prompts = {"boigllm": told(asked)}
    prompts["no_kpi"] = [build_prompt(s, None, wording) for s in asked]
    for name in prompts:
        read_manifest(space.job.input(name), kind="boigllm")
    connect()
    waiting = {
        name: answer_prompts(space.job.input(name), of_model, recipe, name)
        for name, of_model in prompts.items()
    }
    unconstrained = answer_prompts(
        space.job.input("boigllm"), told(some), _without_grammar(recipe), "boigllm, unconstrained"
    )
    prompted, failures = ask_endpoint(train, samples, recipe)
    answered = {name: wait() for name, wait in waiting.items()}
    ids = [s.id for s in asked]
    predictions: dict[str, Said] = {
        name: dict(zip(ids, answered_by.said, strict=True))
        for name, answered_by in answered.items()
    }
    predictions["retrieval"] = dict(zip(ids, retrieval(train, asked), strict=True))
    predictions["most_frequent"] = dict.fromkeys(ids, most_frequent(train))
    predictions |= prompted

    vectors = open_vectors(recipe.evaluation.word_vectors)
    measure = functools.partial(evaluate, resamples=recipe.evaluation.bootstrap, seed=recipe.seed)
    result = measure(asked, predictions, candidate="boigllm", vectors=vectors)
    result["parse_rate"] |= {name: answered_by.parse_rate for name, answered_by in answered.items()}
    result |= {"constrained": recipe.llm.constrained, "failures": failures}
    if some:
        rate = unconstrained().parse_rate
        result["parse_rate_unconstrained"] = {"boigllm": rate, "texts": len(some)}
    folder = space.scratch / "description"
    write_files(folder, asked, predictions)
    (folder / "description.json").write_text(json.dumps(result, indent=1), "utf-8")
    uri = space.publish("evaluations/description", folder, kind="description")
    gains = {pair: rows["colors_iou"] for pair, rows in result["paired"].items()}
    return Outcome(
        {"description": uri},
        {"colors_iou": gains, "parse_rate": result["parse_rate"], "n": result["n"]},
    )


def _without_grammar(recipe: Recipe) -> Recipe:
    """The recipe with one free answer to each prompt."""
    free = recipe.llm.model_copy(update={"constrained": False, "samples": 1})
    return recipe.model_copy(update={"llm": free})


def ask_endpoint(
    train: Sequence[Sample], samples: Sequence[Sample], recipe: Recipe
) -> tuple[dict[str, Said], dict[str, Mapping[str, int]]]:
    """Few-shot descriptions by model (the most examples: ``few_shot``, others: ``few_shot_N``), and
    failures by model and reason."""
    from boig_core.llm.few_shot import Endpoint, few_shot

    settings = recipe.evaluation.few_shot
    if settings is None:
        return {}, {}
    names = {
        shots: "few_shot" if shots == max(settings.shots) else f"few_shot_{shots}"
        for shots in settings.shots
    }
    # At most the posts that BoigLLM answers, since only those are measured; `pick` takes the same
    # ones first.
    asked = pick(samples, min(settings.posts, recipe.llm.eval_posts))
    with Endpoint(settings) as endpoint:
        answers_of = {
            name: few_shot(endpoint, settings, train, asked, shots, recipe.seed)
            for shots, name in names.items()
        }
    return {name: answers.said for name, answers in answers_of.items()}, {
        name: answers.failures for name, answers in answers_of.items()
    }


def pick(samples: Sequence[Sample], each: int) -> list[Sample]:
    """At most ``each`` test samples of every bucket, by the hash of their image: the same for every
    model and run."""
    test = sorted(
        (s for s in samples if s.split == "test" and s.description is not None),
        key=lambda s: (s.image, s.id),
    )
    return [s for bucket in BUCKETS for s in [x for x in test if x.bucket == bucket][:each]]


if __name__ == "__main__":
    sys.exit(run_stage(work))
