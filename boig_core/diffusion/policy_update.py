"""The update of an epoch: what one rank makes of its share of the rollouts.

Each trained step of a micro-batch is scored under the weights as they are, by the same function
that sampled it, and its clipped ratio to the log-probability of then, weighed by the advantage, is
the loss; a divergence from the base model or the moving average joins it. Leaves out: where
rollouts come from and when (see `learner`), the objectives (`objectives`), and what a step is
scored on (`scoring`). Shape letters: B images of this rank, K trained steps or draws, C channels, H
height, W width.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray

from boig_core.config import DDPO
from boig_core.diffusion.ddim import predict, schedule
from boig_core.diffusion.lora import (
    Adapter,
    base_model,
    other_weights,
)
from boig_core.diffusion.objectives import (
    EXTREMES,
    MEANS,
    Scored,
    clipped_ratio,
    off_policy_weights,
)
from boig_core.diffusion.pipeline import Prompts
from boig_core.diffusion.rollout import epoch_steps, made_on
from boig_core.diffusion.scoring import TrainedStep, trained_step
from boig_core.diffusion.state import Average
from boig_core.diffusion.trajectory import Trajectory
from boig_core.errors import RecipeError
from boig_core.observability.logs import get_logger
from boig_core.training.engine import Engine
from boig_core.training.ranks import world_size

log = get_logger(__name__)
SHUFFLE = 4  # stream of random numbers, beside those of `rollout`


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


class PolicyUpdate:
    """The weights that are trained, and how rollouts change them; the same on every rank.

    Args:
        config: what is trained on, and how far one update may go.
        seed: of the shuffles.
        pipe: whose UNet the engine trains.
        engine: holds optimizer and ranks.
        average: moving average of the weights; None: there is none.
    """

    def __init__(
        self, config: DDPO, seed: int, pipe: Any, engine: Engine, average: Average | None
    ) -> None:
        self.config, self.seed, self.pipe = config, seed, pipe
        self.engine, self.average = engine, average
        self.condition = Prompts(pipe)
        self.alphas_T1 = schedule(pipe, config.sampling_steps)[2]

    def run(self, epoch: int, part: RankBatch) -> dict[str, float]:
        """The epoch's policy updates; metrics are means over ranks and updates, but the ratio's
        extremes."""
        infos, norms = [], []
        for inner in range(self.config.inner_epochs):
            # The same order on all ranks, which share each update. Updates move and keep their
            # images, so that micro-batches stay those in which `recomputed` scored them.
            order = np.random.default_rng((SHUFFLE, self.seed, epoch, inner)).permutation(
                self.config.updates
            )
            rows = np.split(np.arange(len(part.trajectory)), self.config.updates)
            for update in order:
                seen: list[dict[str, float]] = []
                info = self.engine.step(
                    [self._kept(loss, seen) for loss in self.losses(part, rows[update].tolist())]
                )
                # On each rank and without a message: after a step all ranks hold the same weights.
                if self.average is not None:
                    self.average.update()
                infos.append(seen)
                norms.append(info.grad_norm)
        worst, low, high = ([m[name] for seen in infos for m in seen] for name in EXTREMES)
        # The minimum goes negated, so that one MAX serves all three.
        extremes = torch.tensor([max(worst), -min(low), max(high)]).to(self.engine.device)
        dist.all_reduce(extremes, op=dist.ReduceOp.MAX)
        names = (*MEANS, "kl") if self.config.kl else MEANS
        # `_loss` weighs each pass by its share of the update, so that a sum over passes is a mean.
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

    def is_stale(self, part: RankBatch) -> bool:
        """Whether other weights sampled than the update starts from."""
        return part.trajectory.version != self.engine.steps_done

    @torch.no_grad()
    def recomputed(self, part: RankBatch) -> RankBatch:
        """The slice with old log-probabilities under the weights as they are, in the batches of the
        updates; weighted if it is stale."""
        old_BK = part.trajectory.logprobs_old_BK.copy()
        # In the micro-batches of the updates: in a batch of another make-up a GPU may round
        # otherwise, and the first ratios would not be exactly 1.
        for rows in np.split(np.arange(len(part.trajectory)), self.config.updates):
            for micro in self._micro_batches(rows.tolist()):
                for k in range(old_BK.shape[1]):
                    old_BK[micro, k] = self.score(part.trajectory, micro, k).cpu().numpy()
        weights_BK = (
            off_policy_weights(old_BK, part.trajectory.logprobs_old_BK)
            if self.is_stale(part)
            else None
        )
        return replace(
            part, trajectory=replace(part.trajectory, logprobs_old_BK=old_BK), weights_BK=weights_BK
        )

    def staleness(self, part: RankBatch) -> dict[str, float]:
        """How far an epoch's rollouts are off policy: updates since they were asked for; mean and
        maximum of their weights, over ranks."""
        # Rollouts on policy count with weight 1 and skip nothing: every rank must reach both sums.
        weights = np.ones(1, np.float32) if part.weights_BK is None else part.weights_BK
        mean = float(self.engine.total(torch.tensor(weights.mean(dtype=np.float64)))) / world_size()
        largest = torch.tensor(float(weights.max())).to(self.engine.device)
        dist.all_reduce(largest, op=dist.ReduceOp.MAX)
        return {
            "off_policy_updates": float(self.engine.steps_done - part.trajectory.version),
            "off_policy_weight": mean,
            "off_policy_weight_max": float(largest),
        }

    @torch.no_grad()
    def check_ratio(self, part: RankBatch, ahead: Adapter | None) -> None:
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
        # One micro-batch, since each costs a pass per step; rows are shuffled over all chunks.
        rows = list(range(min(self.config.micro_batch, len(trajectory))))
        old_BK = torch.from_numpy(trajectory.logprobs_old_BK)
        sampled_by = ahead.tensors() if self.is_stale(part) and ahead is not None else None
        with nullcontext() if sampled_by is None else other_weights(self.pipe.unet, sampled_by):
            scored_K = [self.score(trajectory, rows, k).cpu() for k in range(old_BK.shape[1])]
        worst = [
            float((scored_B - old_BK[rows, k]).exp().sub(1).abs().max())
            for k, scored_B in enumerate(scored_K)
        ]
        k = int(np.argmax(worst))
        # An error as large as the clip range would clip samples before any weight has moved, so it
        # must be well inside. NaN fails the comparison, too.
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

    def losses(
        self, part: RankBatch, rows: Sequence[int]
    ) -> list[Callable[[], tuple[torch.Tensor, dict[str, float]]]]:
        """One function per micro-batch and trained step: its share of the update's loss, and its
        metrics."""
        trajectory = part.trajectory
        steps = epoch_steps(self.config, self.seed, trajectory.epoch, self.config.trained_steps)
        # Functions and not tensors, so that the engine holds the activations of one pass at a time.
        functions: list[Callable[[], tuple[torch.Tensor, dict[str, float]]]] = []
        for micro in self._micro_batches(rows):
            functions += [
                # The engine adds losses up: these shares make the sum a mean over images and steps.
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
        step = self.trained_step(part.trajectory, rows, k)
        prompts = [part.trajectory.prompts_B[row] for row in rows]
        # Before the pass with a gradient, so that the anchor's pass does not run beside the
        # activations which that one keeps.
        anchor_BCHW = self.predict_anchor(step, prompts) if self.config.kl else None
        pred_BCHW = self.predict(step, prompts, self.engine)
        loss, metrics = clipped_ratio(
            Scored(step.logprob(pred_BCHW), old_B, advantages_B, self.config.clip_ratio)
        )
        if anchor_BCHW is not None:
            kl = step.kl(pred_BCHW, anchor_BCHW).mean()
            loss, metrics["kl"] = loss + self.config.kl * kl, float(kl.detach())
        return loss * weight, {
            name: value * (1.0 if name in EXTREMES else weight) for name, value in metrics.items()
        }

    def score(self, trajectory: Trajectory, rows: list[int], k: int) -> torch.Tensor:
        """Log-probabilities of trained step k under the weights as they are."""
        step = self.trained_step(trajectory, rows, k)
        return step.logprob(
            self.predict(step, [trajectory.prompts_B[row] for row in rows], self.engine)
        )

    def trained_step(self, trajectory: Trajectory, rows: list[int], k: int) -> TrainedStep:
        """Trained step k of these images, with all that scoring it needs."""
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

    def predict(self, step: TrainedStep, prompts: list[str], unet: Any) -> torch.Tensor:
        """What a UNet predicts at a step, with the recipe's guidance."""
        condition = self.condition(prompts)
        blank = self.condition([None]) if self.config.guidance > 1 else None
        return predict(unet, step.sample_BCHW, step.t, condition, blank, self.config.guidance)

    @torch.no_grad()
    def predict_anchor(self, step: TrainedStep, prompts: list[str]) -> torch.Tensor:
        """What the base model, or the moving average, predicts."""
        if self.config.anchor == "ema" and self.average is not None:
            with other_weights(self.pipe.unet, self.average.weights):
                return self.predict(step, prompts, self.pipe.unet)
        with base_model(self.pipe.unet):
            return self.predict(step, prompts, self.pipe.unet)

    @staticmethod
    def _kept(
        loss: Callable[[], tuple[torch.Tensor, dict[str, float]]], seen: list[dict[str, float]]
    ) -> Callable[[], torch.Tensor]:
        def run() -> torch.Tensor:
            value, metrics = loss()
            seen.append(metrics)
            return value

        return run
