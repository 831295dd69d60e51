"""Draws of the forward process: what they depend on, where they lie, what they ask the model
for."""

from typing import Any

import pytest
import torch

from boig_core.config import DDPO, load_recipe
from boig_core.diffusion.scoring import Matching, draw_matching

ALPHAS = torch.linspace(0.999, 0.005, 1001)
ALPHAS[-1] = 1.0  # the final one, which index -1 finds
CLEAN = torch.randn((3, 4, 8, 8), generator=torch.Generator().manual_seed(0))


def config(**settings: Any) -> DDPO:
    return load_recipe(
        "tiny",
        ["ddpo.objective=awm", *(f"ddpo.{name}={value}" for name, value in settings.items())],
    ).ddpo


def draw(
    settings: DDPO,
    indices: list[int],
    k: int,
    *,
    seed: int = 0,
    epoch: int = 0,
    prediction: str = "epsilon",
) -> Matching:
    return draw_matching(
        settings, seed, epoch, indices, k, CLEAN[: len(indices)], ALPHAS, prediction
    )


def test_a_draw_depends_on_seed_epoch_index_and_number_alone() -> None:
    settings = config()
    together, alone = draw(settings, [4, 7, 9], 1), draw(settings, [7], 1)
    assert torch.equal(together.target_BCHW[1], alone.target_BCHW[0])
    assert together.t[1] == alone.t[0]
    others = [
        draw(settings, [8], 1),
        draw(settings, [7], 2),
        draw(settings, [7], 1, seed=1),
        draw(settings, [7], 1, epoch=1),
    ]
    for other in others:
        both = torch.stack([alone.target_BCHW.flatten(), other.target_BCHW.flatten()])
        assert abs(float(torch.corrcoef(both)[0, 1])) < 0.25


@pytest.mark.parametrize(("draws", "span"), [(1, 1.0), (3, 0.6), (4, 1.0)])
def test_the_draws_of_an_image_share_the_span_of_timesteps(draws: int, span: float) -> None:
    settings = config(draws=draws, window_span=span)
    for k in range(draws):
        ts = torch.cat([draw(settings, [index], k).t for index in range(200)])
        low, high = (999 - 1000 * span * part / draws for part in (k + 1, k))
        assert low <= ts.min() < low + 100 / draws
        assert high - 100 / draws < ts.max() <= high


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_who_finds_noise_and_image_has_no_loss(prediction: str) -> None:
    result = draw(config(), [0, 1, 2], 0, prediction=prediction)
    alpha = ALPHAS[result.t].reshape(-1, 1, 1, 1)
    noise = (result.sample_BCHW - alpha.sqrt() * CLEAN) / (1 - alpha).sqrt()
    truth = noise if prediction == "epsilon" else alpha.sqrt() * noise - (1 - alpha).sqrt() * CLEAN
    torch.testing.assert_close(result.logprob(truth), torch.zeros(3), rtol=0, atol=1e-6)
    torch.testing.assert_close(
        result.logprob(truth + 0.5), torch.full((3,), -0.25), rtol=0, atol=1e-5
    )
    torch.testing.assert_close(
        result.kl(truth, truth + 0.5), torch.full((3,), 0.25), rtol=0, atol=1e-5
    )
    assert abs(float(noise.mean())) < 0.1
    assert 0.9 < float(noise.std()) < 1.1
