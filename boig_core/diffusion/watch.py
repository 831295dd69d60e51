"""What an epoch of rollouts says about itself: its rewards, advantages and images as one row of
metrics. Pure functions on numpy.

Leaves out the policy update's numbers (`objectives`) and what to do about any of them
(`boig_core.training.monitors`). Shape letters: B images, G groups (prompts of an epoch), N images
of a group, H height, W width, C = 3 channels, P palette, F features.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from boig_core.perception.colors import CELL, NAMES, cell_names

_SIDE: Final = 64
"""Pixels are skipped evenly, but at least this many a side are looked at: shares of colors need no
more."""
_THUMB: Final = 8
"""Side of the thumbnails that are compared: composition and color, not texture."""
_USED: Final = 0.01
"""A palette name counts as used when it covers this share of the epoch's pixels."""
_FLAT: Final = 1e-9


def reward_metrics(
    rewards_B: NDArray[np.float64], advantages_B: NDArray[np.float64], images_per_prompt: int
) -> dict[str, float]:
    """Rewards over the epoch and by prompt, and what the objective made of them.

    Args:
        rewards_B: finite; images of one prompt stand together.
        advantages_B: advantages of the same images.
        images_per_prompt: N; divides B.

    Returns:
        ``reward``, ``reward_std``; ``reward_std_in_prompt`` (mean of the prompts' spreads); spread
        (``reward_std_of_prompts``), smallest, quartiles and largest of the prompts' mean rewards;
        ``advantage_std``; ``groups_without_spread`` (share: all rewards equal, nothing to learn
        from).
    """
    rewards_GN = rewards_B.reshape(-1, images_per_prompt)
    means_G = rewards_GN.mean(axis=1)
    low, q25, median, q75, high = np.quantile(means_G, (0, 0.25, 0.5, 0.75, 1)).tolist()
    return {
        "reward": float(rewards_B.mean()),
        "reward_std": float(rewards_B.std()),
        "reward_std_in_prompt": float(rewards_GN.std(axis=1).mean()),
        "reward_std_of_prompts": float(means_G.std()),
        "reward_prompt_min": low,
        "reward_prompt_q25": q25,
        "reward_prompt_median": median,
        "reward_prompt_q75": q75,
        "reward_prompt_max": high,
        "advantage_std": float(advantages_B.std()),
        "groups_without_spread": float((np.ptp(rewards_GN, axis=1) <= _FLAT).mean()),
    }


def prompt_means(
    rewards_B: NDArray[np.float64], prompts_B: Sequence[str], images_per_prompt: int
) -> list[tuple[str, float]]:
    """Each prompt of an epoch with the mean of its rewards, the best first; images of one prompt
    stand together."""
    means = rewards_B.reshape(-1, images_per_prompt).mean(axis=1).tolist()
    return sorted(
        zip(prompts_B[::images_per_prompt], means, strict=True), key=lambda pair: -pair[1]
    )


def image_metrics(images_BHWC: NDArray[np.uint8], images_per_prompt: int) -> dict[str, float]:
    """How many colors the epoch's images show, and how much the images of one prompt look alike.

    Returns:
        ``color_entropy`` (bits, of the palette names over all pixels; at most log2 of 40),
        ``colors_used``, ``similarity`` (see `similarity_in_prompt`).
    """
    step_h, step_w = (max(1, side // _SIDE) for side in images_BHWC.shape[1:3])
    cells = images_BHWC[:, ::step_h, ::step_w].reshape(-1, 3) // CELL
    counts_P = np.bincount(
        cell_names()[cells[:, 0], cells[:, 1], cells[:, 2]], minlength=len(NAMES)
    )
    shares_P = counts_P / counts_P.sum()
    seen = shares_P[shares_P > 0]
    return {
        # abs and not a minus sign, by which a single color would have an entropy of -0.
        "color_entropy": float(np.abs((seen * np.log2(seen)).sum())),
        "colors_used": float((shares_P >= _USED).sum()),
        "similarity": similarity_in_prompt(images_BHWC, images_per_prompt),
    }


def similarity_in_prompt(images_BHWC: NDArray[np.uint8], images_per_prompt: int) -> float:
    """Mean cosine of 8 x 8 RGB thumbnails, measured from middle gray, over all pairs of different
    images of one prompt; in [-1, 1].

    Raises:
        ValueError: fewer than two images per prompt.
    """
    if images_per_prompt < 2:
        raise ValueError(f"images per prompt: {images_per_prompt}; a pair takes two")
    count, height, width = images_BHWC.shape[:3]
    rows, columns = (
        np.arange(min(_THUMB, side)) * side // min(_THUMB, side) for side in (height, width)
    )
    sums = np.add.reduceat(
        np.add.reduceat(images_BHWC, rows, axis=1, dtype=np.float64), columns, axis=2
    )
    areas = np.diff([*rows, height])[:, None] * np.diff([*columns, width])[None]
    # From middle gray: pixels alone have no negative entries, so any two images would look alike.
    features_BF = (sums / areas[None, :, :, None] - 127.5).reshape(count, -1)
    features_BF /= np.maximum(np.linalg.norm(features_BF, axis=1, keepdims=True), _FLAT)
    features_GNF = features_BF.reshape(-1, images_per_prompt, features_BF.shape[1])
    # |sum of vectors|^2 = their squared lengths + the cosines of all ordered pairs
    pairs_G = (features_GNF.sum(axis=1) ** 2).sum(axis=1) - (features_GNF**2).sum(axis=(1, 2))
    return float((pairs_G / (images_per_prompt * (images_per_prompt - 1))).mean())
