"""DDPO beside a second writing of it: plain torch from the papers' formulas (DDIM eq. 12 and 16,
DDPO's clipped importance sampling, matching on the forward process, divergences and moving
averages).

The reference opens the model with diffusers, works out the noise schedule in float64, and shares no
function with `boig_core.diffusion`.
"""

import math
from collections import deque
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from torch.distributions import Normal, kl_divergence

from boig_core.config import Recipe
from boig_core.diffusion.learner import Learner
from boig_core.diffusion.lora import read_adapter
from boig_core.diffusion.objectives import OBJECTIVES, Rewarded
from boig_core.diffusion.policy_update import RankBatch
from boig_core.diffusion.rollout import LocalRollouts, Sampler, epoch_chunks
from boig_core.diffusion.trajectory import Trajectory, concatenate
from boig_core.models import resolve_model
from boig_core.training.checkpoint import Checkpoints
from boig_core.vocabulary import Sample

AGREEMENT = 1e-5
RATIO_MEAN = 2e-6
"""float32, CPU, mean over latent dimensions: what another composition of the batch may change in a
ratio."""
RATIO_SUM = 256 * RATIO_MEAN
"""The same for the sum: a log-ratio grows by the number of latent dimensions, here 4 x 8 x 8."""
RATIO_BF16 = 1e-4
"""The same for the mean in bfloat16 in sampling and scoring alike, its LoRA in float32: a tenth of
the default clip, which the start-up check asks for. The CPU it was measured on gave 0."""


def open_reference() -> Any:
    folder = resolve_model("package:tiny-sd")
    return StableDiffusionPipeline.from_pretrained(
        folder, safety_checker=None, requires_safety_checker=False
    ).to(dtype=torch.float32)


def reference_policy(
    pipe: Any, t: int, t_prev: int, x: Any, texts: list[str], eta: float, guidance: float
) -> Normal:
    config = pipe.scheduler.config
    betas = (
        np.linspace(config.beta_start**0.5, config.beta_end**0.5, config.num_train_timesteps) ** 2
    )
    bars = np.cumprod(1 - betas)
    a, a_prev = float(bars[t]), float(bars[t_prev])  # a trained step is never the last one
    with torch.no_grad():
        tokens = [
            pipe.tokenizer(
                text,
                padding="max_length",
                max_length=pipe.tokenizer.model_max_length,
                truncation=True,
            ).input_ids
            for text in [*texts, ""]
        ]
        embedded = pipe.text_encoder(torch.tensor(tokens)).last_hidden_state
    x = torch.as_tensor(x)
    eps = pipe.unet(x, t, encoder_hidden_states=embedded[:-1]).sample
    if guidance != 1:
        blank = pipe.unet(
            x, t, encoder_hidden_states=embedded[-1:].expand(len(texts), -1, -1)
        ).sample
        eps = (1 - guidance) * blank + guidance * eps
    sigma = eta * math.sqrt((1 - a_prev) / (1 - a)) * math.sqrt(1 - a / a_prev)
    mean = (
        math.sqrt(a_prev / a) * x
        + (math.sqrt(1 - a_prev - sigma**2) - math.sqrt(a_prev * (1 - a) / a)) * eps
    )
    return Normal(mean, sigma)


def reference_logprobs(
    pipe: Any,
    t: int,
    t_prev: int,
    x: Any,
    x_prev: Any,
    texts: list[str],
    eta: float,
    guidance: float,
) -> torch.Tensor:
    return (
        reference_policy(pipe, t, t_prev, x, texts, eta, guidance)
        .log_prob(torch.as_tensor(x_prev))
        .flatten(1)
        .mean(1)
    )


def set_ddpo(recipe: Recipe, **settings: Any) -> Recipe:
    return recipe.model_copy(update={"ddpo": recipe.ddpo.model_copy(update=settings)})


def roll_out(recipe: Recipe, samples: list[Sample]) -> tuple[Sampler, Trajectory]:
    sampler = Sampler(recipe)
    adapter = read_adapter(sampler.pipe.unet, 0)
    return sampler, concatenate(
        [
            sampler.rollout(adapter, chunk)
            for chunk in epoch_chunks(recipe.ddpo, samples, recipe.seed, 0)
        ]
    )


def make_learner(
    recipe: Recipe, samples: list[Sample], sampler: Sampler, scorer: Any, folder: Path
) -> Learner:
    return Learner(
        recipe,
        samples,
        LocalRollouts(sampler, scorer),
        Checkpoints(str(folder), 1),
        lambda *_: None,
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


def reference_draw(
    recipe: Recipe, index: int, draw: int, shape: tuple[int, ...]
) -> tuple[torch.Tensor, int]:
    """Noise, then a place in this draw's share of the span: the stream of (9, seed, epoch 0, index,
    draw)."""
    rng = np.random.default_rng((9, recipe.seed, 0, index, draw))
    noise = torch.from_numpy(rng.standard_normal(shape, dtype=np.float32))
    return noise, 999 - math.floor(
        1000 * recipe.ddpo.window_span * (draw + rng.random()) / recipe.ddpo.draws
    )


def reference_predictions(
    pipe: Any, whole: Trajectory, recipe: Recipe, k: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """What a UNet says of every image's noise in draw k, one image at a time, and the noise."""
    config = pipe.scheduler.config
    bars = np.cumprod(
        1
        - np.linspace(config.beta_start**0.5, config.beta_end**0.5, config.num_train_timesteps) ** 2
    )
    answers, noises = [], []
    for text, index, clean in zip(
        whole.prompts_B,
        whole.indices_B.tolist(),
        torch.from_numpy(whole.latents_BSCHW[:, -1]),
        strict=True,
    ):
        noise, t = reference_draw(recipe, index, k, tuple(clean.shape))
        noisy = math.sqrt(bars[t]) * clean + math.sqrt(1 - bars[t]) * noise
        with torch.no_grad():
            tokens = pipe.tokenizer(
                text,
                padding="max_length",
                max_length=pipe.tokenizer.model_max_length,
                truncation=True,
            ).input_ids
            embedded = pipe.text_encoder(torch.tensor([tokens])).last_hidden_state
        answers.append(pipe.unet(noisy[None], t, encoder_hidden_states=embedded).sample[0])
        noises.append(noise)
    return torch.stack(answers), torch.stack(noises)


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
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for weights in theirs.values():
            weights += (
                3e-2 * weights.std(correction=0) * torch.randn(weights.shape, generator=generator)
            )
    ratios_K, divergences_K = [], []
    for k in range(2):
        old = torch.from_numpy(whole.logprobs_old_BK[:, k])
        if objective == "awm":
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
    ratios, divergences = torch.stack(ratios_K), torch.stack(divergences_K)
    clip = float((ratios.detach() - 1).abs().median())
    surrogates = torch.minimum(ratios * advantages, ratios.clamp(1 - clip, 1 + clip) * advantages)
    divergence = weight * divergences.mean()
    of_divergence = torch.autograd.grad(
        divergence, list(theirs.values()), allow_unused=True, retain_graph=True
    )
    assert (
        max(float(gradient.abs().max()) for gradient in of_divergence if gradient is not None)
        > 100 * AGREEMENT
    )
    expected = torch.autograd.grad(
        divergence - surrogates.mean(), list(theirs.values()), allow_unused=True
    )

    learner = make_learner(set_ddpo(recipe, clip_ratio=clip), samples, sampler, warmth, tmp_path)
    mine = dict(learner.pipe.unet.named_parameters())
    with torch.no_grad():
        for name, weights in theirs.items():
            mine[name].copy_(weights)
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
    for name, a, b in zip(theirs, got, expected, strict=True):
        assert (a is None) == (b is None), name
        if a is not None and b is not None:
            torch.testing.assert_close(a, b, rtol=0, atol=AGREEMENT, msg=name)
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

    def scores(pipe: Any) -> torch.Tensor:
        if objective == "awm":
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

    pipe, generator, policies = (
        open_reference(),
        torch.Generator().manual_seed(5),
        list[dict[str, torch.Tensor]](),
    )
    theirs, scored = dict(pipe.unet.named_parameters()), list[torch.Tensor]()
    for _ in range(2):
        with torch.no_grad():
            for weights in theirs.values():
                weights += (
                    2e-2
                    * weights.std(correction=0)
                    * torch.randn(weights.shape, generator=generator)
                )
        policies.append({name: weights.detach().clone() for name, weights in theirs.items()})
        scored.append(scores(pipe))
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

    def move(weights: dict[str, torch.Tensor]) -> None:
        with torch.no_grad():
            for name, weight in weights.items():
                mine[name].copy_(weight)

    move(policies[0])
    learner.engine.steps_done = 2
    part = learner.update.recomputed(RankBatch(whole, advantages.double().numpy()))
    np.testing.assert_allclose(
        part.trajectory.logprobs_old_BK.T, start.numpy(), rtol=0, atol=AGREEMENT
    )
    assert part.weights_BK is not None
    np.testing.assert_allclose(part.weights_BK.T, weights_KB.numpy(), rtol=0, atol=AGREEMENT)
    move(policies[1])
    losses = [loss()[0] for loss in learner.update.losses(part, list(range(len(whole))))]
    got = torch.autograd.grad(torch.stack(losses).sum(), list(mine.values()), allow_unused=True)
    assert (
        max(float(gradient.abs().max()) for gradient in expected if gradient is not None)
        > 100 * AGREEMENT
    )
    for name, a, b in zip(theirs, got, expected, strict=True):
        assert (a is None) == (b is None), name
        if a is not None and b is not None:
            torch.testing.assert_close(a, b, rtol=0, atol=AGREEMENT, msg=name)


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
