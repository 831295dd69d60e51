"""Rollouts: what an epoch is made of, the same bits for the same chunk, and trajectories that score
to ratio 1."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from boig_core.config import Recipe, load_recipe
from boig_core.diffusion.ddim import predict
from boig_core.diffusion.lora import Adapter, checksum, read_adapter
from boig_core.diffusion.pipeline import encode_prompts
from boig_core.diffusion.rollout import (
    Sampler,
    draw_noise,
    epoch_chunks,
    epoch_samples,
    epoch_steps,
    epoch_window,
)
from boig_core.errors import RecipeError
from boig_core.vocabulary import Sample


def test_each_pass_sees_every_sample_once_and_depends_on_seed_and_epoch(
    samples: list[Sample],
) -> None:
    first_pass = [s.id for epoch in range(7) for s in epoch_samples(samples, 0, epoch, 3)]
    assert sorted(first_pass[:7]) == sorted(s.id for s in samples)
    assert sorted(first_pass[7:14]) == sorted(s.id for s in samples)
    assert first_pass[:7] != first_pass[7:14]
    assert [s.id for s in epoch_samples(samples, 0, 3, 3)] == first_pass[9:12]
    assert [s.id for epoch in range(7) for s in epoch_samples(samples, 1, epoch, 3)] != first_pass


def test_windows_cover_the_span_and_never_the_last_step() -> None:
    config = load_recipe(
        "tiny", ["ddpo.sampling_steps=10", "ddpo.window=3", "ddpo.window_span=0.6"]
    ).ddpo
    windows = {epoch_window(config, 0, epoch) for epoch in range(200)}
    assert windows == {(0, 3), (1, 4), (2, 5), (3, 6)}
    whole = load_recipe(
        "tiny", ["ddpo.sampling_steps=4", "ddpo.window=3", "ddpo.window_span=1.0"]
    ).ddpo
    assert {epoch_window(whole, 0, epoch) for epoch in range(20)} == {(0, 3)}
    assert epoch_window(
        load_recipe("tiny", ["ddpo.sampling_steps=4", "ddpo.window=null"]).ddpo, 0, 0
    ) == (0, 3)
    with pytest.raises(RecipeError, match="the last step has no noise"):
        load_recipe("tiny", ["ddpo.sampling_steps=4", "ddpo.window=4", "ddpo.window_span=1.0"])


def test_chunks_are_fixed_and_groups_are_consecutive(recipe: Recipe, samples: list[Sample]) -> None:
    chunks = epoch_chunks(recipe.ddpo, samples, 0, 5)
    assert [chunk.indices for chunk in chunks] == [(0, 1, 2, 3), (4, 5, 6, 7)]
    texts = [s.text for chunk in chunks for s in chunk.samples]
    assert texts[0::2] == texts[1::2]
    assert len(set(texts)) == 4


def test_noise_depends_on_each_key_alone() -> None:
    base = draw_noise(0, 0, 0, 3, (4, 8, 8))
    assert torch.equal(base, draw_noise(0, 0, 0, 3, (4, 8, 8)))
    assert torch.equal(base[:2], draw_noise(0, 0, 0, 2, (4, 8, 8)))
    for other in ((1, 0, 0), (0, 1, 0), (0, 0, 1)):
        assert (
            abs(
                float(
                    torch.corrcoef(
                        torch.stack([base.flatten(), draw_noise(*other, 3, (4, 8, 8)).flatten()])
                    )[0, 1]
                )
            )
            < 0.2
        )


def test_a_chunk_gives_the_same_bits_in_any_process_and_order(
    recipe: Recipe, samples: list[Sample]
) -> None:
    first, second = Sampler(recipe), Sampler(recipe)
    adapter = read_adapter(first.pipe.unet, 0)
    assert read_adapter(second.pipe.unet, 0).checksum == adapter.checksum
    chunks = epoch_chunks(recipe.ddpo, samples, recipe.seed, 0)
    forward = [first.rollout(adapter, chunk) for chunk in chunks]
    backward = [second.rollout(adapter, chunk) for chunk in reversed(chunks)][::-1]
    for a, b in zip(forward, backward, strict=True):
        assert np.array_equal(a.latents_BSCHW, b.latents_BSCHW)
        assert np.array_equal(a.logprobs_old_BK, b.logprobs_old_BK)
        assert np.array_equal(a.images_BHWC, b.images_BHWC)
    assert not np.array_equal(forward[0].images_BHWC, forward[1].images_BHWC)
    assert forward[0].latents_BSCHW.shape[:2] == (4, recipe.ddpo.window + 1)  # type: ignore[operator]
    assert forward[0].logprobs_old_BK.shape == (4, recipe.ddpo.window)


def test_the_adapter_is_what_decides_and_a_broken_one_is_refused(
    recipe: Recipe, samples: list[Sample]
) -> None:
    sampler = Sampler(recipe)
    chunk = epoch_chunks(recipe.ddpo, samples, recipe.seed, 0)[0]
    start = read_adapter(sampler.pipe.unet, 0)
    before = sampler.rollout(start, chunk)
    moved = {
        name: value + 0.05 if "lora_B" in name else value for name, value in start.weights.items()
    }
    after = sampler.rollout(Adapter(1, moved, checksum(moved)), chunk)
    assert not np.array_equal(before.images_BHWC, after.images_BHWC)
    assert (after.version, after.checksum) == (1, checksum(moved))
    with pytest.raises(ValueError, match="checksum"):
        sampler.rollout(replace(start, version=2, checksum="0" * 64), chunk)
    assert np.array_equal(sampler.rollout(start, chunk).images_BHWC, before.images_BHWC)


def test_guidance_is_used_when_asked(recipe: Recipe, samples: list[Sample]) -> None:
    guided = recipe.model_copy(update={"ddpo": recipe.ddpo.model_copy(update={"guidance": 3.0})})
    plain, strong = Sampler(recipe), Sampler(guided)
    chunk = epoch_chunks(recipe.ddpo, samples, recipe.seed, 0)[0]
    adapter = read_adapter(plain.pipe.unet, 0)
    assert not np.array_equal(
        plain.rollout(adapter, chunk).images_BHWC, strong.rollout(adapter, chunk).images_BHWC
    )


def test_gradient_reaches_the_adapter_alone(recipe: Recipe) -> None:
    sampler = Sampler(recipe)
    condition = encode_prompts(sampler.pipe, ["a red ball"])
    size = sampler.pipe.unet.config.sample_size
    predict(
        sampler.pipe.unet,
        torch.ones(1, sampler.pipe.unet.config.in_channels, size, size),
        500,
        condition,
    ).sum().backward()
    reached = {name for name, p in sampler.pipe.unet.named_parameters() if p.grad is not None}
    assert reached
    assert all("lora_" in name for name in reached)


def test_images_of_a_prompt_share_their_start_where_the_recipe_says_so(
    recipe: Recipe, samples: list[Sample]
) -> None:
    shared = recipe.model_copy(
        update={"ddpo": recipe.ddpo.model_copy(update={"shared_noise": True, "window": None})}
    )
    sampler = Sampler(shared)
    adapter = read_adapter(sampler.pipe.unet, 0)
    starts, images = [], []
    for chunk in epoch_chunks(shared.ddpo, samples, shared.seed, 0):
        result = sampler.rollout(adapter, chunk)
        starts += list(result.latents_BSCHW[:, 0])
        images += list(result.images_BHWC)
    for a, b in ((0, 1), (2, 3), (4, 5), (6, 7)):
        assert np.array_equal(starts[a], starts[b])
        assert not np.array_equal(images[a], images[b]), "the steps' own noise still differs"
    assert len({start.tobytes() for start in starts}) == 4


def test_the_trained_steps_of_an_epoch_are_a_share_drawn_anew() -> None:
    whole = load_recipe("tiny").ddpo
    assert epoch_steps(whole, 0, 3, 7) == list(range(7))
    half = load_recipe("tiny", ["ddpo.timestep_fraction=0.5"]).ddpo
    drawn = [epoch_steps(half, 0, epoch, 8) for epoch in range(60)]
    assert drawn[3] == epoch_steps(half, 0, 3, 8)
    assert all(len(set(steps)) == 4 and steps == sorted(steps) for steps in drawn)
    counts = np.bincount([step for steps in drawn for step in steps], minlength=8)
    assert counts.min() > 15, "every step has its turn"
    assert len(epoch_steps(load_recipe("tiny", ["ddpo.timestep_fraction=0.01"]).ddpo, 0, 0, 3)) == 1
    with pytest.raises(RecipeError, match="timestep_fraction"):
        load_recipe("tiny", ["ddpo.timestep_fraction=0"])
