"""Stage ``calibrate``: does each reward tell high-KPI images from low ones? Held-out real images,
within account; in this process.

Reads ``dataset`` (perceived), ``boigllm`` and, where there is one, ``predictor``; publishes
``calibration`` (`boig_core.rewards.calibration.Calibration`). The validation split recommends a
formulation. The recipe's own choice is what DDPO maximizes, if it passes its gate on the test
split.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from boig_core.cluster.stage import run_stage
from boig_core.config import Recipe
from boig_core.data.dataset import read_samples
from boig_core.errors import InputError
from boig_core.evaluation.measure.validity import validity
from boig_core.evaluation.report.terminal import validity_lines
from boig_core.observability.logs import get_logger
from boig_core.observability.progress import Progress, progress_log
from boig_core.rewards import offered
from boig_core.rewards.batch import BatchScorer, Item
from boig_core.rewards.cache import cache_folder, in_parts, questions, through_cache
from boig_core.rewards.calibration import (
    Calibration,
    Conditions,
    clip_range,
    conditions,
    passes,
    recommend,
    require_worth,
    write_calibration,
)
from boig_core.rewards.loading import Models, load_models, needs_predictor
from boig_core.rewards.scorer import TOKENS
from boig_core.rewards.weighted import Scale, scale_of, weighted
from boig_core.storage import manifest
from boig_core.storage.stage import Outcome, Workspace
from boig_core.vocabulary import Sample, Split

log = get_logger(__name__)
Rows = dict[str, dict[str, Any]]


def work(space: Workspace) -> Outcome:
    """Score real validation and test images by every formulation, and write what DDPO and the
    report need of it."""
    recipe, name = space.recipe, space.recipe.reward.name
    samples = read_samples(space.job.input("dataset"))
    kpi_conditions = conditions(samples)
    folder, model = space.fetch("boigllm", "boigllm")
    predictor = (
        space.fetch("predictor", "predictor")
        if "predictor" in space.job.inputs or needs_predictor(recipe.reward)
        else None
    )
    models = load_models(folder, recipe, predictor and predictor[0])
    seen_by = manifest.read_manifest(space.job.input("dataset")).meta.get("perception", "")
    names, rater = offered(predictor=predictor is not None), predictor and predictor[1].digest()
    kept = cache_folder(
        space.job.store,
        names=names,
        perception=seen_by,
        model=model.digest(),
        llm=recipe.llm,
        predictor=rater,
    )
    rewards, splits = {}, {}
    scales: dict[str, Scale] = {}
    # Validation first: its scales weigh the test split, which only judges.
    for split in ("validation", "test"):
        picked = pick(samples, split, recipe)
        rewards[split] = score(models, picked, kpi_conditions, recipe, kept, split)
        length_N = rewards[split].pop(TOKENS)
        # Of the validation split.
        scales = scales or {each: scale_of(reward_N) for each, reward_N in rewards[split].items()}
        rewards[split].setdefault(name, weighted(rewards[split], recipe.reward.weights, scales))
        splits[split] = measure(rewards[split], length_N, picked, recipe)
    calibration = Calibration(
        reward=name,
        clip=clip_range(rewards["validation"][name], recipe.reward.clip_percentiles),
        scales=scales,
        conditions=kpi_conditions,
        recommended=recommend(splits["validation"]),
        splits=splits,
    )
    _tell(calibration, recipe)
    out = space.scratch / "calibration"
    out.mkdir()
    write_calibration(calibration, out)
    row = splits["test"][name]
    metrics = {
        "reward": name,
        "recommended": calibration.recommended,
        "auc_test": row["auc_high_vs_low"],
        "auc_test_interval": row["auc_interval"],
        "spearman_test": row["spearman"],
        "length_test": row["length_correlation"],
        "passes": passes(row, recipe.reward.min_auc),
        **rmse_of(rewards["test"], pick(samples, "test", recipe)),
    }
    return Outcome(
        {"calibration": space.publish("evaluations/calibration", out, kind="calibration")}, metrics
    )


def _tell(calibration: Calibration, recipe: Recipe) -> None:
    """Log how well each formulation tells high from low, and whether alignment may start."""
    for line in validity_lines(calibration, recipe.reward.min_auc):
        log.info("%s", line)
    # A reward that fails its gate is a finding of this stage, so nothing fails here; ddpo refuses
    # it by the same rule.
    try:
        require_worth(calibration, recipe.reward)
    except InputError as refusal:
        log.warning("ddpo will not start: %s", refusal)


def pick(samples: Sequence[Sample], split: Split, recipe: Recipe) -> list[Sample]:
    """At most ``recipe.reward.posts`` perceived samples of a split that are in a bucket, in their
    natural shares; chosen by the seed."""
    candidates = [
        sample
        for sample in samples
        if sample.split == split and sample.bucket is not None and sample.description is not None
    ]
    if not candidates:
        raise InputError(
            f"{split} split",
            "holds no perceived sample in a bucket",
            "run perceive, or ingest more posts",
        )
    order = np.random.default_rng([recipe.seed, len(candidates)]).permutation(len(candidates))[
        : recipe.reward.posts
    ]
    return [candidates[index] for index in sorted(order)]


def score(
    models: Models,
    samples: Sequence[Sample],
    kpi_conditions: Conditions,
    recipe: Recipe,
    kept: str,
    label: str,
) -> dict[str, NDArray[np.float64]]:
    """Each formulation of each sample's own image, and the length of its answer in tokens; ``kept``
    holds what is known already."""
    items, score_items = (
        [Item(sample, sample.image, sample.image) for sample in samples],
        BatchScorer(models, None, recipe, kpi_conditions),
    )
    asked = questions([item.sha256 for item in items], samples, kpi_conditions, models.wording)

    def scored(
        missing: Sequence[int],
    ) -> Iterator[tuple[Sequence[int], Mapping[str, NDArray[np.float64]]]]:
        progress = Progress("images scored", len(missing), progress_log(f"{label} split"))
        # Part by part, so that what has been scored is kept when the process is lost.
        for part in in_parts(missing, recipe.reward.chunk):
            yield part, score_items([items[i] for i in part])
            progress.add([None] * len(part))
        progress.close()

    return through_cache(kept, asked, scored)[0]


def rmse_of(
    rewards: Mapping[str, NDArray[np.float64]], samples: Sequence[Sample]
) -> dict[str, float]:
    """Root mean squared error of the engagement predictor, in points of 100, beside that of the
    mean KPI; empty without a predictor."""
    if "engagement" not in rewards:
        return {}
    kpi_N = np.array([sample.kpi_normalized for sample in samples])
    error_N = rewards["engagement"] - kpi_N
    return {
        "engagement_rmse_test": float(np.sqrt(np.mean(error_N**2))),
        "mean_kpi_rmse_test": float(kpi_N.std()),
    }


def measure(
    rewards: Mapping[str, NDArray[np.float64]],
    length_N: NDArray[np.float64],
    samples: Sequence[Sample],
    recipe: Recipe,
) -> Rows:
    """Validity of each formulation, as JSON."""
    draws = {"resamples": recipe.evaluation.bootstrap, "seed": recipe.seed}
    kpis = recipe.data.more_kpis
    return {
        name: validity(reward_N, length_N, samples, more_kpis=kpis, **draws).as_json()
        for name, reward_N in rewards.items()
    }


if __name__ == "__main__":
    sys.exit(run_stage(work))
