"""What a policy is scored on: a step of the denoising, or a draw of the forward process; a
prediction of the model gives each its numbers.

A denoising step is a Gaussian (`ddim`): its log-probability is that of the sampled x_{t-1}. A draw
noises the final latents of a rollout again, as pretraining noises images, and scores how well the
model finds what was added: minus the matching loss stands in the place of the log-probability, so
that sampling may be deterministic and only the final latents travel. Advantage-weighted matching
(arXiv 2509.25050) shows that this gradient is DDPO's with less variance; DiffusionNFT (arXiv
2509.16117) takes the forward process too. Leaves out: the model itself, advantages and the clipped
ratio (`objectives`).

    paper                      name here
    x_0, of a rollout          clean_BCHW
    x_t, noised again          sample_BCHW
    epsilon, or v              target_BCHW, as the scheduler's prediction_type says

Shape letters: B images, S latents of a trajectory, K trained steps or draws, C channels, H height,
W width, T training timesteps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
import torch

from boig_core.config import DDPO
from boig_core.diffusion.ddim import Reduction, ddim_step, reduce_latents, step_mean, step_sigma
from boig_core.diffusion.trajectory import Trajectory

_DRAWS: Final = 9  # stream of random numbers, beside those of `rollout` and `learner`


class TrainedStep(Protocol):
    """One trained step of some images: what goes into the model, and what its prediction is
    worth."""

    @property
    def sample_BCHW(self) -> torch.Tensor:
        """What the model sees."""
        ...

    @property
    def t(self) -> int | torch.Tensor:
        """Timestep of all images, or int64 ``t_B``."""
        ...

    def logprob(self, pred_BCHW: torch.Tensor) -> torch.Tensor:
        """``logprobs_B`` of a prediction, with its gradient."""
        ...

    def kl(self, pred_BCHW: torch.Tensor, anchor_BCHW: torch.Tensor) -> torch.Tensor:
        """``kl_B`` of the policy that predicts the one from the policy that predicts the other, at
        least 0."""
        ...


@dataclass(frozen=True)
class Denoising:
    """The step from x_t to the x_{t-1} that was sampled. Attributes as the arguments of
    `ddim.ddim_step`."""

    sample_BCHW: torch.Tensor
    prev_BCHW: torch.Tensor
    t: int
    t_prev: int
    alphas_T1: torch.Tensor
    eta: float
    prediction: str
    reduction: Reduction

    def logprob(self, pred_BCHW: torch.Tensor) -> torch.Tensor:
        """See `TrainedStep`."""
        _, logprobs_B = ddim_step(
            pred_BCHW,
            self.sample_BCHW,
            self.t,
            self.t_prev,
            self.alphas_T1,
            self.eta,
            prediction=self.prediction,
            reduction=self.reduction,
            prev_BCHW=self.prev_BCHW,
        )
        if logprobs_B is None:
            raise ValueError(f"step {self.t} -> {self.t_prev} has no log-probability")
        return logprobs_B

    def kl(self, pred_BCHW: torch.Tensor, anchor_BCHW: torch.Tensor) -> torch.Tensor:
        """See `TrainedStep`. Both steps are Gaussians of one sigma: (mu - mu')^2 / (2 sigma^2) in
        each dimension (DPOK, arXiv 2305.16381)."""
        mean_BCHW, other_BCHW = (
            step_mean(
                pred,
                self.sample_BCHW,
                self.t,
                self.t_prev,
                self.alphas_T1,
                self.eta,
                self.prediction,
            )
            for pred in (pred_BCHW, anchor_BCHW)
        )
        sigma = step_sigma(self.t, self.t_prev, self.alphas_T1, self.eta)
        return reduce_latents((mean_BCHW - other_BCHW) ** 2 / (2 * sigma**2), self.reduction)


@dataclass(frozen=True)
class Matching:
    """A draw of the forward process.

    Attributes:
        sample_BCHW: final latents, noised again.
        t: int64, a timestep for each image.
        target_BCHW: what pretraining would have the model predict.
        reduction: of the squared error over C, H and W.
    """

    sample_BCHW: torch.Tensor
    t: torch.Tensor
    target_BCHW: torch.Tensor
    reduction: Reduction

    def logprob(self, pred_BCHW: torch.Tensor) -> torch.Tensor:
        """Minus the matching loss: but for a constant, the log-density of the target under a
        Gaussian of variance 1/2 around it."""
        return -reduce_latents((pred_BCHW.float() - self.target_BCHW) ** 2, self.reduction)

    def kl(self, pred_BCHW: torch.Tensor, anchor_BCHW: torch.Tensor) -> torch.Tensor:
        """KL of two such Gaussians: the squared difference of the predictions."""
        return reduce_latents((pred_BCHW.float() - anchor_BCHW.float()) ** 2, self.reduction)


def draw_matching(
    config: DDPO,
    seed: int,
    epoch: int,
    indices: Sequence[int],
    draw: int,
    clean_BCHW: torch.Tensor,
    alphas_T1: torch.Tensor,
    prediction: str,
) -> Matching:
    """Noise final latents again, for one of ``config.draws``.

    Noise and timestep of an image come from the CPU and depend on (seed, epoch, index, draw) alone.
    The draws of an image share the first ``config.window_span`` of the timesteps evenly: each lies
    in a part of its own, which spreads the loss less than free draws.
    """
    timesteps = len(alphas_T1) - 1
    noises, ts = [], []
    for index in indices:
        rng = np.random.default_rng((_DRAWS, seed, epoch, index, draw))
        noises.append(torch.from_numpy(rng.standard_normal(clean_BCHW.shape[1:], dtype=np.float32)))
        # Of the way from pure noise, 0, to the image, 1.
        place = (draw + rng.random()) / config.draws * config.window_span
        ts.append(timesteps - 1 - int(place * timesteps))
    noise_BCHW, t_B = torch.stack(noises).to(clean_BCHW.device), torch.tensor(ts)
    alpha_B111 = alphas_T1[t_B].reshape(-1, 1, 1, 1).to(clean_BCHW.device)
    signal_B111, spread_B111 = alpha_B111.sqrt(), (1 - alpha_B111).sqrt()
    target_BCHW = (
        signal_B111 * noise_BCHW - spread_B111 * clean_BCHW
        if prediction == "v_prediction"
        else noise_BCHW
    )
    return Matching(
        signal_B111 * clean_BCHW + spread_B111 * noise_BCHW,
        t_B.to(clean_BCHW.device),
        target_BCHW,
        config.logprob,
    )


def trained_step(
    config: DDPO,
    seed: int,
    trajectory: Trajectory,
    rows: Sequence[int],
    k: int,
    alphas_T1: torch.Tensor,
    prediction: str,
    device: torch.device,
) -> TrainedStep:
    """Trained step, or draw, k of some of a trajectory's images."""
    # By the same key as in the rollout, so with the same noise and timesteps: on other draws a
    # ratio of matching losses would say nothing about the weights.
    if config.forward_process:
        clean_BCHW = torch.from_numpy(trajectory.latents_BSCHW[rows, 0]).to(device)
        indices = trajectory.indices_B[rows].tolist()
        return draw_matching(
            config, seed, trajectory.epoch, indices, k, clean_BCHW, alphas_T1, prediction
        )
    sample_BCHW, prev_BCHW = (
        torch.from_numpy(trajectory.latents_BSCHW[rows, s]).to(device) for s in (k, k + 1)
    )
    t, t_prev = trajectory.timesteps_K[k], trajectory.timesteps_prev_K[k]
    return Denoising(
        sample_BCHW, prev_BCHW, t, t_prev, alphas_T1, config.eta, prediction, config.logprob
    )
