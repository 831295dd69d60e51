"""Divergences, moving averages and stale batches beside the second writing of the formulas."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.distributions import Normal, kl_divergence

from boig_core.config import Recipe
from boig_core.diffusion.policy_update import RankBatch
from boig_core.diffusion.rollout import Sampler
from boig_core.diffusion.trajectory import Trajectory
from boig_core.vocabulary import Sample
from tests.unit.diffusion.reference import (
    AGREEMENT,
    make_learner,
    open_reference,
    reference_logprobs,
    reference_policy,
    reference_predictions,
    roll_out,
    set_ddpo,
)


def move_on(weights: dict[str, torch.Tensor], share: float, generator: torch.Generator) -> None:
    """Noise on weights, a share of their own spread."""
    with torch.no_grad():
        for weight in weights.values():
            spread = share * weight.std(correction=0)
            weight += spread * torch.randn(weight.shape, generator=generator)


def copy_weights(mine: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    with torch.no_grad():
        for name, weight in theirs.items():
            mine[name].copy_(weight)


def largest(gradients: Sequence[torch.Tensor | None]) -> float:
    return max(float(gradient.abs().max()) for gradient in gradients if gradient is not None)


def check_gradients(
    names: Iterable[str],
    mine: Sequence[torch.Tensor | None],
    expected: Sequence[torch.Tensor | None],
) -> None:
    for name, a, b in zip(names, mine, expected, strict=True):
        assert (a is None) == (b is None), name
        if a is not None and b is not None:
            torch.testing.assert_close(a, b, rtol=0, atol=AGREEMENT, msg=name)


def scores(pipe: Any, whole: Trajectory, recipe: Recipe) -> torch.Tensor:
    """Log-probabilities (K, B) of both trained steps, or minus the errors of both draws."""
    if recipe.ddpo.objective == "awm":
        pairs = [reference_predictions(pipe, whole, recipe, k) for k in range(2)]
        return torch.stack(
            [-((answers - noise) ** 2).flatten(1).mean(1) for answers, noise in pairs]
        )
    steps, latents = (
        zip(whole.timesteps_K, whole.timesteps_prev_K, strict=True),
        whole.latents_BSCHW,
    )
    texts = list(whole.prompts_B)
    return torch.stack(
        [
            reference_logprobs(pipe, *ts, latents[:, k], latents[:, k + 1], texts, 1.0, 1.0)
            for k, ts in enumerate(steps)
        ]
    )


def ratios_and_divergences(
    pipe: Any, before: Any, whole: Trajectory, recipe: Recipe
) -> tuple[torch.Tensor, torch.Tensor]:
    """Ratios (K, B) of a policy to the one that sampled, and its divergences from that."""
    ratios_K, divergences_K = [], []
    for k in range(2):
        old = torch.from_numpy(whole.logprobs_old_BK[:, k])
        if recipe.ddpo.objective == "awm":
            answers, noise = reference_predictions(pipe, whole, recipe, k)
            with torch.no_grad():
                anchor, _ = reference_predictions(before, whole, recipe, k)
            ratios_K.append(torch.exp(-((answers - noise) ** 2).flatten(1).mean(1) - old))
            divergences_K.append(
                kl_divergence(Normal(answers, math.sqrt(0.5)), Normal(anchor, math.sqrt(0.5)))
                .flatten(1)
                .mean(1)
            )
        else:
            t, t_prev, x = (
                whole.timesteps_K[k],
                whole.timesteps_prev_K[k],
                whole.latents_BSCHW[:, k],
            )
            policy = reference_policy(pipe, t, t_prev, x, list(whole.prompts_B), 1.0, 1.0)
            with torch.no_grad():
                anchor_policy = reference_policy(
                    before, t, t_prev, x, list(whole.prompts_B), 1.0, 1.0
                )
            ratios_K.append(
                torch.exp(
                    policy.log_prob(torch.from_numpy(whole.latents_BSCHW[:, k + 1]))
                    .flatten(1)
                    .mean(1)
                    - old
                )
            )
            divergences_K.append(kl_divergence(policy, anchor_policy).flatten(1).mean(1))
    return torch.stack(ratios_K), torch.stack(divergences_K)


@pytest.mark.parametrize("objective", ["grpo", "awm"])
def test_gradients_with_a_divergence_from_the_moving_average(
    recipe: Recipe, samples: list[Sample], warmth: Any, tmp_path: Path, objective: str
) -> None:
    """The average is still the policy that sampled; the policy in training has moved on, with
    ratios inside and outside the clip range."""
    weight, decay = 5.0, 0.9
    recipe = set_ddpo(
        recipe, objective=objective, lora_rank=None, kl=weight, anchor="ema", ema=decay, draws=2
    )
    sampler, whole = roll_out(recipe, samples)
    advantages = torch.linspace(-2, 2, len(whole))
    before, pipe = open_reference(), open_reference()
    theirs = dict(pipe.unet.named_parameters())
    move_on(theirs, 3e-2, torch.Generator().manual_seed(5))
    ratios, divergences = ratios_and_divergences(pipe, before, whole, recipe)
    clip = float((ratios.detach() - 1).abs().median())
    surrogates = torch.minimum(ratios * advantages, ratios.clamp(1 - clip, 1 + clip) * advantages)
    divergence = weight * divergences.mean()
    of_divergence = torch.autograd.grad(
        divergence, list(theirs.values()), allow_unused=True, retain_graph=True
    )
    assert largest(of_divergence) > 100 * AGREEMENT
    expected = torch.autograd.grad(
        divergence - surrogates.mean(), list(theirs.values()), allow_unused=True
    )

    learner = make_learner(set_ddpo(recipe, clip_ratio=clip), samples, sampler, warmth, tmp_path)
    mine = dict(learner.pipe.unet.named_parameters())
    copy_weights(mine, theirs)
    result = [
        loss()
        for loss in learner.update.losses(
            RankBatch(whole, advantages.double().numpy()), list(range(len(whole)))
        )
    ]
    got = torch.autograd.grad(
        torch.stack([loss for loss, _ in result]).sum(), list(mine.values()), allow_unused=True
    )
    assert weight * sum(metrics["kl"] for _, metrics in result) == pytest.approx(
        float(divergence.detach()), rel=1e-3
    )
    check_gradients(theirs, got, expected)
    for name, weights in theirs.items():
        # The average was in their place, and is not there any more.
        assert torch.equal(mine[name], weights), name


@pytest.mark.parametrize("objective", ["grpo", "awm"])
def test_gradients_of_a_stale_batch(
    recipe: Recipe, samples: list[Sample], warmth: Any, tmp_path: Path, objective: str
) -> None:
    """One policy sampled, known by its log-probabilities alone; the update starts from a second,
    and this is its gradient at a third. Some weights are cut; half of the ratios, which are against
    the second, are out of the clip range."""
    recipe = set_ddpo(recipe, objective=objective, lora_rank=None, draws=2, ahead=True)
    sampler, whole = roll_out(recipe, samples)
    noise_BK = (
        np.random.default_rng(3)
        .normal(scale=0.7, size=whole.logprobs_old_BK.shape)
        .astype(np.float32)
    )
    whole = replace(whole, logprobs_old_BK=whole.logprobs_old_BK + noise_BK)
    advantages = torch.linspace(-2, 2, len(whole))
    pipe, generator, policies = (
        open_reference(),
        torch.Generator().manual_seed(5),
        list[dict[str, torch.Tensor]](),
    )
    theirs, scored = dict(pipe.unet.named_parameters()), list[torch.Tensor]()
    for _ in range(2):
        move_on(theirs, 2e-2, generator)
        policies.append({name: weights.detach().clone() for name, weights in theirs.items()})
        scored.append(scores(pipe, whole, recipe))
    sampled, start, now = torch.from_numpy(whole.logprobs_old_BK.T), scored[0].detach(), scored[1]
    weights_KB, ratios = torch.exp(start - sampled).clamp(max=2.0), torch.exp(now - start)
    assert 0 < int((weights_KB == 2.0).sum()) < weights_KB.numel() / 2
    clip = float((ratios.detach() - 1).abs().median())
    surrogates = torch.minimum(ratios * advantages, ratios.clamp(1 - clip, 1 + clip) * advantages)
    expected = torch.autograd.grad(
        -(weights_KB * surrogates).mean(), list(theirs.values()), allow_unused=True
    )

    learner = make_learner(set_ddpo(recipe, clip_ratio=clip), samples, sampler, warmth, tmp_path)
    mine = dict(learner.pipe.unet.named_parameters())
    copy_weights(mine, policies[0])
    learner.engine.steps_done = 2
    part = learner.update.recomputed(RankBatch(whole, advantages.double().numpy()))
    np.testing.assert_allclose(
        part.trajectory.logprobs_old_BK.T, start.numpy(), rtol=0, atol=AGREEMENT
    )
    assert part.weights_BK is not None
    np.testing.assert_allclose(part.weights_BK.T, weights_KB.numpy(), rtol=0, atol=AGREEMENT)
    copy_weights(mine, policies[1])
    losses = [loss()[0] for loss in learner.update.losses(part, list(range(len(whole))))]
    got = torch.autograd.grad(torch.stack(losses).sum(), list(mine.values()), allow_unused=True)
    assert largest(expected) > 100 * AGREEMENT
    check_gradients(theirs, got, expected)


def test_the_anchor_of_a_lora_is_the_base_model(
    recipe: Recipe, samples: list[Sample], warmth: Any, tmp_path: Path
) -> None:
    recipe = set_ddpo(recipe, kl=1.0)
    sampler, whole = roll_out(recipe, samples)
    learner = make_learner(recipe, samples, sampler, warmth, tmp_path)
    trained = {name: p for name, p in learner.pipe.unet.named_parameters() if p.requires_grad}
    with torch.no_grad():
        for p in trained.values():
            p += 0.1
    texts, rows, pipe = list(whole.prompts_B), list(range(len(whole))), open_reference()
    for k, (t, t_prev) in enumerate(zip(whole.timesteps_K, whole.timesteps_prev_K, strict=True)):
        step = learner.update.trained_step(whole, rows, k)
        policy = step.logprob(learner.update.predict(step, texts, learner.engine))
        anchor = step.logprob(learner.update.predict_anchor(step, texts))
        with torch.no_grad():
            expected = reference_logprobs(
                pipe,
                t,
                t_prev,
                whole.latents_BSCHW[:, k],
                whole.latents_BSCHW[:, k + 1],
                texts,
                1.0,
                1.0,
            )
        torch.testing.assert_close(anchor, expected, rtol=0, atol=AGREEMENT)
        assert float((policy - anchor).detach().abs().max()) > 100 * AGREEMENT
        assert policy.requires_grad
        assert not anchor.requires_grad
    assert {
        name for name, p in learner.pipe.unet.named_parameters() if p.requires_grad
    } == trained.keys()


def test_the_moving_average_is_what_is_published(
    recipe: Recipe, samples: list[Sample], warmth: Any, tmp_path: Path
) -> None:
    recipe = set_ddpo(recipe, ema=0.7)
    learner = make_learner(recipe, samples, Sampler(recipe), warmth, tmp_path)
    step, policies = learner.engine.step, [learner._policy().weights]

    def recorded(losses: Any) -> Any:
        info = step(losses)
        policies.append(learner._policy().weights)
        return info

    learner.engine.step = recorded  # type: ignore[method-assign]
    published = learner.fit()
    count = len(policies) - 1
    assert count == recipe.ddpo.epochs * recipe.ddpo.updates
    moved = 0.0
    for name, weights in published.weights.items():
        shares = [0.7**count, *(0.3 * 0.7 ** (count - 1 - update) for update in range(count))]
        expected = sum(
            share * policy[name].astype(np.float64)
            for share, policy in zip(shares, policies, strict=True)
        )
        np.testing.assert_allclose(weights, expected, rtol=0, atol=AGREEMENT)
        moved = max(moved, float(np.abs(weights - policies[-1][name]).max()))
    assert moved > 100 * AGREEMENT
