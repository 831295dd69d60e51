"""DDPO: align the diffusion model with a reward, one epoch of rollouts, rewards, advantages and policy updates after the other.

Every rank runs `Learner.fit`; rank 0 alone asks for rollouts and hands each rank its equal slice. Runs under Ray Train, ``torchrun`` and
one plain process. Leaves out: where rollouts and rewards run (`rollout.Rollouts`) and the objectives (`objectives`). Shape letters: B
images of this rank, K trained steps, S = K + 1, L tokens, D text width.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray

from boig_core.config import Recipe
from boig_core.diffusion.ddim import ddim_step, predict_noise, schedule
from boig_core.diffusion.lora import Adapter, checksum, make_trainable, read_adapter
from boig_core.diffusion.objectives import EXTREMES, MEANS, OBJECTIVES, Rewarded, Scored, clipped_ratio
from boig_core.diffusion.pipeline import encode_prompts, load_pipeline
from boig_core.diffusion.rollout import Rollouts, epoch_chunks, epoch_steps
from boig_core.diffusion.trajectory import Trajectory, concatenate
from boig_core.diffusion.watch import image_metrics, reward_metrics
from boig_core.errors import InputError, RecipeError, ScorerError
from boig_core.observability.logs import get_logger
from boig_core.training.checkpoint import Checkpoints
from boig_core.training.engine import Engine, EngineConfig, rank, world_size
from boig_core.training.monitors import MONITORS, WATCHED, Trip, check
from boig_core.vocabulary import Sample

log = get_logger(__name__)
_BEST = "best.npz"
_WEIGHT = "weight:"
_SHUFFLE = 4  # stream of random numbers, beside those of `rollout`


@dataclass(frozen=True)
class Slice:
    """What one rank trains on in an epoch; update u takes the u-th of equal consecutive parts."""

    trajectory: Trajectory
    advantages_B: NDArray[np.float64]


@dataclass
class Best:
    """The engine, and beside it the policy whose images had the highest mean reward: one checkpoint holds both.

    Attributes:
        engine: what trains.
        reward: mean reward of the best epoch.
        adapter: weights that its images were sampled from; None where none was offered.
    """

    engine: Engine
    reward: float = float("-inf")
    adapter: Adapter | None = None

    def offer(self, reward: float, policy: Callable[[], Adapter]) -> None:
        """Keep the policy if its reward is the highest so far."""
        if reward > self.reward:
            self.reward, self.adapter = reward, policy()

    def save(self, folder: Path) -> None:
        """The engine's files, and ``best.npz`` of the rank that holds a best policy."""
        self.engine.save(folder)
        if self.adapter is not None:
            arrays: dict[str, Any] = {_WEIGHT + name: weight for name, weight in self.adapter.weights.items()}
            np.savez(folder / _BEST, np.array([self.reward, self.adapter.version]), **arrays)

    def load(self, folder: Path) -> None:
        """Continue from what `save` wrote on all ranks."""
        self.engine.load(folder)
        if rank() == 0 and (folder / _BEST).is_file():
            with np.load(folder / _BEST) as stored:
                reward, version = stored["arr_0"].tolist()
                weights = {name.removeprefix(_WEIGHT): stored[name] for name in stored.files if name.startswith(_WEIGHT)}
            self.reward, self.adapter = reward, Adapter(int(version), weights, checksum(weights))


class Learner:
    """One rank of the training.

    Args:
        recipe: `sd.base` and `ddpo` are read.
        samples: whose texts are the prompts; high-KPI training samples.
        rollouts: where experience comes from; needed by rank 0 alone.
        checkpoints: where the state goes.
        report: called by rank 0 after each epoch with its number and metrics.
        show: called by rank 0 after each epoch with its number and whole trajectory: sample images for people.
    """

    def __init__(
        self,
        recipe: Recipe,
        samples: Sequence[Sample],
        rollouts: Rollouts | None,
        checkpoints: Checkpoints,
        report: Callable[[int, dict[str, float]], None],
        show: Callable[[int, Trajectory], None] | None = None,
    ) -> None:
        if not samples:
            raise InputError("high-KPI training samples: 0", "DDPO prompts are their texts", "ingest more posts or lower data.floors")
        self.config, self.seed, self.samples = recipe.ddpo, recipe.seed, samples
        self.rollouts, self.checkpoints, self.report, self.show = rollouts, checkpoints, report, show
        self.pipe: Any = load_pipeline(recipe.sd.base)
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
            ),
        )
        self.engine.module.eval()  # dropout would part the scored policy from the sampled one
        self.pipe.text_encoder.to(self.engine.device)
        self.alphas_T1 = schedule(self.pipe, self.config.sampling_steps)[2]
        self.history: dict[str, tuple[float, ...]] = {}
        self.rows: list[dict[str, float]] = []
        self.trips: list[Trip] = []
        self.best = Best(self.engine)

    def fit(self) -> Adapter:
        """Train from the newest checkpoint, or the start, to the last epoch or a monitor's stop.

        Returns:
            The trained weights; on rank 0 those of the best epoch, when a monitor that keeps it ended the training.
        """
        start = self._restore()
        ended = time.monotonic()
        for epoch in range(start, self.config.epochs):
            if self._stopped():
                break
            before, started = ended, time.monotonic()
            part, metrics = self._experience(epoch)
            sampled = time.monotonic()
            if epoch == start:
                self._check_ratio(part)
            if rank() == 0 and self.config.monitors.keeps_best:
                self.best.offer(metrics["reward"], self._policy)
            metrics |= self._update(epoch, part)
            ended = time.monotonic()
            images = self.config.prompts * self.config.images_per_prompt
            metrics |= {
                "seconds_rollouts": sampled - started,
                "seconds_update": ended - sampled,
                "seconds_between": started - before,
                "images_per_s": images / (ended - started),
            }
            stopped = self._watch(metrics)
            if rank() == 0:
                self.report(epoch, metrics)
            if (epoch + 1) % self.config.checkpoint_every == 0 or epoch + 1 == self.config.epochs or stopped or self.engine.leaving:
                state = {"history": self.history, "rows": self.rows, "trips": [trip.state() for trip in self.trips]}
                self.checkpoints.save(self.best, epoch + 1, state)
            if self.engine.leaving:
                self.checkpoints.leave()
        self.checkpoints.wait()
        keep = any(trip.action == "keep_best" for trip in self.trips)
        return self.best.adapter if keep and self.best.adapter is not None else self._policy()

    def _stopped(self) -> bool:
        return any(trip.action in ("stop", "keep_best") for trip in self.trips)

    def _watch(self, metrics: dict[str, float]) -> bool:
        """Ask the monitors about an epoch, on rank 0; every rank learns whether the training ends, so that none waits for ever."""
        if rank() == 0:
            self.rows.append({name: metrics[name] for name in WATCHED})
            tripped, known = check(self.config.monitors, self.rows), {trip.monitor for trip in self.trips}
            metrics |= {f"monitor_{name}": float(name in {trip.monitor for trip in tripped}) for name in MONITORS}
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
        """Weights, optimiser, RNG, per-prompt statistics and what the monitors saw, of the newest checkpoint; returns the first epoch."""
        restored = self.checkpoints.restore(self.best)
        if restored is None:
            return 0
        self.history = {prompt: tuple(rewards) for prompt, rewards in restored.state["history"].items()}
        self.rows = [dict(row) for row in restored.state["rows"]]
        self.trips = [Trip(**trip) for trip in restored.state["trips"]]
        return restored.step

    def _policy(self) -> Adapter:
        return read_adapter(self.engine.module, self.engine.steps_done)

    def _experience(self, epoch: int) -> tuple[Slice, dict[str, float]]:
        """Rollouts, rewards and advantages of an epoch on rank 0; this rank's slice on every rank."""
        slices: list[Slice | None] = [None] * world_size()
        metrics: dict[str, float] = {}
        if rank() == 0:
            if self.rollouts is None:
                raise ValueError("rank 0 needs rollouts")
            chunks = epoch_chunks(self.config, self.samples, self.seed, epoch)
            results = self.rollouts.collect(self._policy(), chunks)
            whole, rewards_B = concatenate([t for t, _ in results]), np.concatenate([r for _, r in results])
            if rewards_B.shape != (len(whole),) or not np.isfinite(rewards_B).all():
                raise ScorerError(f"rewards of epoch {epoch}", f"must be {len(whole)} finite numbers", "see the scorer's log")
            groups_B = whole.indices_B // self.config.images_per_prompt
            rewarded = Rewarded(rewards_B, whole.prompts_B, groups_B, self.history, self.config.clip_advantage)
            advantages_B, self.history = OBJECTIVES[self.config.objective](rewarded)
            slices = list(self._slices(epoch, whole, advantages_B))
            metrics = reward_metrics(rewards_B, advantages_B, self.config.images_per_prompt)
            metrics |= image_metrics(whole.images_BHWC, self.config.images_per_prompt)
            if self.show is not None:
                self.show(epoch, whole)
        received: list[Slice | None] = [None]
        if world_size() == 1:
            received = slices
        else:
            dist.scatter_object_list(received, slices if rank() == 0 else None, src=0)
        if received[0] is None:
            raise ValueError("rank 0 sent nothing")
        return received[0], metrics

    def _slices(self, epoch: int, whole: Trajectory, advantages_B: NDArray[np.float64]) -> list[Slice]:
        """Equal slices, shuffled, so that any number of ranks makes each update from the same images."""
        order = np.random.default_rng((_SHUFFLE, self.seed, epoch)).permutation(len(whole))
        updates = np.split(order, self.config.updates)
        slices = []
        for r in range(world_size()):
            rows = np.concatenate([update[r :: world_size()] for update in updates])
            slices.append(Slice(whole.take(rows.tolist(), images=False), advantages_B[rows]))
        return slices

    def _losses(self, part: Slice, rows: Sequence[int]) -> list[Callable[[], tuple[torch.Tensor, dict[str, float]]]]:
        """One function per micro-batch and trained step: its share of the update's loss, and its metrics."""
        trajectory = part.trajectory
        steps = epoch_steps(self.config, self.seed, trajectory.epoch, len(trajectory.timesteps_K))
        functions: list[Callable[[], tuple[torch.Tensor, dict[str, float]]]] = []
        for start in range(0, len(rows), self.config.micro_batch):
            micro = list(rows[start : start + self.config.micro_batch])
            functions += [functools.partial(self._loss, part, micro, k, len(micro) / len(rows) / len(steps)) for k in steps]
        return functions

    def _loss(self, part: Slice, rows: list[int], k: int, weight: float) -> tuple[torch.Tensor, dict[str, float]]:
        device = self.engine.device
        old_B = torch.from_numpy(part.trajectory.logprobs_old_BK[rows, k]).to(device)
        advantages_B = torch.from_numpy(part.advantages_B[rows]).float().to(device)
        loss, metrics = clipped_ratio(Scored(self._score(part.trajectory, rows, k), old_B, advantages_B, self.config.clip_ratio))
        return loss * weight, {name: value * (1.0 if name in EXTREMES else weight) for name, value in metrics.items()}

    def _score(self, trajectory: Trajectory, rows: list[int], k: int) -> torch.Tensor:
        """Log-probabilities of trained step k under the weights as they are."""
        device = self.engine.device
        prompts = [trajectory.prompts_B[row] for row in rows]
        with torch.no_grad():
            text_BLD = encode_prompts(self.pipe, prompts)
            blank_1LD = encode_prompts(self.pipe, [""]) if self.config.guidance > 1 else None
        latents_BCHW, prev_BCHW = (torch.from_numpy(trajectory.latents_BSCHW[rows, s]).to(device) for s in (k, k + 1))
        t, t_prev = trajectory.timesteps_K[k], trajectory.timesteps_prev_K[k]
        noise_pred_BCHW = predict_noise(self.engine, latents_BCHW, t, text_BLD, blank_1LD, self.config.guidance)
        _, logprobs_B = ddim_step(
            noise_pred_BCHW,
            latents_BCHW,
            t,
            t_prev,
            self.alphas_T1,
            self.config.eta,
            prediction=self.pipe.scheduler.config.prediction_type,
            reduction=self.config.logprob,
            prev_BCHW=prev_BCHW,
        )
        if logprobs_B is None:
            raise ValueError(f"step {t} -> {t_prev} has no log-probability")
        return logprobs_B

    @torch.no_grad()
    def _check_ratio(self, part: Slice) -> None:
        """With weights unchanged since the rollout, scoring again must give the stored log-probabilities.

        Raises:
            RecipeError: naming the worst step: sampling and training do not see the same policy.
        """
        rows = list(range(min(self.config.micro_batch, len(part.trajectory))))
        old_BK = part.trajectory.logprobs_old_BK
        worst = [float((self._score(part.trajectory, rows, k).cpu() - torch.from_numpy(old_BK[rows, k])).exp().sub(1).abs().max())
                 for k in range(len(part.trajectory.timesteps_K))]  # fmt: skip
        k = int(np.argmax(worst))
        if not worst[k] <= self.config.clip_ratio / 10:
            raise RecipeError(
                f"ratio {1 + worst[k]:.6f} at timestep {part.trajectory.timesteps_K[k]} with unchanged weights",
                f"must be 1 within clip_ratio / 10 = {self.config.clip_ratio / 10:g}",
                "use one precision in rollouts and learner, or raise ddpo.clip_ratio",
            )

    def _update(self, epoch: int, part: Slice) -> dict[str, float]:
        """The epoch's policy updates; metrics are means over ranks and updates, but the ratio's extremes."""
        infos, norms = [], []
        for inner in range(self.config.inner_epochs):
            order = np.random.default_rng((_SHUFFLE, self.seed, epoch, inner)).permutation(self.config.updates)
            rows = np.split(np.arange(len(part.trajectory)), self.config.updates)
            for update in order:
                seen: list[dict[str, float]] = []
                info = self.engine.step([self._kept(loss, seen) for loss in self._losses(part, rows[update].tolist())])
                infos.append(seen)
                norms.append(info.grad_norm)
        worst, low, high = ([m[name] for seen in infos for m in seen] for name in EXTREMES)
        extremes = torch.tensor([max(worst), -min(low), max(high)]).to(self.engine.device)
        dist.all_reduce(extremes, op=dist.ReduceOp.MAX)
        sums = torch.tensor([[sum(m[name] for m in seen) for name in MEANS] for seen in infos]).mean(dim=0)
        means = (self.engine.total(sums) / world_size()).tolist()
        return {
            "ratio_deviation": float(extremes[0]),
            "ratio_min": -float(extremes[1]),
            "ratio_max": float(extremes[2]),
            **dict(zip(MEANS, means, strict=True)),
            "grad_norm": float(np.mean(norms)),
        }

    @staticmethod
    def _kept(loss: Callable[[], tuple[torch.Tensor, dict[str, float]]], seen: list[dict[str, float]]) -> Callable[[], torch.Tensor]:
        def run() -> torch.Tensor:
            value, metrics = loss()
            seen.append(metrics)
            return value

        return run
