"""The algorithm on one page: DDPO as its public loops are built, one thing after the other, in one
process.

A generator is a policy. Denoising an image is an episode of T actions: at timestep t the policy
takes the latents x_t to x_{t-1}, and how likely it was to take that step is a Gaussian density. The
image at the end earns a reward, and what earned more than its group becomes likelier. An epoch is

1. **sample**: denoise a batch of prompts, keeping each step's latents and log-probability;
2. **score**: ask the reward about the images;
3. **advantage**: say by how much each image beat the others (`objectives.OBJECTIVES`);
4. **update**: score the same steps under the weights as they are now, and climb the clipped ratio
   of the two densities, weighed by the advantage (`objectives.clipped_ratio`).

========  =========================  =============================================================
symbol    name here                  what it is
========  =========================  =============================================================
x_t       ``latents``, ``sample``    latents before the step of timestep t
x_{t-1}   ``prev``                   latents after it
p_old     ``logprobs_BK``            log-density of the step under the weights that took it
p_theta   ``logprobs_B``             the same under the weights as they are now
A         ``advantages_B``           reward against the baseline of the objective
eta       ``config.eta``             how much noise a step adds; without noise there is no density
========  =========================  =============================================================

What runs in production is `learner`, which makes the same updates from rollouts of many processes,
continues after a kill, watches itself, and knows the forward process, too. This loop is what that
is measured beside (`boig bench`): it was written from the paper and the structure that ddpo-pytorch
and TRL's trainer share. Each batch is encoded, denoised and decoded; then each is scored; then the
trajectories are shuffled, each sample's steps in an order of their own, and every step of a
training batch is a forward and a backward pass, with torch's AdamW after an update's passes. Leaves
out: the forward process, checkpoints, monitors and several devices. Shape letters: B images, K
trained steps, S = K + 1 latents, C channels, H height, W width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from boig_core.config import Recipe
from boig_core.diffusion.ddim import ddim_step, predict, reduce_latents, schedule
from boig_core.diffusion.findings import Scorer
from boig_core.diffusion.objectives import OBJECTIVES, Rewarded, Scored, clipped_ratio
from boig_core.diffusion.pipeline import Condition, decode, encode_prompts, latent_shape
from boig_core.diffusion.rollout import RolloutChunk, epoch_chunks, epoch_steps
from boig_core.vocabulary import Sample


@dataclass(frozen=True)
class _Episodes:
    """Denoised batches, as sampling leaves them on the device.

    Attributes:
        condition: the prompts' embeddings.
        latents_BSCHW: before each trained step, and after the last.
        logprobs_BK: of each trained step, under the weights that took it.
    """

    condition: Condition
    latents_BSCHW: torch.Tensor
    logprobs_BK: torch.Tensor

    def take(self, rows_B: torch.Tensor) -> _Episodes:
        """Some of the images."""
        added = {name: of_B[rows_B] for name, of_B in self.condition.added.items()}
        return _Episodes(
            Condition(self.condition.text_BLD[rows_B], added),
            self.latents_BSCHW[rows_B],
            self.logprobs_BK[rows_B],
        )


class Sequential:
    """A training in which nothing overlaps and nothing is remembered.

    Args:
        recipe: its ``ddpo`` is read.
        pipe: whose UNet `lora.make_trainable` prepared; it is trained.
        samples: whose texts are the prompts.
        scorer: gives the rewards.

    Raises:
        ValueError: the objective is one of the forward process.
    """

    def __init__(
        self, recipe: Recipe, pipe: Any, samples: Sequence[Sample], scorer: Scorer
    ) -> None:
        self.config, self.seed = recipe.ddpo, recipe.seed
        self.pipe, self.samples, self.scorer = pipe, samples, scorer
        if self.config.forward_process:
            raise ValueError(
                f"objective {self.config.objective} trains on no step of the denoising"
            )
        self.timesteps, self.timesteps_prev, self.alphas_T1 = schedule(
            pipe, self.config.sampling_steps
        )
        # Text encoders are frozen, so the condition of no prompt is the same in every pass.
        self.blank = encode_prompts(pipe, [None]) if self.config.guidance > 1 else None
        self.weights = [
            parameter for parameter in pipe.unet.parameters() if parameter.requires_grad
        ]
        # The learner's betas, decay and constant rate, so that a comparison of the two loops is
        # about their structure alone.
        self.optimizer = torch.optim.AdamW(self.weights, lr=self.config.lr, weight_decay=1e-4)
        self.history: dict[str, tuple[float, ...]] = {}

    def epoch(self, number: int) -> list[dict[str, float]]:
        """Sample, score, compare, update; one row of `objectives.clipped_ratio`'s metrics for each
        forward and backward pass."""
        chunks = epoch_chunks(self.config, self.samples, self.seed, number)
        episodes, images = self._sample_all(chunks)
        rewards_B = self._score_all(images, chunks)
        advantages_B = self._compare(rewards_B, chunks)
        # All chunks of an epoch share one window, so the first chunk's start is everyone's.
        return self._update(number, chunks[0].window[0], episodes, advantages_B)

    def _sample_all(
        self, chunks: Sequence[RolloutChunk]
    ) -> tuple[_Episodes, list[NDArray[np.uint8]]]:
        """Episodes of all prompts, and the images that they end in, by chunk."""
        parts, images = [], []
        for chunk in chunks:
            episodes, latents_BCHW = self._sample(chunk)
            parts.append(episodes)
            images.append(decode(self.pipe, latents_BCHW))
        return _together(parts), images

    # No gradient goes through a whole denoising: the update scores one step at a time, so that the
    # activations of T passes need not be kept.
    @torch.no_grad()
    def _sample(self, chunk: RolloutChunk) -> tuple[_Episodes, torch.Tensor]:
        """Denoise a chunk of prompts: with noise inside the window of trained steps, which gives
        each of these a density, and without it outside."""
        condition = encode_prompts(self.pipe, [sample.text for sample in chunk.samples])
        first, end = chunk.window
        shape = (len(chunk.samples), *latent_shape(self.pipe))
        # From torch's global generator: nothing is resumed here, and no other process samples, so
        # no noise has to be drawn a second time.
        path = [torch.randn(shape, device=self.pipe.unet.device)]
        logprobs = []
        for step, (t, t_prev) in enumerate(zip(self.timesteps, self.timesteps_prev, strict=True)):
            pred_BCHW = predict(
                self.pipe.unet, path[-1], t, condition, self.blank, self.config.guidance
            )
            trained = first <= step < end
            latents_BCHW, logprob_B = ddim_step(
                pred_BCHW,
                path[-1],
                t,
                t_prev,
                self.alphas_T1,
                self.config.eta if trained else 0.0,
                noise_BCHW=torch.randn_like(path[-1]) if trained else None,
                prediction=self.pipe.scheduler.config.prediction_type,
                reduction=self.config.logprob,
            )
            path.append(latents_BCHW)
            if logprob_B is not None:
                logprobs.append(logprob_B)
        # K trained steps lie between K + 1 latents: step k leads from entry k to entry k + 1.
        window = torch.stack(path[first : end + 1], dim=1)
        return _Episodes(condition, window, torch.stack(logprobs, dim=1)), path[-1]

    def _score_all(
        self, images: Sequence[NDArray[np.uint8]], chunks: Sequence[RolloutChunk]
    ) -> NDArray[np.float64]:
        """The reward of each image."""
        return np.concatenate(
            [
                self.scorer.score(of_chunk, chunk.samples)
                for of_chunk, chunk in zip(images, chunks, strict=True)
            ]
        )

    def _compare(
        self, rewards_B: NDArray[np.float64], chunks: Sequence[RolloutChunk]
    ) -> torch.Tensor:
        """The advantage of each image: its reward against its group's, or its prompt's history."""
        prompts_B = [sample.text for chunk in chunks for sample in chunk.samples]
        # By place and not by text: `epoch_chunks` puts a group's images in a row, and two groups of
        # an epoch may share a text.
        groups_B = np.arange(len(prompts_B)) // self.config.images_per_prompt
        rewarded = Rewarded(
            rewards_B, prompts_B, groups_B, self.history, self.config.clip_advantage
        )
        advantages_B, self.history = OBJECTIVES[self.config.objective](rewarded)
        # In float32, like the log-probabilities: a float64 factor would make the whole loss
        # float64.
        return torch.from_numpy(advantages_B).float().to(self.pipe.unet.device)

    def _update(
        self, number: int, first: int, episodes: _Episodes, advantages_B: torch.Tensor
    ) -> list[dict[str, float]]:
        """Train on every episode: `updates` optimizer steps in each inner epoch, each over equal
        shares of the shuffled images and of some of their steps."""
        images, steps = episodes.logprobs_BK.shape
        rows: list[dict[str, float]] = []
        trained = len(epoch_steps(self.config, self.seed, number, steps))
        # p_old stays that of the sampling for all updates: after the first one the ratio leaves 1,
        # and the clip bounds how far it pays to go.
        for _ in range(self.config.inner_epochs):
            # Neighbors are images of one prompt: in their order an update would see few prompts.
            order_B = torch.randperm(images)
            shuffled, shuffled_B = episodes.take(order_B), advantages_B[order_B]
            # Each image in an order of its own, so that no batch is of one timestep.
            steps_BK = torch.stack([torch.randperm(steps) for _ in range(images)])[:, :trained]
            for update_B in torch.arange(images).chunk(self.config.updates):
                for micro_B in torch.split(update_B, self.config.micro_batch):
                    part = shuffled.take(micro_B)
                    for k_B in steps_BK[micro_B].unbind(dim=1):
                        loss, metrics = self._loss(part, first, k_B, shuffled_B[micro_B])
                        # Gradients add up over the passes. These shares make the sum a mean over
                        # the update's images and trained steps, whatever the micro-batch.
                        torch.autograd.backward(loss * len(micro_B) / len(update_B) / trained)
                        rows.append(metrics)
                torch.nn.utils.clip_grad_norm_(self.weights, self.config.grad_clip)
                self.optimizer.step()
                self.optimizer.zero_grad()
        return rows

    def _loss(
        self, part: _Episodes, first: int, k_B: torch.Tensor, advantages_B: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """The clipped ratio of one trained step of each image, which may be another for each."""
        rows_B = torch.arange(len(k_B))
        sample_BCHW = part.latents_BSCHW[rows_B, k_B]
        prev_BCHW = part.latents_BSCHW[rows_B, k_B + 1]
        # k counts from the start of the window, `timesteps` from pure noise.
        t_B = torch.tensor(self.timesteps)[first + k_B]
        t_prev_B = torch.tensor(self.timesteps_prev)[first + k_B]
        pred_BCHW = predict(
            self.pipe.unet,
            sample_BCHW,
            t_B.to(sample_BCHW.device),
            part.condition,
            self.blank,
            self.config.guidance,
        )
        logprobs_B = self._logprobs(pred_BCHW, sample_BCHW, prev_BCHW, t_B, t_prev_B)
        logprobs_old_B = part.logprobs_BK[rows_B, k_B]
        return clipped_ratio(
            Scored(logprobs_B, logprobs_old_B, advantages_B, self.config.clip_ratio)
        )

    def _logprobs(
        self,
        pred_BCHW: torch.Tensor,
        sample_BCHW: torch.Tensor,
        prev_BCHW: torch.Tensor,
        t_B: torch.Tensor,
        t_prev_B: torch.Tensor,
    ) -> torch.Tensor:
        """Log-density of a step that was taken, as `ddim.ddim_step` gives it, with a timestep for
        each image."""
        alpha = self.alphas_T1[t_B].reshape(-1, 1, 1, 1).to(sample_BCHW.device)
        alpha_prev = self.alphas_T1[t_prev_B].reshape(-1, 1, 1, 1).to(sample_BCHW.device)
        # Never 0, which the density divides by: the window ends before the last step, whose
        # alpha_prev may be 1.
        variance = self.config.eta**2 * (1 - alpha_prev) / (1 - alpha) * (1 - alpha / alpha_prev)
        # v gives both without dividing by the root of alpha, which is 0 at the first step of a
        # schedule of zero terminal SNR.
        if self.pipe.scheduler.config.prediction_type == "v_prediction":
            clean_BCHW = alpha.sqrt() * sample_BCHW - (1 - alpha).sqrt() * pred_BCHW
            eps_BCHW = alpha.sqrt() * pred_BCHW + (1 - alpha).sqrt() * sample_BCHW
        else:
            clean_BCHW = (sample_BCHW - (1 - alpha).sqrt() * pred_BCHW) / alpha.sqrt()
            eps_BCHW = pred_BCHW
        # At eta 1 and alpha 0 the difference is 0. Rounding may take it below, and its root would
        # be NaN.
        towards_BCHW = (1 - alpha_prev - variance).clamp(min=0).sqrt() * eps_BCHW
        mean_BCHW = alpha_prev.sqrt() * clean_BCHW + towards_BCHW
        return reduce_latents(
            -((prev_BCHW - mean_BCHW) ** 2) / (2 * variance) - 0.5 * (2 * math.pi * variance).log(),
            self.config.logprob,
        )


def _together(parts: Sequence[_Episodes]) -> _Episodes:
    """Batches as one."""
    added = {
        name: torch.cat([part.condition.added[name] for part in parts])
        for name in parts[0].condition.added
    }
    condition = Condition(torch.cat([part.condition.text_BLD for part in parts]), added)
    return _Episodes(
        condition,
        torch.cat([part.latents_BSCHW for part in parts]),
        torch.cat([part.logprobs_BK for part in parts]),
    )
