"""Stage ``evaluate_sd``: base, high-KPI baseline and BoigSD on the same test prompts and noise,
sampled on Ray, measured in this process.

Each row is measured while the actors sample the next ones.

Base and BoigSD are sampled without guidance, too, and with rewritten prompts where the recipe asks
for them; the registry's champion stands beside them, if there is one.

Reads ``dataset``, ``boigllm``, ``calibration``, ``high_kpi``, ``boigsd``, ``champion`` if there is
one, for a reward that takes one ``predictor``, for an evaluation that asks for one ``judge``;
publishes ``generation``: numbers, one row per image, grids. The held-out judge (`ray_jobs.judge`)
scores here alone.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from boig_core.cluster.stage import run_stage
from boig_core.config import Recipe, Rewrite
from boig_core.data.dataset import read_samples
from boig_core.evaluation.measure.aesthetic import AestheticJudge
from boig_core.evaluation.measure.breakdown import by_bucket_and_account
from boig_core.evaluation.measure.evaluated_cuts import count_evaluated
from boig_core.evaluation.measure.files import write_generation
from boig_core.evaluation.measure.generation import (
    PAIRED,
    ImageMeasures,
    Instruments,
    measure,
    summarize,
)
from boig_core.evaluation.measure.judges import ClipJudge
from boig_core.evaluation.measure.real_images import see_real
from boig_core.evaluation.measure.rewriting import (
    high_prompts,
    rewrite_by_description,
    rewrite_by_retrieval,
)
from boig_core.evaluation.measure.sampling_plan import CHAMPION, Plan, make_plan
from boig_core.observability.logs import get_logger
from boig_core.observability.progress import Progress, progress_log
from boig_core.perception.describe import Perceiver
from boig_core.rewards.calibration import Calibration, read_calibration
from boig_core.rewards.loading import needs_predictor
from boig_core.rewards.scorer import LlmScorer
from boig_core.storage.stage import Outcome, Workspace
from boig_core.vocabulary import Sample
from ray_jobs.judge import open_judge

log = get_logger(__name__)


def work(space: Workspace) -> Outcome:
    """Sample the models, measure their images, write the numbers and grids."""
    from boig_core.cluster.evaluation import SampleRequest, Source, sample_draws, started_samplers
    from boig_core.cluster.session import connect

    recipe, job = space.recipe, space.job
    samples = read_samples(job.input("dataset"))
    plan = make_plan(samples, recipe)
    calibration = read_calibration(space.fetch("calibration", "calibration")[0])
    sources = {"base": Source(recipe.sd.base, False)}
    ours = ["high_kpi", "boigsd", *([CHAMPION] if CHAMPION in job.inputs else [])]
    sources |= {name: Source(job.input(name), True) for name in ours}
    connect()
    settings, started = recipe.evaluation, time.monotonic()
    with (
        started_samplers(recipe) as actors,
        ThreadPoolExecutor(1, thread_name_prefix="boig-measuring") as measuring,
    ):
        # Opened while the actors import; one thread measures, so rows keep their order.
        tools = open_instruments(space, calibration)
        seen = measuring.submit(
            see_real, job.input("dataset"), samples, tools.clip, tools.features, recipe
        )
        plan = replace(
            plan, rewritten=rewrite(job.input("boigllm"), samples, plan, calibration, recipe)
        )
        rows = plan.rows(settings, champion=CHAMPION in sources)
        draws = {
            name: SampleRequest(sources[row.model], plan.prompts(row), row.guidance(settings))
            for name, row in rows.items()
        }
        waiting: dict[str, Future[ImageMeasures]] = {}
        progress = Progress("models", len(draws), progress_log("measuring"))

        def drawn(name: str, sampled: NDArray[np.uint8]) -> None:
            waiting[name] = measuring.submit(measure, sampled, plan, tools)
            waiting[name].add_done_callback(lambda _: progress.add([None]))

        images = sample_draws(actors, draws, plan.seeds, recipe.ddpo.chunk, drawn)
        seconds, count = time.monotonic() - started, len(plan.seeds)
        log.info("sampled %d images for each of %d rows in %.1f s", count, len(rows), seconds)
        _leave_out_other_size(images)
        real, measured = seen.result(), {name: waiting[name].result() for name in images}
    summary = summarize(measured, plan, real, recipe)
    summary["cut"] = count_evaluated(plan, job.input("boigsd"), tools.clip, space.scratch / "cut")
    summary["by"] = by_bucket_and_account(measured, plan, recipe)
    summary["settings"] = {
        **settings.model_dump(mode="json"),
        "judge": tools.judge and tools.judge.name,
        "prompts": len(plan.samples),
    } | {"reward": recipe.reward.name, "reward_clip": list(calibration.clip)}
    out = space.scratch / "generation"
    out.mkdir()
    write_generation(out, summary, plan, images, measured)
    metrics = {
        f"{name}_{key}": summary["generation"][name][key] for name in images for key in PAIRED
    } | summary["cut"]["sampled"]
    log.info("rows: %s", metrics)
    uri = space.publish("evaluations/generation", out, kind="generation")
    return Outcome({"generation": uri}, metrics)


def _leave_out_other_size(images: dict[str, NDArray[np.uint8]]) -> None:
    """A champion whose images cannot be held against the candidate's."""
    if CHAMPION in images and images[CHAMPION].shape != images["base"].shape:
        size = " x ".join(map(str, images.pop(CHAMPION).shape[1:3]))
        log.warning(
            "the champion makes images of another size (%s): it is left out, and no candidate of this size can beat it",
            size,
        )


def open_instruments(space: Workspace, calibration: Calibration) -> Instruments:
    """All that looks at the images."""
    recipe, settings = space.recipe, space.recipe.evaluation
    llm, _ = space.fetch("boigllm", "boigllm")
    predictor = space.fetch("predictor", "predictor")[0] if needs_predictor(recipe.reward) else None
    perceiver = Perceiver.from_recipe(recipe.perception)
    judge = open_judge(space, perceiver)
    rewards = LlmScorer(llm, perceiver, recipe, calibration, predictor)
    clip = ClipJudge(settings.clip)
    # A model that serves twice is opened once.
    features = clip if settings.features == settings.clip else ClipJudge(settings.features)
    looks, opened = settings.aesthetic, {settings.clip: clip}
    aesthetic = AestheticJudge(looks, opened.get(looks.clip)) if looks else None
    return Instruments(
        rewards, judge, clip, features, aesthetic, perceiver, recipe.perception.kinds
    )


def rewrite(
    boigllm: str, samples: Sequence[Sample], plan: Plan, calibration: Calibration, recipe: Recipe
) -> dict[Rewrite, tuple[str, ...]]:
    """The plan's prompts, rewritten in each way that the recipe asks for; Ray must be connected."""
    from boig_core.cluster.evaluation import answer_prompts

    rewritten: dict[Rewrite, tuple[str, ...]] = {}
    if "retrieval" in recipe.evaluation.rewrite:
        rewritten["retrieval"] = tuple(rewrite_by_retrieval(samples, plan.samples))
    if "boigllm" in recipe.evaluation.rewrite:
        answered = answer_prompts(
            boigllm, high_prompts(plan.samples, calibration.conditions, recipe), recipe
        )()
        rewritten["boigllm"] = tuple(rewrite_by_description(plan.samples, answered.said))
    return rewritten


if __name__ == "__main__":
    sys.exit(run_stage(work))
