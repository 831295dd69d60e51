"""Stage ``ddpo``: align Stable Diffusion with the reward; rollout and reward actors on Ray, the
learner under Ray Train + DeepSpeed.

Reads ``dataset``, ``boigllm``, ``calibration`` and, for a reward that takes one, ``predictor``,
which the probe reads too where there is one; publishes ``boigsd``: a whole diffusers folder with
the adapter merged, which ``DiffusionPipeline.from_pretrained`` opens, and the adapter alone in
``lora/``, for ``pipe.load_lora_weights`` on the base. Nothing starts for a reward that does not
tell HIGH from LOW on test images (`boig_core.rewards.calibration.require_worth`). ``samples/`` of
the attempt holds each epoch's prompts with their mean rewards, and each probe's images with what
was measured of each prompt.
"""

from __future__ import annotations

import functools
import io
import json
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from boig_core.cluster.gauges import Gauges
from boig_core.cluster.rollouts import RayRollouts
from boig_core.cluster.session import connect
from boig_core.cluster.stage import run_stage
from boig_core.config import Recipe
from boig_core.data.dataset import read_samples
from boig_core.observability.metrics import MetricLog, experiment
from boig_core.observability.progress import left, progress_log
from boig_core.rewards.calibration import Calibration, read_calibration, require_worth
from boig_core.rewards.loading import needs_predictor
from boig_core.storage import manifest, store
from boig_core.storage.job import Job
from boig_core.storage.stage import Outcome, Workspace
from boig_core.training.monitors import Trip

if TYPE_CHECKING:  # seconds to import, in a driver that trains nothing
    from boig_core.diffusion.findings import Scorer
    from boig_core.diffusion.lora import Adapter
    from boig_core.evaluation.measure.probe import ProbeResult


def work(space: Workspace) -> Outcome:
    """Start the actors and train; the learner of rank 0 publishes the aligned pipeline and its
    adapter."""
    recipe, job = space.recipe, space.job
    # All that can be wrong with reward and inputs is found before actors take GPUs.
    calibration = read_calibration(space.fetch("calibration", "calibration")[0])
    require_worth(calibration, recipe.reward)
    manifest.verify(job.input("boigllm"), kind="boigllm")
    wanted = needs_predictor(recipe.reward) or (
        recipe.ddpo.probe_every is not None and "predictor" in job.inputs
    )
    predictor = job.input("predictor") if wanted else None
    if predictor is not None:
        manifest.verify(predictor, kind="predictor")
    connect()
    # Names travel to the reward actors, not models: each opens its own.
    scorer = functools.partial(open_scorer, recipe, job.input("boigllm"), predictor, calibration)
    with RayRollouts.placed(recipe, scorer) as rollouts:
        from boig_core.cluster.train import (
            run_training,
        )  # takes seconds, in which the actors open their models

        config = {"job": job, "rollouts": rollouts}
        uri, rewards, trips = run_training(
            train,
            config,
            workers=recipe.ddpo.workers,
            resources=recipe.worker_resources,
            scratch=space.scratch / "train",
        )
    metrics = {
        "epochs": len(rewards),
        # keep_best publishes a policy from before the sign: it says nothing against that one.
        "monitors": {trip.monitor: str(trip) for trip in trips if trip.action != "keep_best"},
        "reward_first": rewards[0] if rewards else None,
        "reward_last": rewards[-1] if rewards else None,
    }
    return Outcome({"boigsd": uri}, metrics)


def open_scorer(
    recipe: Recipe, boigllm: str, predictor: str | None, calibration: Calibration, device: str
) -> Scorer:
    """The reward, and what the probe asks beside it, in the process that scores."""
    from boig_core.perception.describe import Perceiver
    from boig_core.rewards.loading import fetched
    from boig_core.rewards.scorer import LlmScorer

    with fetched(boigllm, predictor) as (llm, rater):
        scorer = LlmScorer(
            llm, Perceiver.from_recipe(recipe.perception), recipe, calibration, rater
        )
    if recipe.ddpo.probe_every is None:
        return scorer
    # Imported for a probe alone: the reward needs no CLIP judge.
    from boig_core.evaluation.measure.judges import ClipJudge
    from boig_core.evaluation.measure.probe import ProbeScorer

    return ProbeScorer(scorer, ClipJudge(recipe.perception.clip))


def train(config: dict[str, Any]) -> tuple[str, list[float], list[Trip]]:
    """One learner: URI of the published model, empty on other ranks than 0, each epoch's mean
    reward, and the monitors that tripped."""
    from boig_core.diffusion.learner import Learner
    from boig_core.evaluation.measure.probe import Probe
    from boig_core.training.checkpoint import Checkpoints
    from boig_core.training.ranks import rank

    job: Job = config["job"]
    rollouts: RayRollouts = config["rollouts"]
    samples = read_samples(job.input("dataset"))
    uri = store.join(job.attempt_uri, "metrics.jsonl")
    curve: MetricLog | None = None
    # One rank writes the curve. When it starts again it goes on with the rows of the process that
    # was lost.
    if rank() == 0:
        earlier = store.read_bytes(uri) if store.exists(uri) else b""
        curve = MetricLog(
            lambda data: store.write_bytes(uri, data),
            experiment=experiment(job.stage),
            run=job.version,
            earlier=earlier,
        )
    gauges, say = Gauges(job.stage, job.version), progress_log()

    def report(epoch: int, values: dict[str, float]) -> None:
        waited_s = values["seconds_probe"] + values["seconds_rollouts"]
        wall_s = waited_s + values["seconds_update"] + values["seconds_between"]
        # Once an epoch: `spent` forgets the work that has ended, so a second call would find none.
        row = {**values, **rollouts.spent(wall_s), "idle_learner": waited_s / wall_s}
        gauges.set({"epoch": epoch, **row})
        if curve is not None:
            curve.log(epoch, **row)
        say(epoch_line(epoch, job.recipe.ddpo.epochs, values, wall_s))

    shown = SampleWriter(job.attempt_uri)
    probe = (
        Probe(job.recipe, samples, rollouts, shown.look)
        if job.recipe.ddpo.probe_every is not None
        else None
    )
    prompts = [sample for sample in samples if sample.split == "train" and sample.bucket == "high"]
    learner = Learner(
        job.recipe,
        prompts,
        rollouts,
        Checkpoints.of_job(job),
        report,
        shown.prompts,
        probe,
    )
    try:
        adapter = learner.fit()
    finally:
        # Rows are written every few seconds; an error must not take the last ones with it.
        if curve is not None and curve.rows:
            curve.close()
    rewards = [row["reward"] for row in learner.rows]
    about = len(rewards), learner.checkpoints.went_on_from
    return publish(job, adapter, *about) if rank() == 0 else "", rewards, learner.trips


def publish(
    job: Job, adapter: Adapter, epochs: int, went_on_from: tuple[manifest.WentOnFrom, ...]
) -> str:
    """Publish the policy, from a process that has imported all that it takes; returns the URI."""
    from boig_core.diffusion.lora import open_policy, save_policy

    recipe, lora = job.recipe, job.recipe.ddpo.lora_rank
    about = {
        "base": recipe.sd.base,
        "lora_rank": lora,
        "epochs": epochs,
        "reward": recipe.reward.name,
    }
    with tempfile.TemporaryDirectory(prefix="boig-ddpo-") as scratch:
        folder = Path(scratch) / "boigsd"
        save_policy(
            open_policy(recipe.sd.base, lora, recipe.seed, adapter), folder, lora=lora is not None
        )
        meta = {**about, "checksum": adapter.checksum}
        return Workspace(job, Path(scratch)).publish(
            "models/boigsd", folder, kind="sd", meta=meta, went_on_from=went_on_from
        )


def epoch_line(epoch: int, epochs: int, values: Mapping[str, float], wall_s: float) -> str:
    """How an epoch (counted from 0) went; what a narrow terminal can do without comes last."""
    parts = [
        f"epoch {epoch + 1} of {epochs}",
        f"reward {values['reward']:.3f} ± {values['reward_std']:.3f}",
        f"{wall_s:.1f} s/epoch",
        f"rollouts {values['seconds_rollouts']:.1f} s",
        f"update {values['seconds_update']:.1f} s",
        f"clipped {values['clip_fraction']:.2f}",
    ]
    to_go = epochs - epoch - 1
    return " · ".join([*parts, left(to_go * wall_s)] if to_go else parts)


@dataclass(frozen=True)
class SampleWriter:
    """What people look at while it trains: ``samples/`` of an attempt."""

    attempt: str

    def prompts(self, epoch: int, means: list[tuple[str, float]]) -> None:
        """Prompts that an epoch trains on, with their mean rewards."""
        self._put(
            f"epoch-{epoch:04d}.json",
            json.dumps(
                [{"prompt": prompt, "reward": mean} for prompt, mean in means], indent=1
            ).encode(),
        )

    def look(self, epoch: int, look: ProbeResult) -> None:
        """A probe's images, one row per prompt, and its numbers in the same order."""
        from boig_core.evaluation.measure.files import make_grid

        buffer = io.BytesIO()
        make_grid(list(look.images_PKHWC)).save(buffer, format="PNG")
        self._put(f"probe-{epoch:04d}.png", buffer.getvalue())
        self._put(
            f"probe-{epoch:04d}.json",
            json.dumps({**look.metrics, "rows": look.by_prompt}, indent=1).encode(),
        )

    def _put(self, name: str, content: bytes) -> None:
        store.write_bytes(store.join(self.attempt, "samples", name), content)


if __name__ == "__main__":
    sys.exit(run_stage(work))
