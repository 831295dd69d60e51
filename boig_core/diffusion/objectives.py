"""What DDPO maximizes once rewards are there: advantages by one of two rules, and the clipped
importance ratio. Pure functions.

``ddpo`` holds each reward against the running statistics of its prompt over epochs; ``grpo``
against the mean of its group, the images of one prompt in this epoch, over the spread of the whole
batch; ``awm`` has the advantages of ``grpo``, and differs in what the ratio is of (`scoring`).
Where rollouts are older than the policy that an update starts from, the ratio is against that
policy, and a weight of its own stands for the rest of the way (`off_policy_weights`). Shape
letters: B images, K trained steps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

BUFFER: Final = 32
"""Rewards of a prompt that are remembered."""
ENOUGH: Final = 16
"""With fewer rewards of a prompt, the whole batch's statistics are used (reference code: 16)."""
EXTREMES: Final = ("ratio_deviation", "ratio_min", "ratio_max")
"""Metrics of `clipped_ratio` that are extremes, so that no mean is taken of them."""
MEANS: Final = ("clip_fraction", "clip_fraction_up", "clip_fraction_down", "approx_kl")
"""Metrics of `clipped_ratio` that are means over samples."""
MOST_WEIGHT: Final = 2.0
"""Where the weight of a stale sample is cut off: single samples that the newer policy likes much
better would rule the gradient. Cutting trades a bias for variance (truncated importance sampling,
Ionides 2008; V-trace, arXiv 1802.01561, cuts at 1)."""
# Rewards that are all equal get advantage 0 by it, not NaN.
_TINY: Final = 1e-6


@dataclass(frozen=True)
class Rewarded:
    """An epoch's rewards.

    Attributes:
        rewards_B: float64, finite.
        prompts_B: prompt text of each image.
        groups_B: group of each image: images of one prompt in one epoch.
        history: latest rewards by prompt, of the epochs before.
        clip: largest absolute advantage.
    """

    rewards_B: NDArray[np.float64]
    prompts_B: Sequence[str]
    groups_B: NDArray[np.int64]
    history: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    clip: float = 5.0


Advantages = Callable[[Rewarded], tuple[NDArray[np.float64], dict[str, tuple[float, ...]]]]


def per_prompt(epoch: Rewarded) -> tuple[NDArray[np.float64], dict[str, tuple[float, ...]]]:
    """``ddpo``: (reward - prompt's mean) / prompt's spread, over a buffer of its latest rewards;
    returns the new buffers too."""
    # A copy: a checkpoint that is still on its way may hold the old one.
    history = dict(epoch.history)
    for prompt, reward in zip(epoch.prompts_B, epoch.rewards_B, strict=True):
        # This epoch's rewards join before statistics are taken, as in ddpo-pytorch.
        history[prompt] = (*history.get(prompt, ()), float(reward))[-BUFFER:]
    batch = (float(epoch.rewards_B.mean()), float(epoch.rewards_B.std()))
    stats = {
        prompt: (float(np.mean(history[prompt])), float(np.std(history[prompt])))
        if len(history[prompt]) >= ENOUGH
        else batch
        for prompt in set(epoch.prompts_B)
    }
    mean_B = np.array([stats[prompt][0] for prompt in epoch.prompts_B])
    std_B = np.array([stats[prompt][1] for prompt in epoch.prompts_B])
    return np.clip((epoch.rewards_B - mean_B) / (std_B + _TINY), -epoch.clip, epoch.clip), history


def per_group(epoch: Rewarded) -> tuple[NDArray[np.float64], dict[str, tuple[float, ...]]]:
    """``grpo``: (reward - group's mean) / spread of these differences over the batch; keeps no
    history."""
    # Group numbers may have gaps, and `bincount` counts from 0.
    _, group_B = np.unique(epoch.groups_B, return_inverse=True)
    mean_G = np.bincount(group_B, weights=epoch.rewards_B) / np.bincount(group_B)
    centered_B = epoch.rewards_B - mean_G[group_B]
    # By the batch's spread: by its own, a group whose rewards hardly differ would get advantages as
    # large as any other.
    return np.clip(centered_B / (centered_B.std() + _TINY), -epoch.clip, epoch.clip), {}


OBJECTIVES: Final[Mapping[str, Advantages]] = {
    "ddpo": per_prompt,
    "grpo": per_group,
    "awm": per_group,
}


@dataclass(frozen=True)
class Scored:
    """A micro-batch of one trained step, scored again by the policy in training.

    Attributes:
        logprobs_B: under the policy in training, with gradient.
        logprobs_old_B: under the policy that the update starts from, which sampled unless the
            rollouts are stale.
        advantages_B: advantages.
        clip_ratio: PPO clip.
    """

    logprobs_B: torch.Tensor
    logprobs_old_B: torch.Tensor
    advantages_B: torch.Tensor
    clip_ratio: float


def clipped_ratio(batch: Scored) -> tuple[torch.Tensor, dict[str, float]]:
    """PPO's clipped surrogate, to be minimized, as a mean over the micro-batch.

    Returns:
        loss, and metrics: ``ratio_deviation`` (largest |ratio - 1|), ``ratio_min``, ``ratio_max``;
        shares outside the clip range ``clip_fraction``, above it ``clip_fraction_up``, below it
        ``clip_fraction_down``; ``approx_kl`` (half the mean squared log-ratio).
    """
    log_ratio_B = batch.logprobs_B - batch.logprobs_old_B
    ratio_B = log_ratio_B.exp()
    clipped_B = ratio_B.clamp(1 - batch.clip_ratio, 1 + batch.clip_ratio)
    # The smaller of the two: the gradient ends once a ratio has left the range the way its
    # advantage points, and stays where the step went the wrong way.
    loss = -torch.minimum(ratio_B * batch.advantages_B, clipped_B * batch.advantages_B).mean()
    with torch.no_grad():
        metrics = {
            "ratio_deviation": float((ratio_B - 1).abs().max()),
            "ratio_min": float(ratio_B.min()),
            "ratio_max": float(ratio_B.max()),
            "clip_fraction": float(((ratio_B - 1).abs() > batch.clip_ratio).float().mean()),
            "clip_fraction_up": float((ratio_B - 1 > batch.clip_ratio).float().mean()),
            "clip_fraction_down": float((1 - ratio_B > batch.clip_ratio).float().mean()),
            "approx_kl": float(0.5 * (log_ratio_B**2).mean()),
        }
    return loss, metrics


def off_policy_weights(
    logprobs_start: NDArray[np.float32], logprobs_sampled: NDArray[np.float32]
) -> NDArray[np.float32]:
    """What multiplies the loss of stale samples: min(p_start / p_sampled, `MOST_WEIGHT`), of the
    shape of both.

    The decoupled objective of PPO (arXiv 2110.00641): the clip holds the new policy to where the
    update starts, which the samples are not from, and this weight corrects for that. Ratio times
    weight is the ratio against the policy that sampled, but for the cuts; so for ``awm``, too,
    whose log-ratios are of matching losses in place of the density of the final latents.

    Args:
        logprobs_start: under the policy that the update starts from.
        logprobs_sampled: under the policy that sampled.
    """
    # Cut before the exponential, which could overflow. The bound is np.float32, since numpy's
    # float64 scalars would make the weights float64.
    weights: NDArray[np.float32] = np.exp(
        np.minimum(logprobs_start - logprobs_sampled, np.float32(np.log(MOST_WEIGHT)))
    )
    return weights
