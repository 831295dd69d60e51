"""The DDIM step against diffusers' own, its log-probability against the normal density, and what it
refuses."""

from types import SimpleNamespace

import pytest
import torch
from diffusers import DDIMScheduler
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import Normal

from boig_core.diffusion.ddim import ddim_step, predict, schedule, step_sigma
from boig_core.diffusion.pipeline import Condition
from boig_core.errors import RecipeError


def make_pipe(**config: object) -> SimpleNamespace:
    return SimpleNamespace(
        scheduler=DDIMScheduler(
            num_train_timesteps=1000, clip_sample=False, steps_offset=1, **config
        )
    )


@pytest.fixture
def tensors() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    a, b, c = (torch.randn(2, 4, 8, 8, generator=generator) for _ in range(3))
    return a, b, c


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("set_alpha_to_one", [True, False])
def test_every_step_equals_diffusers(
    tensors: tuple[torch.Tensor, ...], eta: float, set_alpha_to_one: bool
) -> None:
    noise_pred, sample, noise = tensors
    pipe = make_pipe(set_alpha_to_one=set_alpha_to_one)
    timesteps, timesteps_prev, alphas = schedule(pipe, 10)
    for t, t_prev in zip(timesteps, timesteps_prev, strict=True):
        sigma = step_sigma(t, t_prev, alphas, eta)
        expected = pipe.scheduler.step(
            noise_pred, t, sample, eta=eta, variance_noise=noise if eta else None
        ).prev_sample
        got, logprob = ddim_step(
            noise_pred, sample, t, t_prev, alphas, eta, noise_BCHW=noise if sigma > 0 else None
        )
        torch.testing.assert_close(got, expected, atol=2e-5, rtol=1e-4)
        assert (logprob is None) == (sigma == 0)


def test_logprob_is_the_mean_normal_density_and_scoring_equals_sampling(
    tensors: tuple[torch.Tensor, ...],
) -> None:
    noise_pred, sample, noise = tensors
    timesteps, timesteps_prev, alphas = schedule(make_pipe(), 10)
    t, t_prev = timesteps[2], timesteps_prev[2]
    prev, logprob = ddim_step(noise_pred, sample, t, t_prev, alphas, 1.0, noise_BCHW=noise)
    mean, _ = ddim_step(
        noise_pred, sample, t, t_prev, alphas, 1.0, noise_BCHW=torch.zeros_like(noise)
    )
    expected = Normal(mean, step_sigma(t, t_prev, alphas, 1.0)).log_prob(prev).mean(dim=(1, 2, 3))
    assert logprob is not None
    torch.testing.assert_close(logprob, expected, atol=1e-4, rtol=1e-4)
    scored_prev, scored = ddim_step(noise_pred, sample, t, t_prev, alphas, 1.0, prev_BCHW=prev)
    assert scored is not None
    assert torch.equal(scored_prev, prev)
    assert torch.equal(scored, logprob)


def test_gradient_of_the_logprob_points_towards_the_sample(
    tensors: tuple[torch.Tensor, ...],
) -> None:
    noise_pred, sample, noise = tensors
    timesteps, timesteps_prev, alphas = schedule(make_pipe(), 10)
    prev, _ = ddim_step(
        noise_pred, sample, timesteps[1], timesteps_prev[1], alphas, 1.0, noise_BCHW=noise
    )
    noise_pred = noise_pred.clone().requires_grad_()
    _, before = ddim_step(
        noise_pred, sample, timesteps[1], timesteps_prev[1], alphas, 1.0, prev_BCHW=prev
    )
    assert before is not None
    (gradient,) = torch.autograd.grad(before.sum(), noise_pred)
    _, after = ddim_step(
        noise_pred + gradient, sample, timesteps[1], timesteps_prev[1], alphas, 1.0, prev_BCHW=prev
    )
    assert after is not None
    assert bool((after > before).all())


def test_a_deterministic_step_has_no_logprob(tensors: tuple[torch.Tensor, ...]) -> None:
    noise_pred, sample, noise = tensors
    timesteps, timesteps_prev, alphas = schedule(make_pipe(), 10)
    with pytest.raises(ValueError, match="deterministic"):
        ddim_step(noise_pred, sample, timesteps[0], timesteps_prev[0], alphas, 0.0, prev_BCHW=noise)
    with pytest.raises(
        ValueError, match="deterministic"
    ):  # the last step of an eta 1 sampling has no variance either
        ddim_step(noise_pred, sample, timesteps[-1], -1, alphas, 1.0, prev_BCHW=noise)
    with pytest.raises(ValueError, match="stochastic"):
        ddim_step(noise_pred, sample, timesteps[0], timesteps_prev[0], alphas, 1.0)


def test_only_known_predictions_and_possible_step_counts() -> None:
    with pytest.raises(
        RecipeError, match="prediction_type sample: must be one of epsilon, v_prediction"
    ):
        schedule(make_pipe(prediction_type="sample"), 10)
    with pytest.raises(RecipeError, match="1001 sampling steps"):
        schedule(make_pipe(), 1001)


@given(
    trained=st.integers(2, 60),
    steps=st.integers(1, 60),
    spacing=st.sampled_from(["leading", "trailing", "linspace"]),
    offset=st.integers(0, 2),
)
def test_timesteps_are_those_of_training_or_refused(
    trained: int, steps: int, spacing: str, offset: int
) -> None:
    """Whatever is let through falls, and lies among the timesteps that have an alpha."""
    scheduler = DDIMScheduler(
        num_train_timesteps=trained, steps_offset=offset, timestep_spacing=spacing
    )
    try:
        timesteps, timesteps_prev, _ = schedule(SimpleNamespace(scheduler=scheduler), steps)
    except RecipeError:
        own = scheduler.timesteps.tolist()
        assert steps > trained or max(own) >= trained or min(own) < 0 or len(set(own)) < steps
        return
    assert len(timesteps) == steps
    assert timesteps == sorted(set(timesteps), reverse=True)
    assert all(0 <= t < trained for t in timesteps)
    assert timesteps_prev == [*timesteps[1:], -1]


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("offset", [0, 1])
def test_as_many_steps_as_timesteps_are_right_or_refused(spacing: str, offset: int) -> None:
    scheduler = DDIMScheduler(num_train_timesteps=40, steps_offset=offset, timestep_spacing=spacing)
    pipe = SimpleNamespace(scheduler=scheduler)
    if spacing == "leading" and offset:
        with pytest.raises(RecipeError, match=r"from timestep 40 .*steps_offset 1.* knows 0 to 39"):
            schedule(pipe, 40)
    else:
        assert schedule(pipe, 40)[0] == list(range(39, -1, -1))
    with pytest.raises(RecipeError, match="41 sampling steps: must be at most 40"):
        schedule(pipe, 41)


@pytest.mark.parametrize(
    ("eta", "rescale_betas_zero_snr"), [(0.0, False), (1.0, False), (0.0, True), (0.5, True)]
)
def test_v_prediction_equals_diffusers(
    tensors: tuple[torch.Tensor, ...], eta: float, rescale_betas_zero_snr: bool
) -> None:
    v, sample, noise = tensors
    config = {"timestep_spacing": "trailing", "rescale_betas_zero_snr": rescale_betas_zero_snr}
    pipe = make_pipe(prediction_type="v_prediction", set_alpha_to_one=False, **config)
    timesteps, timesteps_prev, alphas = schedule(pipe, 10)
    for t, t_prev in zip(timesteps[:-1], timesteps_prev[:-1], strict=True):
        expected = pipe.scheduler.step(
            v, t, sample, eta=eta, variance_noise=noise if eta else None
        ).prev_sample
        got, _ = ddim_step(
            v,
            sample,
            t,
            t_prev,
            alphas,
            eta,
            prediction="v_prediction",
            noise_BCHW=noise if eta else None,
        )
        torch.testing.assert_close(got, expected, atol=2e-5, rtol=1e-4)


def test_the_sum_is_the_density_itself(tensors: tuple[torch.Tensor, ...]) -> None:
    noise_pred, sample, noise = tensors
    timesteps, timesteps_prev, alphas = schedule(make_pipe(), 10)
    step = (noise_pred, sample, timesteps[2], timesteps_prev[2], alphas, 1.0)
    prev, mean = ddim_step(*step, noise_BCHW=noise)
    _, total = ddim_step(*step, reduction="sum", prev_BCHW=prev)
    assert mean is not None
    assert total is not None
    torch.testing.assert_close(total, mean * noise[0].numel())


def test_guidance_extrapolates_from_the_blank_prompt() -> None:
    def unet(latents: torch.Tensor, t: int, encoder_hidden_states: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(
            sample=latents * 0 + encoder_hidden_states.mean(dim=(1, 2)).reshape(-1, 1, 1, 1)
        )

    latents = torch.zeros(2, 4, 2, 2)
    text, blank = Condition(torch.full((2, 3, 5), 2.0)), Condition(torch.full((1, 3, 5), 1.0))
    assert float(predict(unet, latents, 5, text).mean()) == 2.0
    assert float(predict(unet, latents, 5, text, blank, 3.0).mean()) == 4.0
