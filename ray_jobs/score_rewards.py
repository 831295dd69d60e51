"""Stage ``score_rewards``: every formulation and the reward of many images, as a job of its own, on
a pool of Ray actors.

Reads ``dataset`` (perceived), ``boigllm``, ``calibration`` and, where there is one, ``predictor``,
and scores the split `reward.split` with its own images; or, given ``images`` (a folder of files)
and ``posts`` (JSON lines ``{"image": FILE, "id": SAMPLE}``), those files for these posts. Publishes
``rewards``: ``rewards.parquet``, one row per image, and ``rewards.json``. What the store has scored
before is not scored again.
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from boig_core.cluster.scoring import Score, Values, score_chunks
from boig_core.cluster.session import connect
from boig_core.cluster.stage import run_stage
from boig_core.config import Recipe
from boig_core.data.dataset import read_samples
from boig_core.perception.version import perception_key
from boig_core.rewards import offered
from boig_core.rewards.batch import BatchScorer, folder_items, split_items, summary
from boig_core.rewards.cache import cache_folder, in_parts, questions, through_cache
from boig_core.rewards.calibration import Conditions, read_calibration
from boig_core.rewards.loading import needs_predictor
from boig_core.rewards.scorer import clipped, must_fit
from boig_core.storage import manifest
from boig_core.storage.stage import Outcome, Workspace
from boig_core.verbalization.templates import Wording


def work(space: Workspace) -> Outcome:
    """Find the images, score what is not known, write the table."""
    recipe, job = space.recipe, space.job
    calibration = read_calibration(space.fetch("calibration", "calibration")[0])
    must_fit(calibration, recipe.reward)
    model = manifest.verify(job.input("boigllm"), kind="boigllm")
    predictor = (
        job.input("predictor") if needs_predictor(recipe.reward) else job.inputs.get("predictor")
    )
    known_as = predictor and manifest.verify(predictor, kind="predictor").digest()
    samples, files = read_samples(job.input("dataset")), "images" in job.inputs
    items = (
        folder_items(samples, job.input("images"), job.input("posts"))
        if files
        else split_items(samples, recipe.reward.split)
    )
    seen_by = (
        perception_key(recipe.perception)
        if files
        else manifest.read_manifest(job.input("dataset")).meta["perception"]
    )
    folder = cache_folder(
        job.store,
        names=offered(predictor=predictor is not None),
        perception=seen_by,
        model=model.digest(),
        llm=recipe.llm,
        predictor=known_as,
    )
    opener = functools.partial(
        open_score, recipe, job.input("boigllm"), predictor, calibration.conditions, files
    )

    def scored(missing: Sequence[int]) -> Iterator[tuple[Sequence[int], Values]]:
        connect()
        parts = list(in_parts(missing, recipe.reward.chunk))
        for number, values in score_chunks(
            recipe, opener, [[items[index] for index in part] for part in parts]
        ):
            yield parts[number], values

    hashes, posts = [item.sha256 for item in items], [item.sample for item in items]
    asked = questions(hashes, posts, calibration.conditions, Wording.of(recipe))
    values, known = through_cache(folder, asked, scored)
    reward_N = clipped(values, recipe.reward, calibration)
    out = space.scratch / "rewards"
    out.mkdir()
    columns: dict[str, Any] = {
        "id": [item.sample.id for item in items],
        "image": [item.image for item in items],
        "account": [item.sample.account for item in items],
        **values,
        "reward": reward_N,
    }
    pq.write_table(pa.table(columns), out / "rewards.parquet", compression="zstd")
    about = {"reward": recipe.reward.name, "clip": list(calibration.clip)}
    report = {**about, **summary(values, reward_N, items)}
    (out / "rewards.json").write_text(json.dumps(report, indent=1), encoding="utf-8")
    metrics = {"images": len(items), "known": known, "reward": report["all"]["reward"]["mean"]}
    return Outcome({"rewards": space.publish("evaluations/rewards", out, kind="rewards")}, metrics)


def open_score(
    recipe: Recipe,
    boigllm: str,
    predictor: str | None,
    conditions: Conditions,
    files: bool,
    device: str,
) -> Score:
    """The scorer, in the process that scores."""
    from boig_core.perception.describe import Perceiver
    from boig_core.rewards.loading import fetched, load_models

    with fetched(boigllm, predictor) as (llm, rater):
        models = load_models(llm, recipe, rater)
    # A split's descriptions stand in the dataset: nothing has to look at its images.
    return BatchScorer(
        models, Perceiver.from_recipe(recipe.perception) if files else None, recipe, conditions
    )


if __name__ == "__main__":
    sys.exit(run_stage(work))
