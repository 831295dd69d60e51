"""DDPO beside a second writing of it: plain torch from the papers' formulas (DDIM eq. 12 and 16,
DDPO's clipped importance sampling, matching on the forward process, divergences and moving
averages).

The reference opens the model with diffusers, works out the noise schedule in float64, and shares no
function with `boig_core.diffusion`.
"""

import math
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from boig_core.config import Recipe
from boig_core.diffusion.lora import read_adapter
from boig_core.diffusion.objectives import OBJECTIVES, Rewarded
from boig_core.diffusion.policy_update import RankBatch
from boig_core.diffusion.rollout import Sampler, epoch_chunks
from boig_core.vocabulary import Sample
from tests.unit.diffusion.reference import (
    AGREEMENT,
    RATIO_BF16,
    RATIO_MEAN,
    RATIO_SUM,
    make_learner,
    open_reference,
    reference_logprobs,
    reference_predictions,
    roll_out,
    set_ddpo,
)


@pytest.mark.parametrize(("eta", "guidance"), [(1.0, 1.0), (0.6, 3.0)])
def test_logprobs_of_a_rollout(
    recipe: Recipe, samples: list[Sample], eta: float, guidance: float
) -> None:
    _, whole = roll_out(
        set_ddpo(recipe, lora_rank=None, window=None, eta=eta, guidance=guidance), samples
    )
    pipe = open_reference()
    steps = recipe.ddpo.sampling_steps
    # "trailing" spacing, the model's own.
    spaced = np.round(np.arange(1000, 0, -1000 / steps)).astype(int) - 1
    assert whole.timesteps_K == tuple(spaced[:-1])
    assert whole.timesteps_prev_K == tuple(spaced[1:])
    for k, (t, t_prev) in enumerate(zip(whole.timesteps_K, whole.timesteps_prev_K, strict=True)):
        with torch.no_grad():
            x, x_prev = whole.latents_BSCHW[:, k], whole.latents_BSCHW[:, k + 1]
            expected = reference_logprobs(
                pipe, t, t_prev, x, x_prev, list(whole.prompts_B), eta, guidance
            )
        np.testing.assert_allclose(
            whole.logprobs_old_BK[:, k], expected.numpy(), rtol=0, atol=AGREEMENT
        )


def test_gradients_of_an_epoch(
    recipe: Recipe, samples: list[Sample], warmth: Any, tmp_path: Path
) -> None:
    """Away from the policy that sampled, so that ratios differ from 1; half of them lie outside the
    clip range."""
    recipe = set_ddpo(recipe, lora_rank=None, guidance=2.0)
    sampler, whole = roll_out(recipe, samples)
    advantages = np.linspace(-2, 2, len(whole))
    pipe = open_reference()
    theirs = dict(pipe.unet.named_parameters())
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for weights in theirs.values():
            weights += (
                1e-2 * weights.std(correction=0) * torch.randn(weights.shape, generator=generator)
            )
    ratios_K = []
    for k, (t, t_prev) in enumerate(zip(whole.timesteps_K, whole.timesteps_prev_K, strict=True)):
        x, x_prev = whole.latents_BSCHW[:, k], whole.latents_BSCHW[:, k + 1]
        new_B = reference_logprobs(pipe, t, t_prev, x, x_prev, list(whole.prompts_B), 1.0, 2.0)
        ratios_K.append(torch.exp(new_B - torch.from_numpy(whole.logprobs_old_BK[:, k])))
    clip = float(np.median([abs(float(ratio) - 1) for ratio in torch.cat(ratios_K).detach()]))
    assert clip > 1e-5
    surrogates = []
    for ratio_B in ratios_K:
        for ratio, advantage in zip(ratio_B, advantages.tolist(), strict=True):
            # the gradient vanishes where the ratio has left the range in the direction of its
            # advantage
            outside = ratio > 1 + clip if advantage > 0 else ratio < 1 - clip
            surrogates.append(ratio.detach() * advantage if outside else ratio * advantage)
    assert 0 < sum(not surrogate.requires_grad for surrogate in surrogates) < len(surrogates)
    expected = torch.autograd.grad(
        -torch.stack(surrogates).mean(), list(theirs.values()), allow_unused=True
    )

    learner = make_learner(set_ddpo(recipe, clip_ratio=clip), samples, sampler, warmth, tmp_path)
    mine = dict(learner.pipe.unet.named_parameters())
    with torch.no_grad():
        for name, weights in theirs.items():
            mine[name].copy_(weights)
    order = [5, 0, 7, 2, 1, 6, 3, 4]
    losses = [
        loss()[0]
        for loss in learner.update.losses(
            RankBatch(whole.take(order), advantages[order]), list(range(len(order)))
        )
    ]
    got = torch.autograd.grad(torch.stack(losses).sum(), list(mine.values()), allow_unused=True)
    assert (
        max(float(gradient.abs().max()) for gradient in expected if gradient is not None)
        > 100 * AGREEMENT
    )
    for name, a, b in zip(theirs, got, expected, strict=True):
        assert (a is None) == (b is None), name
        if a is not None and b is not None:
            torch.testing.assert_close(a, b, rtol=0, atol=AGREEMENT, msg=name)


def test_advantages_of_several_epochs() -> None:
    generator = np.random.default_rng(8)
    buffers: dict[str, deque[float]] = {}
    history: dict[str, tuple[float, ...]] = {}
    for epoch in range(8):
        prompts = [f"p{(epoch + i // 6) % 5}" for i in range(18)]
        rewards = generator.normal(size=18) * (1 + epoch) + epoch
        got, history = OBJECTIVES["ddpo"](
            Rewarded(rewards, prompts, np.arange(18) // 6, history, clip=1.5)
        )
        for prompt, reward in zip(prompts, rewards, strict=True):
            buffers.setdefault(prompt, deque(maxlen=32)).append(float(reward))
        for i, prompt in enumerate(prompts):
            seen = list(buffers[prompt]) if len(buffers[prompt]) >= 16 else rewards.tolist()
            mean = math.fsum(seen) / len(seen)
            spread = math.sqrt(math.fsum((r - mean) ** 2 for r in seen) / len(seen))
            assert got[i] == pytest.approx(
                max(-1.5, min(1.5, (rewards[i] - mean) / (spread + 1e-6))), abs=AGREEMENT
            )


@pytest.mark.parametrize(
    ("logprob", "dtype", "bound"),
    [
        ("mean", "float32", RATIO_MEAN),
        ("sum", "float32", RATIO_SUM),
        ("mean", "bfloat16", RATIO_BF16),
    ],
)
def test_unchanged_weights_give_ratio_1_in_shuffled_minibatches(
    recipe: Recipe,
    samples: list[Sample],
    warmth: Any,
    tmp_path: Path,
    logprob: str,
    dtype: str,
    bound: float,
) -> None:
    recipe = set_ddpo(recipe, logprob=logprob, chunk=8).model_copy(
        update={"sd": recipe.sd.model_copy(update={"dtype": dtype})}
    )
    sampler = Sampler(recipe)
    learner = make_learner(recipe, samples, sampler, warmth, tmp_path)
    whole = sampler.rollout(
        read_adapter(sampler.pipe.unet, 0), epoch_chunks(recipe.ddpo, samples, recipe.seed, 0)[0]
    )
    order = np.random.default_rng(2).permutation(len(whole))
    worst = 0.0
    for rows in (order[:1], order[1:4], order[4:]):
        for k in range(len(whole.timesteps_K)):
            with torch.no_grad():
                scored_B = learner.update.score(whole, rows.tolist(), k).double()
            worst = max(
                worst,
                float(
                    (scored_B - torch.from_numpy(whole.logprobs_old_BK[rows, k]))
                    .expm1()
                    .abs()
                    .max()
                ),
            )
    assert worst <= bound


def test_matching_losses_of_a_rollout(recipe: Recipe, samples: list[Sample]) -> None:
    recipe = set_ddpo(recipe, objective="awm", lora_rank=None, draws=2, window_span=0.9)
    _, whole = roll_out(recipe, samples)
    assert whole.latents_BSCHW.shape[1] == 1
    assert whole.logprobs_old_BK.shape == (8, 2)
    pipe = open_reference()
    for k in range(2):
        with torch.no_grad():
            answers, noise = reference_predictions(pipe, whole, recipe, k)
        expected = -((answers - noise) ** 2).flatten(1).mean(1)
        np.testing.assert_allclose(
            whole.logprobs_old_BK[:, k], expected.numpy(), rtol=0, atol=AGREEMENT
        )
