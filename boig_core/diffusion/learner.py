"""DDPO: align the diffusion model with a reward, one epoch of rollouts, rewards, advantages and
policy updates after the other.

Every rank runs `Learner.fit`; rank 0 alone asks for rollouts, with `ddpo.ahead` before the update
that precedes them, and hands each rank its equal slice. Runs under Ray Train, ``torchrun`` and one
plain process. Leaves out: where rollouts and rewards run (`rollout.Rollouts`), the objectives
(`objectives`) and what a step is scored on (`scoring`). Shape letters: B images of this rank, K
trained steps or draws, C channels, H height, W width.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray

from boig_core.config import Recipe
from boig_core.diffusion.ddim import predict, schedule
from boig_core.diffusion.lora import (
    Adapter,
    base_model,
    engine_dtype,
    make_trainable,
    other_weights,
    read_adapter,
)
from boig_core.diffusion.objectives import (
    EXTREMES,
    MEANS,
    OBJECTIVES,
    Rewarded,
    Scored,
    clipped_ratio,
    off_policy_weights,
)
from boig_core.diffusion.pipeline import Prompts, load_base, text_encoders
from boig_core.diffusion.rollout import Rollouts, epoch_chunks, epoch_steps, made_on
from boig_core.diffusion.scoring import TrainedStep, trained_step
from boig_core.diffusion.state import AlignmentState, Average
from boig_core.diffusion.trajectory import Trajectory, concatenate
from boig_core.diffusion.watch import image_metrics, prompt_means, reward_metrics
from boig_core.errors import InputError, RecipeError, ScorerError
from boig_core.observability.logs import get_logger
from boig_core.training.checkpoint import Checkpoints
from boig_core.training.engine import Engine
from boig_core.training.engine_config import EngineConfig
from boig_core.training.monitors import MONITORS, WATCHED, Trip, check, quality
from boig_core.training.ranks import rank, world_size
from boig_core.vocabulary import Sample

log = get_logger(__name__)
_SHUFFLE = 4  # stream of random numbers, beside those of `rollout`


@dataclass(frozen=True)
class RankBatch:
    """What one rank trains on in an epoch; update u takes the u-th of equal consecutive parts.

    Attributes:
        trajectory: rollouts.
        advantages_B: their advantages.
        weights_BK: `objectives.off_policy_weights`; None where the policy that sampled is the one
            that the update starts from.
    """

    trajectory: Trajectory
    advantages_B: NDArray[np.float64]
    weights_BK: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class PendingRollouts:
    """Rollouts that were asked for: the policy that makes them, and what waits for them."""

    adapter: Adapter
    wait: Callable[[], list[tuple[Trajectory, NDArray[np.float64]]]]


class Learner:
    """One rank of the training.

    Args:
        recipe: `sd.base` and `ddpo` are read.
        samples: whose texts are the prompts; high-KPI training samples.
        rollouts: where experience comes from; needed by rank 0 alone.
        checkpoints: where the state goes.
        report: called by rank 0 after each epoch with its number and metrics.
        by_prompt: called by rank 0 after each epoch's rollouts with its number, and each prompt
            with the mean of its rewards.
        probe: called by rank 0 every `ddpo.probe_every` epochs, before the update, with the epoch
            and the policy; what it says of the policy stands in the epoch's row.
    """

    def __init__(
        self,
        recipe: Recipe,
        samples: Sequence[Sample],
        rollouts: Rollouts | None,
        checkpoints: Checkpoints,
        report: Callable[[int, dict[str, float]], None],
        by_prompt: Callable[[int, list[tuple[str, float]]], None] = lambda *_: None,
        probe: Callable[[int, Adapter], dict[str, float]] | None = None,
    ) -> None:
        if not samples:
            raise InputError(
                "high-KPI training samples: 0",
                "DDPO prompts are their texts",
                "ingest more posts or lower data.floors",
            )
        self.config, self.seed, self.samples = recipe.ddpo, recipe.seed, samples
        self.rollouts, self.checkpoints, self.report = rollouts, checkpoints, report
        self.by_prompt, self.probe = by_prompt, None if recipe.ddpo.probe_every is None else probe
        self.pipe: Any = load_base(recipe.sd)
        make_trainable(self.pipe.unet, self.config.lora_rank, self.seed)
        updates = self.config.epochs * self.config.inner_epochs * self.config.updates
        self.engine = Engine.create(
            self.pipe.unet,
            EngineConfig(
                lr=self.config.lr,
                steps=updates,
                warmup=0.0,
                schedule="constant",
                betas=(0.9, 0.999),
                weight_decay=1e-4,
                grad_clip=self.config.grad_clip,
                zero_stage=self.config.zero_stage,
                dtype=engine_dtype(recipe.sd.dtype, self.config.lora_rank),
            ),
        )
        self.engine.module.eval()  # dropout would part the scored policy from the sampled one
        for encoder in text_encoders(self.pipe):
            encoder.to(self.engine.device)
        self.condition = Prompts(self.pipe)
        self.alphas_T1 = schedule(self.pipe, self.config.sampling_steps)[2]
        self.history: dict[str, tuple[float, ...]] = {}
        self.rows: list[dict[str, float]] = []
        self.trips: list[Trip] = []
        self.average = (
            Average(self.pipe.unet, self.config.ema) if self.config.ema is not None else None
        )
        self.best = AlignmentState(self.engine, average=self.average)
        self.asked: PendingRollouts | None = None

    def fit(self) -> Adapter:
        """Train from the newest checkpoint, or the start, to the last epoch or a monitor's stop.

        Returns:
            The trained weights, or their moving average; on rank 0 those of the best epoch, when a
            monitor that keeps it ended the training.
        """
        start = self._restore()
        ended = time.monotonic()
        for epoch in range(start, self.config.epochs):
            if self._stopped():
                break
            before, begun = ended, time.monotonic()
            part, metrics = self._experience(epoch)
            sampled = time.monotonic()
            metrics |= self._probe(epoch)
            probed = time.monotonic()
            if epoch == start:
                self._check_ratio(part)
            self.best.ahead = self._policy() if self.config.ahead and rank() == 0 else None
            self.asked = (
                self._ask(epoch + 1)
                if self.best.ahead is not None and epoch + 1 < self.config.epochs
                else None
            )
            if self.config.recompute_logprobs or self._stale(part):
                part = self._recomputed(part)
            if self.config.ahead:
                metrics |= self._staleness(part)
            if rank() == 0 and self.config.monitors.keeps_best:
                self._offer(metrics)
            metrics |= self._update(epoch, part)
            ended = time.monotonic()
            images = self.config.prompts * self.config.images_per_prompt
            metrics |= {
                "seconds_rollouts": sampled - begun,
                "seconds_update": ended - probed,
                "seconds_probe": probed - sampled,
                "seconds_between": begun - before,
                "images_per_s": images / (sampled - begun + ended - probed),
            }
            stopped = self._watch(metrics)
            if rank() == 0:
                self.report(epoch, metrics)
            if (
                (epoch + 1) % self.config.checkpoint_every == 0
                or epoch + 1 == self.config.epochs
                or stopped
                or self.engine.leaving
            ):
                state = {
                    "history": self.history,
                    "rows": self.rows,
                    "trips": [trip.state() for trip in self.trips],
                }
                self.checkpoints.save(self.best, epoch + 1, state)
            if self.engine.leaving:
                self.checkpoints.leave()
        self.checkpoints.wait()
        keep = any(trip.action == "keep_best" for trip in self.trips)
        if keep and self.best.adapter is not None:
            return self.best.adapter
        return self._candidate()

    def _probe(self, epoch: int) -> dict[str, float]:
        due = rank() == 0 and epoch % (self.config.probe_every or 1) == 0
        return self.probe(epoch, self._candidate()) if due and self.probe is not None else {}

    def _offer(self, metrics: dict[str, float]) -> None:
        value = quality(metrics, probed=self.probe is not None)
        if value is not None:
            self.best.offer(value, self._candidate)

    def _stopped(self) -> bool:
        return any(trip.action in ("stop", "keep_best") for trip in self.trips)

    def _watch(self, metrics: dict[str, float]) -> bool:
        """Ask the monitors about an epoch, on rank 0; every rank learns whether the training ends,
        so that none waits for ever."""
        if rank() == 0:
            self.rows.append({name: metrics[name] for name in WATCHED if name in metrics})
            tripped, known = (
                check(self.config.monitors, self.rows),
                {trip.monitor for trip in self.trips},
            )
            metrics |= {
                f"monitor_{name}": float(name in {trip.monitor for trip in tripped})
                for name in MONITORS
            }
            for trip in tripped:
                if trip.monitor not in known:  # a warning that is repeated each epoch is not read
                    log.warning("%s", trip)
                    self.trips.append(trip)
        agreed: list[Any] = [(self.rows, self.trips)]
        if world_size() > 1:
            dist.broadcast_object_list(agreed, src=0)
        self.rows, self.trips = agreed[0]
        return self._stopped()

    def _restore(self) -> int:
        """Weights, optimizer, RNG, per-prompt statistics and what the monitors saw, of the newest
        checkpoint; returns the first epoch."""
        restored = self.checkpoints.restore(self.best)
        if restored is None:
            return 0
        self.history = {
            prompt: tuple(rewards) for prompt, rewards in restored.state["history"].items()
        }
        self.rows = [dict(row) for row in restored.state["rows"]]
        self.trips = [Trip(**trip) for trip in restored.state["trips"]]
        return restored.step

    def _policy(self) -> Adapter:
        return read_adapter(self.engine.module, self.engine.steps_done)

    def _candidate(self) -> Adapter:
        """What would be published now: the moving average of the weights, or the policy."""
        return (
            self._policy() if self.average is None else self.average.adapter(self.engine.steps_done)
        )

    def _ask(self, epoch: int) -> PendingRollouts:
        """Ask for an epoch's rollouts: under the weights from before the last update, where the
        recipe samples ahead."""
        if self.rollouts is None:
            raise ValueError("rank 0 needs rollouts")
        adapter = self.best.ahead or self._policy()
        return PendingRollouts(
            adapter,
            self.rollouts.begin(adapter, epoch_chunks(self.config, self.samples, self.seed, epoch)),
        )

    def _experience(self, epoch: int) -> tuple[RankBatch, dict[str, float]]:
        """Rollouts, rewards and advantages of an epoch on rank 0; this rank's slice on every
        rank."""
        slices: list[RankBatch | None] = [None] * world_size()
        metrics: dict[str, float] = {}
        if rank() == 0:
            asked = self.asked or self._ask(epoch)
            results = asked.wait()
            for trajectory, _ in results:
                trajectory.require(asked.adapter.version, asked.adapter.checksum)
            whole, rewards_B = (
                concatenate([t for t, _ in results]),
                np.concatenate([r for _, r in results]),
            )
            if rewards_B.shape != (len(whole),) or not np.isfinite(rewards_B).all():
                raise ScorerError(
                    f"rewards of epoch {epoch}",
                    f"must be {len(whole)} finite numbers",
                    "see the scorer's log",
                )
            groups_B = whole.indices_B // self.config.images_per_prompt
            rewarded = Rewarded(
                rewards_B, whole.prompts_B, groups_B, self.history, self.config.clip_advantage
            )
            advantages_B, self.history = OBJECTIVES[self.config.objective](rewarded)
            slices = list(self._slices(epoch, whole, advantages_B))
            metrics = reward_metrics(rewards_B, advantages_B, self.config.images_per_prompt)
            metrics |= image_metrics(whole.images_BHWC, self.config.images_per_prompt)
            self.by_prompt(
                epoch, prompt_means(rewards_B, whole.prompts_B, self.config.images_per_prompt)
            )
        received: list[RankBatch | None] = [None]
        if world_size() == 1:
            received = slices
        else:
            dist.scatter_object_list(received, slices if rank() == 0 else None, src=0)
        if received[0] is None:
            raise ValueError("rank 0 sent nothing")
        return received[0], metrics

    def _slices(
        self, epoch: int, whole: Trajectory, advantages_B: NDArray[np.float64]
    ) -> list[RankBatch]:
        """Equal slices, shuffled, so that any number of ranks makes each update from the same
        images."""
        order = np.random.default_rng((_SHUFFLE, self.seed, epoch)).permutation(len(whole))
        updates = np.split(order, self.config.updates)
        slices = []
        for r in range(world_size()):
            rows = np.concatenate([update[r :: world_size()] for update in updates])
            slices.append(RankBatch(whole.take(rows.tolist(), images=False), advantages_B[rows]))
        return slices

    def _losses(
        self, part: RankBatch, rows: Sequence[int]
    ) -> list[Callable[[], tuple[torch.Tensor, dict[str, float]]]]:
        """One function per micro-batch and trained step: its share of the update's loss, and its
        metrics."""
        trajectory = part.trajectory
        steps = epoch_steps(self.config, self.seed, trajectory.epoch, self.config.trained_steps)
        functions: list[Callable[[], tuple[torch.Tensor, dict[str, float]]]] = []
        for micro in self._micro_batches(rows):
            functions += [
                functools.partial(self._loss, part, micro, k, len(micro) / len(rows) / len(steps))
                for k in steps
            ]
        return functions

    def _micro_batches(self, rows: Sequence[int]) -> list[list[int]]:
        return [
            list(rows[start : start + self.config.micro_batch])
            for start in range(0, len(rows), self.config.micro_batch)
        ]

    def _loss(
        self, part: RankBatch, rows: list[int], k: int, weight: float
    ) -> tuple[torch.Tensor, dict[str, float]]:
        device = self.engine.device
        old_B = torch.from_numpy(part.trajectory.logprobs_old_BK[rows, k]).to(device)
        advantages_B = torch.from_numpy(part.advantages_B[rows]).float().to(device)
        if part.weights_BK is not None:
            advantages_B = advantages_B * torch.from_numpy(part.weights_BK[rows, k]).to(device)
        step = self._step(part.trajectory, rows, k)
        prompts = [part.trajectory.prompts_B[row] for row in rows]
        anchor_BCHW = self._predict_anchor(step, prompts) if self.config.kl else None
        pred_BCHW = self._predict(step, prompts, self.engine)
        loss, metrics = clipped_ratio(
            Scored(step.logprob(pred_BCHW), old_B, advantages_B, self.config.clip_ratio)
        )
        if anchor_BCHW is not None:
            kl = step.kl(pred_BCHW, anchor_BCHW).mean()
            loss, metrics["kl"] = loss + self.config.kl * kl, float(kl.detach())
        return loss * weight, {
            name: value * (1.0 if name in EXTREMES else weight) for name, value in metrics.items()
        }

    def _score(self, trajectory: Trajectory, rows: list[int], k: int) -> torch.Tensor:
        """Log-probabilities of trained step k under the weights as they are."""
        step = self._step(trajectory, rows, k)
        return step.logprob(
            self._predict(step, [trajectory.prompts_B[row] for row in rows], self.engine)
        )

    def _step(self, trajectory: Trajectory, rows: list[int], k: int) -> TrainedStep:
        prediction = self.pipe.scheduler.config.prediction_type
        return trained_step(
            self.config,
            self.seed,
            trajectory,
            rows,
            k,
            self.alphas_T1,
            prediction,
            self.engine.device,
        )

    def _predict(self, step: TrainedStep, prompts: list[str], unet: Any) -> torch.Tensor:
        condition = self.condition(prompts)
        blank = self.condition([None]) if self.config.guidance > 1 else None
        return predict(unet, step.sample_BCHW, step.t, condition, blank, self.config.guidance)

    @torch.no_grad()
    def _predict_anchor(self, step: TrainedStep, prompts: list[str]) -> torch.Tensor:
        """What the base model, or the moving average, predicts."""
        if self.config.anchor == "ema" and self.average is not None:
            with other_weights(self.pipe.unet, self.average.weights):
                return self._predict(step, prompts, self.pipe.unet)
        with base_model(self.pipe.unet):
            return self._predict(step, prompts, self.pipe.unet)

    @torch.no_grad()
    def _check_ratio(self, part: RankBatch) -> None:
        """With weights unchanged since the rollout, or with those that sampled ahead, scoring again
        must give the stored log-probabilities.

        On CPU the ratio was 1 within 2e-6 in float32 (for the mean over latent dimensions) and
        exactly 1 in bfloat16, whatever the batch's composition. A GPU may choose other kernels for
        another batch, which bfloat16 shows more. Where log-probabilities are recomputed anyway, a
        difference is logged alone.

        Raises:
            RecipeError: naming the worst step, and dtypes and devices that differ: sampling and
                training do not see the same policy.
        """
        trajectory = part.trajectory
        rows = list(range(min(self.config.micro_batch, len(trajectory))))
        old_BK = torch.from_numpy(trajectory.logprobs_old_BK)
        sampled_by = (
            self.best.ahead.tensors() if self._stale(part) and self.best.ahead is not None else None
        )
        with nullcontext() if sampled_by is None else other_weights(self.pipe.unet, sampled_by):
            scored_K = [self._score(trajectory, rows, k).cpu() for k in range(old_BK.shape[1])]
        worst = [
            float((scored_B - old_BK[rows, k]).exp().sub(1).abs().max())
            for k, scored_B in enumerate(scored_K)
        ]
        k = int(np.argmax(worst))
        if worst[k] <= self.config.clip_ratio / 10:
            return
        mine, others = (
            made_on(self.pipe.unet),
            sorted(set(trajectory.made_on_B) - {made_on(self.pipe.unet)}),
        )
        where = f"timestep {trajectory.timesteps_K[k]}" if trajectory.timesteps_K else f"draw {k}"
        error = RecipeError(
            f"ratio {1 + worst[k]:.6f} at {where} with unchanged weights, rollouts in {' and '.join(others) or mine}, learner in {mine}",
            f"must be 1 within clip_ratio / 10 = {self.config.clip_ratio / 10:g}",
            "use one precision and kind of device (sd.dtype float32), set ddpo.recompute_logprobs, or raise ddpo.clip_ratio",
        )
        if not self.config.recompute_logprobs:
            raise error
        log.warning("%s: the learner's own log-probabilities are used", error.value)

    def _stale(self, part: RankBatch) -> bool:
        """Whether other weights sampled than the update starts from."""
        return part.trajectory.version != self.engine.steps_done

    @torch.no_grad()
    def _recomputed(self, part: RankBatch) -> RankBatch:
        """The slice with old log-probabilities under the weights as they are, in the batches of the
        updates; weighted if it is stale."""
        old_BK = part.trajectory.logprobs_old_BK.copy()
        for rows in np.split(np.arange(len(part.trajectory)), self.config.updates):
            for micro in self._micro_batches(rows.tolist()):
                for k in range(old_BK.shape[1]):
                    old_BK[micro, k] = self._score(part.trajectory, micro, k).cpu().numpy()
        weights_BK = (
            off_policy_weights(old_BK, part.trajectory.logprobs_old_BK)
            if self._stale(part)
            else None
        )
        return replace(
            part, trajectory=replace(part.trajectory, logprobs_old_BK=old_BK), weights_BK=weights_BK
        )

    def _staleness(self, part: RankBatch) -> dict[str, float]:
        """How far an epoch's rollouts are off policy: updates since they were asked for; mean and
        maximum of their weights, over ranks."""
        weights = np.ones(1, np.float32) if part.weights_BK is None else part.weights_BK
        mean = float(self.engine.total(torch.tensor(weights.mean(dtype=np.float64)))) / world_size()
        largest = torch.tensor(float(weights.max())).to(self.engine.device)
        dist.all_reduce(largest, op=dist.ReduceOp.MAX)
        return {
            "off_policy_updates": float(self.engine.steps_done - part.trajectory.version),
            "off_policy_weight": mean,
            "off_policy_weight_max": float(largest),
        }

    def _update(self, epoch: int, part: RankBatch) -> dict[str, float]:
        """The epoch's policy updates; metrics are means over ranks and updates, but the ratio's
        extremes."""
        infos, norms = [], []
        for inner in range(self.config.inner_epochs):
            order = np.random.default_rng((_SHUFFLE, self.seed, epoch, inner)).permutation(
                self.config.updates
            )
            rows = np.split(np.arange(len(part.trajectory)), self.config.updates)
            for update in order:
                seen: list[dict[str, float]] = []
                info = self.engine.step(
                    [self._kept(loss, seen) for loss in self._losses(part, rows[update].tolist())]
                )
                if self.average is not None:
                    self.average.update()
                infos.append(seen)
                norms.append(info.grad_norm)
        worst, low, high = ([m[name] for seen in infos for m in seen] for name in EXTREMES)
        extremes = torch.tensor([max(worst), -min(low), max(high)]).to(self.engine.device)
        dist.all_reduce(extremes, op=dist.ReduceOp.MAX)
        names = (*MEANS, "kl") if self.config.kl else MEANS
        sums = torch.tensor(
            [[sum(m[name] for m in seen) for name in names] for seen in infos]
        ).mean(dim=0)
        means = (self.engine.total(sums) / world_size()).tolist()
        return {
            "ratio_deviation": float(extremes[0]),
            "ratio_min": -float(extremes[1]),
            "ratio_max": float(extremes[2]),
            **dict(zip(names, means, strict=True)),
            "grad_norm": float(np.mean(norms)),
        }

    @staticmethod
    def _kept(
        loss: Callable[[], tuple[torch.Tensor, dict[str, float]]], seen: list[dict[str, float]]
    ) -> Callable[[], torch.Tensor]:
        def run() -> torch.Tensor:
            value, metrics = loss()
            seen.append(metrics)
            return value

        return run
