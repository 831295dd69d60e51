"""Stage ``evaluate_sd``: base, high-KPI baseline and BoigSD on the same test prompts and noise, sampled on Ray, measured in this process.

Base and BoigSD sample rewritten prompts too, where the recipe asks for them; the registry's champion stands beside them, if there is one.

Reads ``dataset``, ``boigllm``, ``calibration``, ``high_kpi``, ``boigsd``, ``champion`` (optional) and, for a reward that takes one,
``predictor``; publishes ``generation``: numbers, one row an image, grids. The held-out judge (`ray_jobs.judge`) scores here alone.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Final

import numpy as np

from boig_core.data.dataset import read_images, read_samples
from boig_core.errors import InputError
from boig_core.evaluation.files import write_generation
from boig_core.evaluation.generation import CHAMPION, REWRITTEN, Real, make_plan, measure, named, summarize
from boig_core.evaluation.judges import ClipJudge
from boig_core.observability.logs import get_logger
from boig_core.perception.describe import Perceiver
from boig_core.rewards.calibration import read_calibration
from boig_core.rewards.scorer import Scorer, needs_predictor
from boig_core.storage.job import Outcome, Workspace, run_stage
from boig_core.vocabulary import Description, Sample
from ray_jobs.judge import open_judge

log = get_logger(__name__)

_TRAINED: Final = 512
"""Training images that novelty is measured against, at most: they are held in memory at the model's resolution."""


def work(space: Workspace) -> Outcome:
    """Sample the models, measure their images, write the numbers and grids."""
    from boig_core.cluster.evaluation import Source, sample_models
    from boig_core.cluster.session import connect

    recipe, job = space.recipe, space.job
    judge = open_judge(recipe.evaluation.judge)
    samples = read_samples(job.input("dataset"))
    plan = make_plan(samples, recipe)
    llm, _ = space.fetch("boigllm", "boigllm")
    calibration = read_calibration(space.fetch("calibration", "calibration")[0])
    perceiver, kinds = Perceiver.from_recipe(recipe.perception), recipe.perception.kinds
    predictor = space.fetch("predictor", "predictor")[0] if needs_predictor(recipe.reward) else None
    scorer = Scorer(llm, perceiver, recipe, calibration, predictor)
    clip = ClipJudge(recipe.evaluation.clip)
    features = clip if recipe.evaluation.features == recipe.evaluation.clip else ClipJudge(recipe.evaluation.features)
    sources = {"base": Source(recipe.sd.base, False)}
    ours = ["high_kpi", "boigsd", *([CHAMPION] if CHAMPION in job.inputs else [])]
    sources |= {name: Source(job.input(name), True) for name in ours}
    connect()
    started = time.monotonic()
    images = sample_models(sources, plan.prompts, plan.seeds, recipe)
    if CHAMPION in images and images[CHAMPION].shape != images["base"].shape:
        size = " x ".join(map(str, images.pop(CHAMPION).shape[1:3]))
        log.warning("the champion makes images of another size (%s): it is left out, and no candidate of this size can beat it", size)
    if plan.rewritten is not None:
        again = {row: sources[model] for row, model in REWRITTEN.items()}
        images |= sample_models(again, plan.rewritten_prompts, plan.seeds, recipe)
    log.info("sampled %d images a model in %.1f s", len(plan.seeds), time.monotonic() - started)
    measured = {name: measure(found, plan, scorer, judge, clip, features, perceiver, kinds) for name, found in images.items()}
    summary = summarize(measured, plan, real_images(space, samples, clip, features), recipe)
    summary["settings"] = {
        **recipe.evaluation.model_dump(mode="json"),
        "prompts": len(plan.samples),
        "reward": recipe.reward.name,
        "reward_clip": list(calibration.clip),
    }
    out = space.scratch / "generation"
    out.mkdir()
    write_generation(out, summary, plan, images, measured)
    rows = summary["generation"]
    metrics = {f"{name}_{key}": rows[name][key] for name in images for key in ("reward", "judge", "clip_margin")}
    log.info("rows: %s", metrics)
    return Outcome({"generation": space.publish("evaluations/generation", out, kind="generation")}, metrics)


def real_images(space: Workspace, samples: Sequence[Sample], clip: ClipJudge, features: ClipJudge) -> Real:
    """See held-out HIGH images, and a seeded sample of at most `_TRAINED` HIGH images of the training split."""
    recipe, dataset = space.recipe, space.job.input("dataset")
    held = real_samples(samples)
    images_of = read_images(dataset, [sample.image for sample in held], recipe.sd.resolution)
    pixels = [images_of[sample.image] for sample in held]
    seen = clip.see(pixels)
    names = sorted({sample.image for sample in samples if sample.split == "train" and sample.bucket == "high"})
    order = np.random.default_rng(recipe.seed).permutation(len(names))[:_TRAINED]
    chosen = [names[index] for index in order]
    train_of = read_images(dataset, chosen, recipe.sd.resolution)
    return Real(
        features_HF=seen.features_NF if features is clip else features.see(pixels).features_NF,
        embedding_HD=seen.embedding_ND,
        named_H=named([sample.description or Description() for sample in held], held, recipe.perception.kinds),
        embedding_TD=clip.see([train_of[image] for image in chosen]).embedding_ND if chosen else seen.embedding_ND[:0],
    )


def real_samples(samples: Sequence[Sample]) -> list[Sample]:
    """Held-out real HIGH samples (validation and test), one an image: what the generated images are held against."""
    held = {sample.image: sample for sample in samples if sample.split != "train" and sample.bucket == "high"}
    if len(held) < 4:
        raise InputError(f"{len(held)} held-out HIGH images", "must be at least 4", "ingest more posts")
    return [held[image] for image in sorted(held)]


if __name__ == "__main__":
    sys.exit(run_stage(work))
