"""The high-KPI baseline: the loss falls towards its images, a resumed run is the same run, and what
it writes opens again."""

import json
import logging
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline

from boig_core.config import Recipe
from boig_core.diffusion.finetune import ImageExamples, _loss, finetune, step_rows
from boig_core.diffusion.lora import Adapter, open_policy, save_policy
from boig_core.diffusion.pipeline import load_pipeline
from boig_core.diffusion.sample import sample_images
from boig_core.errors import InputError, PreemptedError
from boig_core.models import resolve_model
from boig_core.storage import store
from boig_core.storage.ancestry import Ancestry
from boig_core.training import preemption
from boig_core.training.checkpoint import Checkpoints


def set_sd(recipe: Recipe, **settings: Any) -> Recipe:
    return recipe.model_copy(update={"sd": recipe.sd.model_copy(update=settings)})


@pytest.fixture
def small(recipe: Recipe) -> Recipe:
    return set_sd(recipe, steps=4, batch=4, checkpoint_every=2, lr=1e-3)


@pytest.fixture
def examples() -> ImageExamples:
    images = np.zeros((6, 32, 32, 3), np.uint8)
    images[..., 0] = 230
    return ImageExamples(images, ["a ball"] * 6)


def train(
    recipe: Recipe, examples: ImageExamples, task: Path, attempt: int = 1
) -> tuple[Adapter, list[float]]:
    losses: list[float] = []
    return finetune(
        recipe,
        examples,
        Checkpoints(str(task), attempt),
        lambda step, values: losses.append(values["loss"]),
    ), losses


def test_rows_are_shuffled_passes() -> None:
    rows = [row for step in range(5) for row in step_rows(6, 4, 0, step)]
    assert sorted(rows[:6]) == sorted(rows[6:12]) == list(range(6))
    assert rows[:6] != rows[6:12]


def test_images_move_towards_the_examples(
    recipe: Recipe, examples: ImageExamples, tmp_path: Path
) -> None:
    adapter, losses = train(set_sd(recipe, steps=31, batch=8, lr=2e-3), examples, tmp_path)
    assert losses[-1] < losses[0]
    tuned, base = open_policy(recipe.sd.base, None, 0, adapter), load_pipeline(recipe.sd.base)
    pixels = [
        sample_images(pipe, ["a ball"] * 4, [0, 1, 2, 3], 5, 1.0, batch=4).astype(float)
        for pipe in (tuned, base)
    ]
    distance = [np.abs(images - np.array([230, 0, 0])).mean() for images in pixels]
    assert distance[0] < distance[1] - 5


def test_resumed_equals_uninterrupted(
    small: Recipe, examples: ImageExamples, tmp_path: Path
) -> None:
    expected, _ = train(small, examples, tmp_path / "whole")
    (tmp_path / "parts").mkdir()
    train(small, examples, tmp_path / "parts")
    # Forget the end: the checkpoint of step 2 is the newest one left.
    marker = next((tmp_path / "parts").rglob("step-000004/complete.json"))
    marker.unlink()
    resumed, _ = train(small, examples, tmp_path / "parts", attempt=2)
    assert resumed.checksum == expected.checksum


def test_notice_saves_at_the_next_step(
    small: Recipe, examples: ImageExamples, tmp_path: Path, terminate: Callable[[], None]
) -> None:
    whole = set_sd(small, checkpoint_every=4)
    expected, _ = train(whole, examples, tmp_path / "whole")
    terminate()
    with pytest.raises(PreemptedError):
        train(whole, examples, tmp_path / "parts")
    preemption.SIGNALED.clear()
    assert [store.name(uri) for uri in Checkpoints(str(tmp_path / "parts"), 1).found()] == [
        "step-000001"
    ]
    resumed, _ = train(whole, examples, tmp_path / "parts", attempt=2)
    assert resumed.checksum == expected.checksum


@pytest.mark.parametrize("rank", [None, 4])
def test_saved_folder_opens_and_samples_what_was_trained(
    small: Recipe, examples: ImageExamples, tmp_path: Path, rank: int | None
) -> None:
    recipe = set_sd(small, lora_rank=rank, lr=2e-2 if rank else 1e-3)
    adapter, _ = train(recipe, examples, tmp_path / "task")
    pipe = open_policy(recipe.sd.base, rank, recipe.seed, adapter)
    expected = sample_images(pipe, ["a red ball"], [1], 4, 3.0, batch=1)
    save_policy(pipe, tmp_path / "out", lora=rank is not None)
    reopened = load_pipeline(str(tmp_path / "out"))
    again = sample_images(reopened, ["a red ball"], [1], 4, 3.0, batch=1)
    assert np.abs(expected.astype(int) - again.astype(int)).max() <= 2
    assert not any("lora" in name for name, _ in reopened.unet.named_parameters())
    base = load_pipeline(recipe.sd.base)
    assert (
        np.abs(
            sample_images(base, ["a red ball"], [1], 4, 3.0, batch=1).astype(int) - expected
        ).max()
        > 2
    )
    if rank:
        base.load_lora_weights(tmp_path / "out" / "lora")
        unmerged = sample_images(base, ["a red ball"], [1], 4, 3.0, batch=1)
        assert np.abs(expected.astype(int) - unmerged.astype(int)).max() <= 2
    plain = StableDiffusionPipeline.from_pretrained(tmp_path / "out", safety_checker=None)
    assert torch.isfinite(torch.cat([p.flatten() for p in plain.unet.parameters()])).all()


def test_v_and_epsilon_are_one_loss() -> None:
    """A model of v is worth the loss of the epsilon that its v stands for."""
    latents = torch.randn((4, 4, 8, 8), generator=torch.Generator().manual_seed(2))
    pipe = load_pipeline("package:tiny-sd")
    alphas = pipe.scheduler.alphas_cumprod

    def model(x: torch.Tensor, t: torch.Tensor, **_: Any) -> SimpleNamespace:
        alpha = alphas[t].reshape(-1, 1, 1, 1)
        epsilon = 0.5 * x
        v = (epsilon - (1 - alpha).sqrt() * x) / alpha.sqrt()
        return SimpleNamespace(
            sample=v if pipe.scheduler.config.prediction_type == "v_prediction" else epsilon
        )

    model.device = torch.device("cpu")  # type: ignore[attr-defined]
    losses = []
    for predicted in ("epsilon", "v_prediction"):
        pipe.scheduler.register_to_config(prediction_type=predicted)
        losses.append(
            [
                float(
                    _loss(model, pipe, latents, alphas, ["a ball"] * 4, [0, 1, 2, 3], 0, step, 5.0)
                )
                for step in range(6)
            ]
        )  # type: ignore[arg-type]
    assert min(losses[0]) > 0
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)


@pytest.mark.parametrize("predicted", ["epsilon", "v_prediction"])
def test_min_snr_weighs_timesteps_by_the_published_formula(predicted: str) -> None:
    """min(SNR, gamma) / SNR for epsilon, min(SNR, gamma) / (SNR + 1) for v: tables of Hang et al.
    2023."""
    latents = torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(2))
    pipe = load_pipeline("package:tiny-sd")
    pipe.scheduler.register_to_config(prediction_type=predicted)
    alphas = pipe.scheduler.alphas_cumprod
    seen: list[int] = []

    def model(x: torch.Tensor, t: torch.Tensor, **_: Any) -> SimpleNamespace:
        seen.append(int(t))
        return SimpleNamespace(sample=0.5 * x)

    model.device = torch.device("cpu")  # type: ignore[attr-defined]
    below, above = 0, 0
    for step in range(30):
        plain, weighted = (
            float(_loss(model, pipe, latents, alphas, ["a ball"], [0], 0, step, gamma))
            for gamma in (None, 5.0)
        )  # type: ignore[arg-type]
        alpha = float(alphas[seen[-1]])
        snr = alpha / (1 - alpha)
        expected = min(snr, 5) / (snr + 1 if predicted == "v_prediction" else snr)
        assert weighted / plain == pytest.approx(expected, rel=1e-4)
        below, above = below + (snr < 5), above + (snr > 5)
    assert min(below, above) > 3


def test_the_last_timesteps_of_a_zero_snr_base_weigh_something(recipe: Recipe) -> None:
    """By the published formula alone v's weight is 0 at the terminal timestep."""
    latents = torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(2))
    pipe = load_pipeline("package:tiny-sd")
    pipe.scheduler = DDIMScheduler.from_config(
        pipe.scheduler.config, prediction_type="v_prediction", rescale_betas_zero_snr=True
    )
    alphas = pipe.scheduler.alphas_cumprod
    seen: list[int] = []

    def model(x: torch.Tensor, t: torch.Tensor, **_: Any) -> SimpleNamespace:
        seen.append(int(t))
        return SimpleNamespace(sample=0.5 * x)

    model.device = torch.device("cpu")  # type: ignore[attr-defined]
    for last in (1, 50, 1000):
        # The noisiest timesteps alone, then all.
        for step in range(10):
            plain, weighted = (
                float(_loss(model, pipe, latents, alphas[-last:], ["a ball"], [0], 0, step, gamma))
                for gamma in (None, recipe.sd.min_snr)
            )  # type: ignore[arg-type]
            alpha = float(alphas[-last:][seen[-1]])
            snr = alpha / (1 - alpha)
            expected = min(max(snr, 1), 5) / (snr + 1)
            assert weighted / plain == pytest.approx(expected, rel=1e-4)
    assert expected > 0


@pytest.mark.parametrize("min_snr", [5.0, None])
def test_the_log_tells_of_a_zero_snr_base(
    small: Recipe,
    examples: ImageExamples,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    min_snr: float | None,
) -> None:
    base = Path(shutil.copytree(resolve_model("package:tiny-sd"), tmp_path / "base"))
    path = base / "scheduler/scheduler_config.json"
    zero = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
    path.write_text(json.dumps({**json.loads(path.read_text()), **zero}))
    train(set_sd(small, base=str(base), min_snr=min_snr, steps=1), examples, tmp_path / "task")
    lines = [line for line in caplog.messages if "zero terminal SNR" in line]
    assert len(lines) == (min_snr is not None)


def test_no_images_is_one_clear_error(small: Recipe, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="high-KPI training samples: 0"):
        train(small, ImageExamples(np.zeros((0, 32, 32, 3), np.uint8), []), tmp_path)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"lr": 1e-4}, "sd.lr was 0.001 and is 0.0001"),
        ({"batch": 6, "min_snr": None}, "sd.batch was 4 and is 6, sd.min_snr was"),
        ({"examples": 5}, "data was"),
    ],
)
def test_other_work_is_refused_in_its_own_folder_and_told_in_a_later_one(
    small: Recipe,
    examples: ImageExamples,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    change: dict[str, Any],
    name: str,
) -> None:
    caplog.set_level(logging.INFO)
    first, _ = train(small, examples, tmp_path)
    other = set_sd(small, **{key: each for key, each in change.items() if key != "examples"})
    count = change.get("examples", 6)
    fewer = ImageExamples(examples.images_BHWC[:count], examples.texts_B[:count])
    with pytest.raises(InputError, match=rf"{re.escape(name)}.*set that back, or train into"):
        train(other, fewer, tmp_path)
    second, losses = train(other, fewer, tmp_path, attempt=2)
    assert len(losses) > 0
    assert second.checksum != first.checksum
    [begins] = [line for line in caplog.messages if "checkpoints of attempt 1" in line]
    assert begins.startswith("training: trains from the start: 2 checkpoints of attempt 1 passed")
    assert name in begins


def test_after_a_clear_all_steps_are_trained_again(
    small: Recipe, examples: ImageExamples, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Also by the recipe that has trained before: a person asked for the work anew."""
    caplog.set_level(logging.INFO)
    first, losses = train(small, examples, tmp_path)
    cleared = Checkpoints(
        str(tmp_path), 2, ancestry=Ancestry("clear", left_out={1: "the task was cleared"})
    )
    again: list[float] = []
    second = finetune(small, examples, cleared, lambda step, row: again.append(row["loss"]))
    assert again == losses
    assert second.checksum == first.checksum
    assert "training: attempt 2 (after a clear) · data" in caplog.text
    assert (
        "from the start: 2 checkpoints of attempt 1 passed over: the task was cleared"
        in caplog.text
    )
