"""One DDIM step, sampled or scored by the same few lines, so that sampling and training can never
disagree about the policy.

With eta > 0 a step is a Gaussian policy; its log-probability is the mean over latent dimensions, or
their sum. A deterministic step has none. The model predicts epsilon or v. Leaves out: which steps
are stochastic and where the noise comes from (`rollout`).

    paper                      name here
    x_t                        sample_BCHW
    x_{t-1}                    prev_BCHW
    epsilon_theta(x_t, t)      eps_BCHW, from the model's output pred_BCHW
    alpha-bar_t, _{t-1}        alpha, alpha_prev      (products over the noise schedule, as DDIM
                               writes alpha)
    predicted x_0              clean_BCHW
    mu_theta, sigma_t          mean_BCHW, sigma
    log p_theta(x_{t-1}|x_t)   logprob_B

Shape letters: B batch, C channels, H height, W width, T training timesteps.
"""

from __future__ import annotations

import itertools
import math
from typing import Any, Literal

import torch
from diffusers.models.embeddings import get_timestep_embedding

from boig_core.diffusion.pipeline import Condition
from boig_core.errors import RecipeError
from boig_core.models.sd_settings import PREDICTIONS

Reduction = Literal["mean", "sum"]


def schedule(pipe: Any, steps: int) -> tuple[list[int], list[int], torch.Tensor]:
    """Timesteps of a sampling, their successors, and alphas to index with both.

    Args:
        pipe: pipeline with a `DDIMScheduler`.
        steps: denoising steps.

    Returns:
        timesteps (falling), timesteps_prev (the last is -1), alphas_T1 whose last entry is the
        final alpha, so that index -1 finds it.

    Raises:
        RecipeError: a model that predicts neither epsilon nor v, or steps that its schedule does
            not hold.
    """
    config = pipe.scheduler.config
    if config.prediction_type not in PREDICTIONS:
        rule = f"must be one of {', '.join(PREDICTIONS)}"
        raise RecipeError(
            f"prediction_type {config.prediction_type}", rule, "use a Stable Diffusion model"
        )
    if steps > config.num_train_timesteps:
        raise RecipeError(
            f"{steps} sampling steps",
            f"must be at most {config.num_train_timesteps}",
            "lower sampling_steps",
        )
    pipe.scheduler.set_timesteps(steps)
    timesteps = [int(t) for t in pipe.scheduler.timesteps]
    _check_timesteps(timesteps, steps, config)
    alphas_T1 = torch.cat(
        [
            pipe.scheduler.alphas_cumprod.float(),
            pipe.scheduler.final_alpha_cumprod.reshape(1).float(),
        ]
    )
    return timesteps, [*timesteps[1:], -1], alphas_T1


def _check_timesteps(timesteps: list[int], steps: int, config: Any) -> None:
    """Refuse timesteps that the model was not trained at: an index beyond the last alpha would
    find that of the image, and one below the first, too."""
    last = config.num_train_timesteps - 1
    falling = all(t > after for t, after in itertools.pairwise(timesteps))
    if len(timesteps) == steps and falling and timesteps[-1] >= 0 and timesteps[0] <= last:
        return
    spacing = f"timestep_spacing {config.timestep_spacing}, steps_offset {config.steps_offset}"
    raise RecipeError(
        f"{steps} sampling steps",
        f"go from timestep {timesteps[0]} to {timesteps[-1]} in {len(timesteps)} ({spacing}), and the model knows 0 to {last}",
        "lower sampling_steps",
    )


def step_sigma(t: int, t_prev: int, alphas_T1: torch.Tensor, eta: float) -> float:
    """Standard deviation of a step's noise; 0 for a deterministic one."""
    # Python's floats are float64. Alphas of neighboring steps may be nearly equal, and the last
    # difference would lose digits in float32.
    alpha, alpha_prev = float(alphas_T1[t]), float(alphas_T1[t_prev])
    return eta * math.sqrt((1 - alpha_prev) / (1 - alpha) * (1 - alpha / alpha_prev))


def ddim_step(
    pred_BCHW: torch.Tensor,
    sample_BCHW: torch.Tensor,
    t: int,
    t_prev: int,
    alphas_T1: torch.Tensor,
    eta: float,
    *,
    prediction: str = "epsilon",
    reduction: Reduction = "mean",
    prev_BCHW: torch.Tensor | None = None,
    noise_BCHW: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Go from x_t to x_{t-1}.

    Args:
        pred_BCHW: the model's output, from `predict`.
        sample_BCHW: x_t.
        t: timestep of ``sample_BCHW``.
        t_prev: timestep to go to; -1 for the image itself.
        alphas_T1: from `schedule`.
        eta: 1 for the DDPO policy, 0 for plain DDIM.
        prediction: the scheduler's prediction_type, one of `PREDICTIONS`.
        reduction: of the log-density over C, H and W.
        prev_BCHW: an x_{t-1} sampled earlier: score it instead of sampling.
        noise_BCHW: standard normal noise for sampling with eta > 0.

    Returns:
        x_{t-1} in float32, and ``logprob_B``: log-density of x_{t-1}, mean or sum over C, H and W;
        None for a deterministic step.

    Raises:
        ValueError: a log-probability or noise for a deterministic step, or a stochastic step
            without noise: errors of the caller.
    """
    sigma = step_sigma(t, t_prev, alphas_T1, eta)
    mean_BCHW = step_mean(pred_BCHW, sample_BCHW, t, t_prev, alphas_T1, eta, prediction)
    # Exactly 0, not nearly: eta is 0, or alpha_prev is 1, as it may be at the last step.
    if sigma == 0.0:
        if prev_BCHW is not None or noise_BCHW is not None:
            raise ValueError(
                f"step {t} -> {t_prev} with eta {eta} is deterministic: it has no log-probability and takes no noise"
            )
        return mean_BCHW, None
    if prev_BCHW is None:
        if noise_BCHW is None:
            raise ValueError(
                f"step {t} -> {t_prev} with eta {eta} is stochastic: give its noise, or the sample to score"
            )
        prev_BCHW = mean_BCHW + sigma * noise_BCHW
    # The step is data. Through a fresh sample its distance from the mean is the noise alone, and
    # the gradient would vanish.
    prev_BCHW = prev_BCHW.detach()
    logprob_BCHW = (
        -((prev_BCHW - mean_BCHW) ** 2) / (2 * sigma**2)
        - math.log(sigma)
        - 0.5 * math.log(2 * math.pi)
    )
    return prev_BCHW, reduce_latents(logprob_BCHW, reduction)


def step_mean(
    pred_BCHW: torch.Tensor,
    sample_BCHW: torch.Tensor,
    t: int,
    t_prev: int,
    alphas_T1: torch.Tensor,
    eta: float,
    prediction: str,
) -> torch.Tensor:
    """mu_theta in float32: where a step leads before its noise is added. Arguments as in
    `ddim_step`."""
    alpha, alpha_prev = float(alphas_T1[t]), float(alphas_T1[t_prev])
    sigma = step_sigma(t, t_prev, alphas_T1, eta)
    # In float32: bfloat16's numbers lie 0.4 to 0.8 % apart, and a clip range of 0.1 % would drown
    # in their rounding.
    eps_BCHW, sample_BCHW = pred_BCHW.float(), sample_BCHW.float()
    if (
        prediction == "v_prediction"
    ):  # no division: a schedule of zero terminal SNR starts at alpha 0
        clean_BCHW = math.sqrt(alpha) * sample_BCHW - math.sqrt(1 - alpha) * eps_BCHW
        eps_BCHW = math.sqrt(alpha) * eps_BCHW + math.sqrt(1 - alpha) * sample_BCHW
    else:
        clean_BCHW = (sample_BCHW - math.sqrt(1 - alpha) * eps_BCHW) / math.sqrt(alpha)
    return (
        math.sqrt(alpha_prev) * clean_BCHW
        # At eta 1 and alpha 0 the difference is 0, and rounding may take it below.
        + math.sqrt(max(0.0, 1 - alpha_prev - sigma**2)) * eps_BCHW
    )


def reduce_latents(values_BCHW: torch.Tensor, reduction: Reduction) -> torch.Tensor:
    """Mean or sum over C, H and W: ``values_B``."""
    return (
        values_BCHW.mean(dim=(1, 2, 3)) if reduction == "mean" else values_BCHW.sum(dim=(1, 2, 3))
    )


def predict(
    unet: Any,
    latents_BCHW: torch.Tensor,
    t: int | torch.Tensor,
    condition: Condition,
    blank: Condition | None = None,
    guidance: float = 1.0,
) -> torch.Tensor:
    """The UNet's epsilon or v under classifier-free guidance, in float32.

    One forward pass without guidance, one of twice the batch with it; one pass, too, of a UNet that
    was distilled to take the strength of guidance as an input.

    Args:
        unet: a diffusers UNet, or an engine around it.
        latents_BCHW: x_t.
        t: timestep of all images, or int64 ``t_B``.
        condition: of the prompts, from `encode_prompts`.
        blank: the one row of no prompt; only used when ``guidance`` exceeds 1.
        guidance: 1 for the conditional prediction alone.
    """
    # Latents stay float32 between steps. The UNet takes them in its own precision, which is that of
    # the condition.
    latents_BCHW = latents_BCHW.to(condition.text_BLD.dtype)
    strength = _strength_input(unet, latents_BCHW, guidance)
    # At 1 the blank prediction cancels out, so half of a double pass would be for nothing.
    if guidance == 1.0 or strength:
        plain_BCHW: torch.Tensor = unet(latents_BCHW, t, **condition.inputs, **strength).sample
        return plain_BCHW.float()
    if blank is None:
        raise ValueError("guidance above 1 needs the condition of no prompt")
    both = t.repeat(2) if isinstance(t, torch.Tensor) else t
    both_BCHW = unet(
        torch.cat([latents_BCHW, latents_BCHW]), both, **condition.after(blank).inputs
    ).sample
    # In float32, since guidance multiplies the small difference of the two, its rounding included.
    blank_BCHW, cond_BCHW = both_BCHW.float().chunk(2)
    guided_BCHW: torch.Tensor = blank_BCHW + guidance * (cond_BCHW - blank_BCHW)
    return guided_BCHW


def _strength_input(
    unet: Any, latents_BCHW: torch.Tensor, guidance: float
) -> dict[str, torch.Tensor]:
    """The strength of guidance as diffusers' own pipelines embed it, for a UNet that takes it."""
    config = getattr(getattr(unet, "module", unet), "config", None)
    width = getattr(config, "time_cond_proj_dim", None)
    if width is None:
        return {}
    strength_B = torch.full((len(latents_BCHW),), 1000.0 * (guidance - 1))
    return {"timestep_cond": get_timestep_embedding(strength_B, width).to(latents_BCHW)}
