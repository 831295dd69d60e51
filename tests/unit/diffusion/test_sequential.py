"""The loop that boig is measured against asks for the same passes and learns: its ratios start at 1
and its reward climbs."""

from typing import Any

import numpy as np
import pytest
import torch

from boig_core.config import Recipe
from boig_core.diffusion.bench import passes
from boig_core.diffusion.lora import make_trainable
from boig_core.diffusion.pipeline import load_base
from boig_core.diffusion.sequential import Sequential
from boig_core.vocabulary import Sample


def make(recipe: Recipe, samples: list[Sample], scorer: Any) -> Sequential:
    torch.manual_seed(0)
    pipe = load_base(recipe.sd)
    make_trainable(pipe.unet, recipe.ddpo.lora_rank, recipe.seed)
    return Sequential(recipe, pipe, samples, scorer)


def set_ddpo(recipe: Recipe, **settings: Any) -> Recipe:
    return recipe.model_copy(update={"ddpo": recipe.ddpo.model_copy(update=settings)})


@pytest.mark.parametrize(
    "settings",
    [{"guidance": 2.0}, {"timestep_fraction": 0.5, "objective": "ddpo", "micro_batch": 3}],
)
def test_it_asks_for_the_same_passes_and_starts_at_ratio_1(
    recipe: Recipe, samples: list[Sample], warmth: Any, settings: dict[str, Any]
) -> None:
    recipe = set_ddpo(recipe, updates=1, **settings)
    loop = make(recipe, samples, warmth)
    calls = {True: 0, False: 0}

    def count(module: Any, inputs: Any, output: Any) -> None:
        calls[output.sample.requires_grad] += 1

    loop.pipe.unet.register_forward_hook(count)
    before = [weight.detach().clone() for weight in loop.weights]
    rows = loop.epoch(0)
    asked = passes(
        recipe.ddpo, max(1, round(recipe.ddpo.timestep_fraction * recipe.ddpo.trained_steps))
    )
    assert calls == {False: asked.forward, True: asked.backward}
    assert len(rows) == asked.backward
    assert max(row["ratio_deviation"] for row in rows) < 1e-5  # before the only update
    assert any(not torch.equal(old, new) for old, new in zip(before, loop.weights, strict=True))


def test_its_reward_climbs(recipe: Recipe, samples: list[Sample], warmth: Any) -> None:
    means = []

    class Kept:
        def score(self, images: Any, samples: list[Sample]) -> Any:
            rewards = warmth.score(images, samples)
            means.append(float(np.mean(rewards)))
            return rewards

    loop = make(
        set_ddpo(recipe, prompts=4, images_per_prompt=8, chunk=32, micro_batch=16, updates=2),
        samples,
        Kept(),
    )
    for number in range(6):
        loop.epoch(number)
    assert np.mean(means[-2:]) > np.mean(means[:2]) + 0.02


def test_the_forward_process_is_refused(recipe: Recipe, samples: list[Sample], warmth: Any) -> None:
    with pytest.raises(ValueError, match="objective awm trains on no step"):
        make(set_ddpo(recipe, objective="awm"), samples, warmth)
