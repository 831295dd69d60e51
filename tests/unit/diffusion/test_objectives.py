"""Advantages by hand, the clipped ratio by hand."""

import math

import numpy as np
import pytest
import torch

from boig_core.diffusion.objectives import (
    BUFFER,
    MOST_WEIGHT,
    OBJECTIVES,
    Rewarded,
    Scored,
    clipped_ratio,
    off_policy_weights,
)


def test_grpo_subtracts_the_groups_mean_over_the_batchs_spread() -> None:
    epoch = Rewarded(np.array([1.0, 3.0, 10.0, 14.0]), ["a", "a", "b", "b"], np.array([0, 0, 7, 7]))
    advantages, history = OBJECTIVES["grpo"](epoch)
    np.testing.assert_allclose(advantages, np.array([-1, 1, -2, 2]) / math.sqrt(2.5), rtol=1e-5)
    assert history == {}


def test_grpo_parts_groups_that_share_a_text() -> None:
    epoch = Rewarded(np.array([1.0, 1.0, 5.0, 5.0]), ["a"] * 4, np.array([0, 0, 1, 1]))
    np.testing.assert_array_equal(OBJECTIVES["grpo"](epoch)[0], 0.0)


def test_ddpo_uses_the_prompts_history_once_there_is_enough_and_the_batch_before() -> None:
    known = tuple(float(i) for i in range(20))
    rewards = np.array([30.0, 2.0, 4.0])
    advantages, history = OBJECTIVES["ddpo"](
        Rewarded(rewards, ["known", "new", "new"], np.arange(3), {"known": known})
    )
    buffer = np.array([*known, 30.0])
    np.testing.assert_allclose(advantages[0], (30 - buffer.mean()) / buffer.std(), rtol=1e-5)
    np.testing.assert_allclose(advantages[1], (2 - rewards.mean()) / rewards.std(), rtol=1e-5)
    assert history == {"known": (*known, 30.0), "new": (2.0, 4.0)}


def test_ddpo_forgets_beyond_its_buffer_and_leaves_the_old_history_alone() -> None:
    old = {"p": tuple(float(i) for i in range(BUFFER))}
    _, history = OBJECTIVES["ddpo"](Rewarded(np.array([99.0]), ["p"], np.array([0]), old))
    assert history["p"] == (*(float(i) for i in range(1, BUFFER)), 99.0)
    assert old["p"][0] == 0.0


@pytest.mark.parametrize("name", OBJECTIVES)
def test_advantages_are_clipped_and_zero_when_all_rewards_are_equal(name: str) -> None:
    rewards = np.zeros(400)
    rewards[0] = 1.0
    advantages, _ = OBJECTIVES[name](
        Rewarded(rewards, ["p"] * 400, np.zeros(400, dtype=np.int64), clip=2.0)
    )
    assert advantages.max() == 2.0
    equal, _ = OBJECTIVES[name](Rewarded(np.full(8, 3.0), ["p"] * 8, np.zeros(8, dtype=np.int64)))
    np.testing.assert_array_equal(equal, 0.0)


def test_loss_and_metrics_by_hand() -> None:
    old = torch.zeros(4)
    new = torch.log(torch.tensor([1.0, 1.5, 1.5, 0.5])).requires_grad_()
    advantages = torch.tensor([2.0, 1.0, -1.0, 1.0])
    loss, metrics = clipped_ratio(Scored(new, old, advantages, clip_ratio=0.1))
    # min(r A, clip(r) A): 2, 1.1, -1.5, 0.5
    assert float(loss.detach()) == pytest.approx(-(2 + 1.1 - 1.5 + 0.5) / 4)
    assert metrics["clip_fraction"] == pytest.approx(0.75)
    assert metrics["ratio_deviation"] == pytest.approx(0.5)
    (gradient,) = torch.autograd.grad(loss, new)
    assert gradient[1] == 0.0  # already beyond the clip in the direction of its advantage
    assert gradient[0] < 0 < gradient[2]


def test_weights_of_stale_samples_are_density_ratios_up_to_the_cut() -> None:
    before, after = torch.distributions.Normal(0.0, 1.0), torch.distributions.Normal(0.5, 1.0)
    samples = torch.tensor([[-1.0, 0.0], [0.25, 3.0], [1.5, 400.0]])
    weights = off_policy_weights(after.log_prob(samples).numpy(), before.log_prob(samples).numpy())
    expected = torch.clamp(torch.exp(after.log_prob(samples) - before.log_prob(samples)), max=2.0)
    np.testing.assert_allclose(weights, expected.numpy(), rtol=1e-5)
    assert weights.dtype == np.float32
    assert (weights < MOST_WEIGHT).sum() == 4
    assert weights[2, 1] == pytest.approx(MOST_WEIGHT)
