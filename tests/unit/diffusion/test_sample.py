"""Evaluation sampling: the image of a prompt and seed does not depend on what else is sampled."""

import numpy as np
import pytest

from boig_core.config import Recipe
from boig_core.diffusion.pipeline import load_pipeline
from boig_core.diffusion.sample import sample_images


def test_an_image_is_its_prompt_and_seed_alone(recipe: Recipe) -> None:
    pipe = load_pipeline(recipe.sd.base)
    prompts = ["a red ball", "a blue star", "a green ring"]
    together = sample_images(pipe, prompts, [1, 2, 3], 4, 3.0, batch=2)
    alone = sample_images(pipe, ["a green ring"], [3], 4, 3.0, batch=2)
    assert together.shape[0] == 3
    assert together.dtype == np.uint8
    assert np.array_equal(together[2], alone[0])
    assert not np.array_equal(
        together[2], sample_images(pipe, ["a green ring"], [4], 4, 3.0, batch=2)[0]
    )
    assert not np.array_equal(
        together[2], sample_images(pipe, ["a red ball"], [3], 4, 3.0, batch=2)[0]
    )


def test_counts_must_agree(recipe: Recipe) -> None:
    pipe = load_pipeline(recipe.sd.base)
    with pytest.raises(ValueError, match="2 prompts and 1 seeds"):
        sample_images(pipe, ["a", "b"], [1], 4, 1.0)
    with pytest.raises(ValueError, match="no prompts"):
        sample_images(pipe, [], [], 4, 1.0)
