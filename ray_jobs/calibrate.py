"""Stage ``calibrate``: does each reward tell high-KPI images from low ones? Held-out real images, within account; in this process.

Reads ``dataset`` (perceived) and ``boigllm``; publishes ``calibration`` (`boig_core.rewards.calibration.Calibration`). The best
formulation is named by the validation split; the test split reports it. The recipe's own choice is what DDPO maximises, whichever is best.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from boig_core.config import Recipe
from boig_core.data.dataset import read_samples
from boig_core.errors import InputError
from boig_core.evaluation.validity import Validity, validity
from boig_core.observability.logs import get_logger
from boig_core.rewards import REWARDS
from boig_core.rewards.batch import BatchScorer, Item
from boig_core.rewards.cache import Rows, cache_folder, in_parts, questions, through_cache
from boig_core.rewards.calibration import Calibration, Conditions, clip_range, conditions, write_calibration
from boig_core.rewards.scorer import TOKENS, Models, load_models
from boig_core.rewards.weighted import Scale, scale_of, weighted
from boig_core.storage import manifest
from boig_core.storage.job import Outcome, Workspace, run_stage
from boig_core.vocabulary import Sample, Split

log = get_logger(__name__)


def work(space: Workspace) -> Outcome:
    """Score real validation and test images by every formulation, and write what DDPO and the report need of it."""
    recipe = space.recipe
    samples = read_samples(space.job.input("dataset"))
    found = conditions(samples)
    folder, model = space.fetch("boigllm", "boigllm")
    models = load_models(folder, recipe.llm)
    seen_by = manifest.read_manifest(space.job.input("dataset")).meta.get("perception", "")
    kept = cache_folder(space.job.store, names=REWARDS, perception=seen_by, model=model.digest(), llm=recipe.llm)
    rewards, splits = {}, {}
    scales: dict[str, Scale] = {}
    for split in ("validation", "test"):
        picked = pick(samples, split, recipe)
        rewards[split] = score(models, picked, found, recipe, kept)
        length_N = rewards[split].pop(TOKENS)
        scales = scales or {name: scale_of(reward_N) for name, reward_N in rewards[split].items()}  # of the validation split
        rewards[split].setdefault(recipe.reward.name, weighted(rewards[split], recipe.reward.weights, scales))
        measured = measure(rewards[split], length_N, picked, recipe)
        splits[split] = {name: row.as_json() for name, row in measured.items()}
        for name, row in measured.items():
            log.info("%s %s: AUC %.3f, Pearson %.3f, n %d", split, name, row.auc_high_vs_low, row.pearson, row.n)
    best = max(splits["validation"], key=lambda name: float(splits["validation"][name]["auc_high_vs_low"]))
    chosen = recipe.reward.name
    clip = clip_range(rewards["validation"][chosen], recipe.reward.clip_percentiles)
    out = space.scratch / "calibration"
    out.mkdir()
    write_calibration(
        Calibration(reward=chosen, clip=clip, scales=scales, conditions=found, best_on_validation=best, splits=splits),
        out,
    )
    metrics = {"reward": chosen, "best_on_validation": best, "auc_test": splits["test"][chosen]["auc_high_vs_low"]}
    return Outcome({"calibration": space.publish("evaluations/calibration", out, kind="calibration")}, metrics)


def pick(samples: Sequence[Sample], split: Split, recipe: Recipe) -> list[Sample]:
    """At most ``recipe.reward.posts`` perceived samples of a split that are in a bucket, in their natural shares; chosen by the seed."""
    held = [sample for sample in samples if sample.split == split and sample.bucket is not None and sample.description is not None]
    if not held:
        raise InputError(f"{split} split", "holds no perceived sample in a bucket", "run perceive, or ingest more posts")
    order = np.random.default_rng([recipe.seed, len(held)]).permutation(len(held))[: recipe.reward.posts]
    return [held[index] for index in sorted(order)]


def score(models: Models, samples: Sequence[Sample], found: Conditions, recipe: Recipe, kept: str) -> Rows:
    """Each formulation of each sample's own image, and the length of its answer in tokens; ``kept`` holds what is known already."""
    items, score_items = [Item(sample, sample.image, sample.image) for sample in samples], BatchScorer(models, None, recipe, found)
    asked = questions([item.sha256 for item in items], samples, found)
    parts = functools.partial(in_parts, size=recipe.reward.chunk)
    return through_cache(kept, asked, lambda missing: ((part, score_items([items[i] for i in part])) for part in parts(missing)))[0]


def measure(rewards: Rows, length_N: NDArray[np.float64], samples: Sequence[Sample], recipe: Recipe) -> dict[str, Validity]:
    """Validity of each formulation, and of the reward if it is a sum; one that is alike for all images is left out."""
    options = {"resamples": recipe.evaluation.bootstrap, "seed": recipe.seed}
    return {name: validity(reward_N, length_N, samples, **options) for name, reward_N in rewards.items() if np.ptp(reward_N) > 0}


if __name__ == "__main__":
    sys.exit(run_stage(work))
