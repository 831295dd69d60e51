"""Metrics of an epoch: known rewards and images give known numbers."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from boig_core.diffusion.objectives import Scored, clipped_ratio
from boig_core.diffusion.watch import (
    image_metrics,
    prompt_means,
    reward_metrics,
    similarity_in_prompt,
)


def test_rewards_by_prompt_and_groups_without_spread() -> None:
    rewards_B = np.array([1.0, 1.0, 0.0, 4.0])
    values = reward_metrics(rewards_B, np.array([0.0, 0.0, -2.0, 2.0]), 2)
    assert (values["reward"], values["reward_prompt_min"], values["reward_prompt_max"]) == (
        1.5,
        1.0,
        2.0,
    )
    assert values["reward_std_in_prompt"] == 1.0
    assert values["reward_std_of_prompts"] == 0.5
    assert values["groups_without_spread"] == 0.5
    assert values["advantage_std"] == pytest.approx(2**0.5)


def test_each_prompt_has_its_mean_the_best_first() -> None:
    means = prompt_means(np.array([1.0, 1.0, 0.0, 4.0]), ("a ball", "a ball", "a box", "a box"), 2)
    assert means == [("a box", 2.0), ("a ball", 1.0)]


def test_one_color_has_no_entropy_and_two_have_a_bit() -> None:
    red, blue = (np.full((2, 16, 16, 3), rgb, np.uint8) for rgb in ((255, 0, 0), (0, 0, 255)))
    alone = image_metrics(red, 2)
    assert (alone["color_entropy"], alone["colors_used"]) == (0, 1)
    assert alone["similarity"] == pytest.approx(1)
    both = image_metrics(np.concatenate([red, blue]), 2)
    assert both["color_entropy"] == pytest.approx(1)
    assert both["colors_used"] == 2


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 4), st.sampled_from([(5, 7), (8, 8), (20, 17)]))
def test_similarity_is_the_mean_cosine_of_pairs(
    seed: int, per_prompt: int, size: tuple[int, int]
) -> None:
    images = np.random.default_rng(seed).integers(
        0, 256, (2 * per_prompt, *size, 3), dtype=np.uint8
    )
    value = similarity_in_prompt(images, per_prompt)
    assert -1 <= value < 1
    assert similarity_in_prompt(images[::-1], per_prompt) == pytest.approx(value)
    if max(size) <= 8:  # each pixel is its own thumbnail cell
        flat = images.reshape(2, per_prompt, -1) - 127.5
        cosines = [
            float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
            for g in flat
            for i, a in enumerate(g)
            for b in g[:i]
        ]
        assert value == pytest.approx(np.mean(cosines))


def test_clipping_is_counted_by_side() -> None:
    ratios_B = torch.tensor([0.5, 0.8, 1.0, 1.05, 2.0])
    _, values = clipped_ratio(Scored(ratios_B.log(), torch.zeros(5), torch.ones(5), 0.1))
    assert values["clip_fraction_up"] == pytest.approx(0.2)
    assert values["clip_fraction_down"] == pytest.approx(0.4)
    assert values["clip_fraction"] == pytest.approx(0.6)
    assert (values["ratio_min"], values["ratio_max"]) == (pytest.approx(0.5), pytest.approx(2.0))
