"""DDPO as its public loops are built, one thing after the other in one process, to be measured
beside `learner`.

Each batch is encoded, denoised and decoded; then each batch is scored; then the trajectories are
shuffled, each sample's steps in an order of their own, and every step of a training batch is a
forward and a backward pass, with torch's AdamW after an update's passes. Prompt embeddings stay
with their samples. Steps, window, guidance, batches and objective are the recipe's, so that both
loops ask the UNet for the same passes. Written from the paper and the structure that ddpo-pytorch
and TRL's trainer share. Leaves out: the forward process, which those loops lack, checkpoints,
monitors and several devices. Shape letters: B images, K trained steps, S = K + 1, C channels, H
height, W width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from boig_core.config import Recipe
from boig_core.diffusion.ddim import ddim_step, predict, reduce_latents, schedule
from boig_core.diffusion.findings import Scorer
from boig_core.diffusion.objectives import OBJECTIVES, Rewarded, Scored, clipped_ratio
from boig_core.diffusion.pipeline import Condition, decode, encode_prompts, latent_shape
from boig_core.diffusion.rollout import RolloutChunk, epoch_chunks, epoch_steps
from boig_core.vocabulary import Sample


@dataclass(frozen=True)
class _Sampled:
    """What sampling leaves on the device, with the log-probabilities of the steps that are trained
    on."""

    condition: Condition
    latents_BSCHW: torch.Tensor
    logprobs_BK: torch.Tensor

    def take(self, rows_B: torch.Tensor) -> _Sampled:
        """Some of the images."""
        added = {name: of_B[rows_B] for name, of_B in self.condition.added.items()}
        return _Sampled(
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
        self.config, self.seed, self.pipe, self.samples, self.scorer = (
            recipe.ddpo,
            recipe.seed,
            pipe,
            samples,
            scorer,
        )
        if self.config.forward_process:
            raise ValueError(
                f"objective {self.config.objective} trains on no step of the denoising"
            )
        self.timesteps, self.timesteps_prev, self.alphas_T1 = schedule(
            pipe, self.config.sampling_steps
        )
        self.blank = encode_prompts(pipe, [None]) if self.config.guidance > 1 else None
        self.weights = [
            parameter for parameter in pipe.unet.parameters() if parameter.requires_grad
        ]
        self.optimizer = torch.optim.AdamW(self.weights, lr=self.config.lr, weight_decay=1e-4)
        self.history: dict[str, tuple[float, ...]] = {}

    def epoch(self, number: int) -> list[dict[str, float]]:
        """Sample, score and train; one row of `objectives.clipped_ratio`'s metrics for each forward
        and backward pass."""
        chunks = epoch_chunks(self.config, self.samples, self.seed, number)
        sampled, images = [], []
        for chunk in chunks:
            batch, latents_BCHW = self._sample(chunk)
            sampled.append(batch)
            images.append(decode(self.pipe, latents_BCHW))
        rewards_B = np.concatenate(
            [
                self.scorer.score(seen, chunk.samples)
                for seen, chunk in zip(images, chunks, strict=True)
            ]
        )
        prompts_B = [sample.text for chunk in chunks for sample in chunk.samples]
        groups_B = np.arange(len(prompts_B)) // self.config.images_per_prompt
        rewarded = Rewarded(
            rewards_B, prompts_B, groups_B, self.history, self.config.clip_advantage
        )
        advantages_B, self.history = OBJECTIVES[self.config.objective](rewarded)
        return self._train(
            number,
            chunks[0].window[0],
            _together(sampled),
            torch.from_numpy(advantages_B).float().to(self.pipe.unet.device),
        )

    @torch.no_grad()
    def _sample(self, chunk: RolloutChunk) -> tuple[_Sampled, torch.Tensor]:
        condition = encode_prompts(self.pipe, [sample.text for sample in chunk.samples])
        first, end = chunk.window
        path = [
            torch.randn(
                (len(chunk.samples), *latent_shape(self.pipe)), device=self.pipe.unet.device
            )
        ]
        logprobs = []
        for step, (t, t_prev) in enumerate(zip(self.timesteps, self.timesteps_prev, strict=True)):
            pred_BCHW = predict(
                self.pipe.unet, path[-1], t, condition, self.blank, self.config.guidance
            )
            eta, noise_BCHW = (
                (self.config.eta, torch.randn_like(path[-1]))
                if first <= step < end
                else (0.0, None)
            )
            options: dict[str, Any] = {
                "prediction": self.pipe.scheduler.config.prediction_type,
                "reduction": self.config.logprob,
            }
            latents_BCHW, logprob_B = ddim_step(
                pred_BCHW,
                path[-1],
                t,
                t_prev,
                self.alphas_T1,
                eta,
                noise_BCHW=noise_BCHW,
                **options,
            )
            path.append(latents_BCHW)
            logprobs += [] if logprob_B is None else [logprob_B]
        return _Sampled(
            condition, torch.stack(path[first : end + 1], dim=1), torch.stack(logprobs, dim=1)
        ), path[-1]

    def _train(
        self, number: int, first: int, sampled: _Sampled, advantages_B: torch.Tensor
    ) -> list[dict[str, float]]:
        images, steps = sampled.logprobs_BK.shape
        rows: list[dict[str, float]] = []
        trained = len(epoch_steps(self.config, self.seed, number, steps))
        for _ in range(self.config.inner_epochs):
            order_B = torch.randperm(images)
            shuffled, shuffled_B = sampled.take(order_B), advantages_B[order_B]
            steps_BK = torch.stack([torch.randperm(steps) for _ in range(images)])[:, :trained]
            for update_B in torch.arange(images).chunk(self.config.updates):
                for micro_B in torch.split(update_B, self.config.micro_batch):
                    part = shuffled.take(micro_B)
                    for k_B in steps_BK[micro_B].unbind(dim=1):
                        loss, metrics = self._loss(part, first, k_B, shuffled_B[micro_B])
                        torch.autograd.backward(loss * len(micro_B) / len(update_B) / trained)
                        rows.append(metrics)
                torch.nn.utils.clip_grad_norm_(self.weights, self.config.grad_clip)
                self.optimizer.step()
                self.optimizer.zero_grad()
        return rows

    def _loss(
        self, part: _Sampled, first: int, k_B: torch.Tensor, advantages_B: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """Of one trained step of each image, which may be another for each."""
        rows_B = torch.arange(len(k_B))
        sample_BCHW, prev_BCHW = (
            part.latents_BSCHW[rows_B, k_B],
            part.latents_BSCHW[rows_B, k_B + 1],
        )
        t_B, t_prev_B = (
            torch.tensor(of_T)[first + k_B] for of_T in (self.timesteps, self.timesteps_prev)
        )
        t_device_B = t_B.to(sample_BCHW.device)
        pred_BCHW = predict(
            self.pipe.unet,
            sample_BCHW,
            t_device_B,
            part.condition,
            self.blank,
            self.config.guidance,
        )
        logprobs_B = self._logprobs(pred_BCHW, sample_BCHW, prev_BCHW, t_B, t_prev_B)
        return clipped_ratio(
            Scored(logprobs_B, part.logprobs_BK[rows_B, k_B], advantages_B, self.config.clip_ratio)
        )

    def _logprobs(
        self,
        pred_BCHW: torch.Tensor,
        sample_BCHW: torch.Tensor,
        prev_BCHW: torch.Tensor,
        t_B: torch.Tensor,
        t_prev_B: torch.Tensor,
    ) -> torch.Tensor:
        """As `ddim.ddim_step` scores, with a timestep for each image."""
        alpha, alpha_prev = (
            self.alphas_T1[of_B].reshape(-1, 1, 1, 1).to(sample_BCHW.device)
            for of_B in (t_B, t_prev_B)
        )
        variance = self.config.eta**2 * (1 - alpha_prev) / (1 - alpha) * (1 - alpha / alpha_prev)
        if self.pipe.scheduler.config.prediction_type == "v_prediction":
            clean_BCHW = alpha.sqrt() * sample_BCHW - (1 - alpha).sqrt() * pred_BCHW
            eps_BCHW = alpha.sqrt() * pred_BCHW + (1 - alpha).sqrt() * sample_BCHW
        else:
            clean_BCHW, eps_BCHW = (
                (sample_BCHW - (1 - alpha).sqrt() * pred_BCHW) / alpha.sqrt(),
                pred_BCHW,
            )
        mean_BCHW = (
            alpha_prev.sqrt() * clean_BCHW
            + (1 - alpha_prev - variance).clamp(min=0).sqrt() * eps_BCHW
        )
        return reduce_latents(
            -((prev_BCHW - mean_BCHW) ** 2) / (2 * variance) - 0.5 * (2 * math.pi * variance).log(),
            self.config.logprob,
        )


def _together(parts: Sequence[_Sampled]) -> _Sampled:
    added = {
        name: torch.cat([part.condition.added[name] for part in parts])
        for name in parts[0].condition.added
    }
    condition = Condition(torch.cat([part.condition.text_BLD for part in parts]), added)
    return _Sampled(
        condition,
        torch.cat([part.latents_BSCHW for part in parts]),
        torch.cat([part.logprobs_BK for part in parts]),
    )
