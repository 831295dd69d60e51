"""The learner, whole and in one process: it climbs, resumes where it stopped, and stops when sampling and scoring disagree."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from boig_core.config import Monitors, Recipe
from boig_core.diffusion.learner import Learner
from boig_core.diffusion.lora import Adapter
from boig_core.diffusion.rollout import Chunk, LocalRollouts, Sampler, epoch_window
from boig_core.errors import InputError, PreemptedError, RecipeError, ScorerError
from boig_core.training import preemption
from boig_core.training.checkpoint import Checkpoints
from boig_core.vocabulary import Sample


def set_ddpo(recipe: Recipe, **settings: Any) -> Recipe:
    return recipe.model_copy(update={"ddpo": recipe.ddpo.model_copy(update=settings)})


def fit(recipe: Recipe, samples: list[Sample], scorer: Any, task: Path, attempt: int = 1) -> tuple[Adapter, list[dict[str, float]]]:
    rows: list[dict[str, float]] = []
    rollouts = LocalRollouts(Sampler(recipe), scorer)
    learner = Learner(
        recipe, samples, rollouts, Checkpoints(str(task), attempt), lambda epoch, values: rows.append({"epoch": epoch, **values})
    )
    return learner.fit(), rows


def test_reward_climbs(recipe: Recipe, samples: list[Sample], warmth: Any, tmp_path: Path) -> None:
    climbing = set_ddpo(recipe, epochs=6, prompts=4, images_per_prompt=8, chunk=16, micro_batch=16, updates=2)
    _, rows = fit(climbing, samples, warmth, tmp_path)
    assert [row["epoch"] for row in rows] == list(range(6))
    assert np.mean([row["reward"] for row in rows[-2:]]) > np.mean([row["reward"] for row in rows[:2]]) + 0.02
    for row in rows:
        assert 0 < row["grad_norm"] < 10
        assert 0 <= row["clip_fraction"] <= 1


@pytest.mark.parametrize("objective", ["grpo", "ddpo"])
def test_resumed_equals_uninterrupted(recipe: Recipe, samples: list[Sample], warmth: Any, tmp_path: Path, objective: str) -> None:
    whole = set_ddpo(recipe, epochs=3, checkpoint_every=1, objective=objective)
    expected, rows = fit(whole, samples, warmth, tmp_path / "whole")
    fit(set_ddpo(whole, epochs=2), samples, warmth, tmp_path / "parts", attempt=1)
    resumed, later = fit(whole, samples, warmth, tmp_path / "parts", attempt=2)
    assert [row["epoch"] for row in later] == [2]
    assert later[0]["reward"] == rows[2]["reward"]
    assert resumed.checksum == expected.checksum
    finished, nothing = fit(whole, samples, warmth, tmp_path / "parts", attempt=3)
    assert finished.checksum == expected.checksum
    assert nothing == []


def test_notice_in_an_epoch_saves_at_its_end_and_the_run_goes_on_from_there(
    recipe: Recipe, samples: list[Sample], warmth: Any, tmp_path: Path, terminate: Callable[[], None]
) -> None:
    class Noticed:
        calls = 0

        def score(self, images: Any, samples: list[Sample]) -> Any:
            self.calls += 1
            if self.calls == 3:  # the second epoch
                terminate()
            return warmth.score(images, samples)

    whole = set_ddpo(recipe, epochs=4, checkpoint_every=4)
    expected, rows = fit(whole, samples, warmth, tmp_path / "whole")
    with pytest.raises(PreemptedError, match="its state is saved"):
        fit(whole, samples, Noticed(), tmp_path / "parts")
    preemption.SIGNALED.clear()
    resumed, later = fit(whole, samples, warmth, tmp_path / "parts", attempt=2)
    assert [(row["epoch"], row["reward"]) for row in later] == [(row["epoch"], row["reward"]) for row in rows[2:]]
    assert resumed.checksum == expected.checksum


def test_disagreement_of_sampling_and_scoring_stops_before_the_first_update(
    recipe: Recipe, samples: list[Sample], warmth: Any, tmp_path: Path
) -> None:
    class Crooked(LocalRollouts):
        def collect(self, adapter: Adapter, chunks: Any) -> Any:
            results = super().collect(adapter, chunks)
            for trajectory, _ in results:
                trajectory.logprobs_old_BK[:, 1] += 1e-3
            return results

    sampler = Sampler(recipe)
    learner = Learner(recipe, samples, Crooked(sampler, warmth), Checkpoints(str(tmp_path), 1), lambda *_: None)
    crooked = sampler.timesteps[epoch_window(recipe.ddpo, recipe.seed, 0)[0] + 1]
    with pytest.raises(RecipeError, match=f"timestep {crooked} with unchanged weights"):
        learner.fit()
    assert learner.engine.steps_done == 0


def test_a_failed_reward_is_never_a_zero(recipe: Recipe, samples: list[Sample], tmp_path: Path) -> None:
    class Broken:
        def score(self, images: Any, samples: list[Sample]) -> Any:
            return np.full(len(images), np.nan)

    with pytest.raises(ScorerError, match="finite"):
        fit(recipe, samples, Broken(), tmp_path)


def test_no_prompts_is_one_clear_error(recipe: Recipe, warmth: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="high-KPI training samples: 0"):
        fit(recipe, [], warmth, tmp_path)


def test_chunks_reach_the_scorer_with_their_own_samples(recipe: Recipe, samples: list[Sample], tmp_path: Path) -> None:
    seen: list[tuple[str, ...]] = []

    class Watching:
        def score(self, images: Any, samples: list[Sample]) -> Any:
            seen.append(tuple(s.id for s in samples))
            return np.arange(len(images), dtype=np.float64)

    chunks: list[Chunk] = []

    class Watched(LocalRollouts):
        def collect(self, adapter: Adapter, wanted: Any) -> Any:
            chunks.extend(wanted)
            return super().collect(adapter, wanted)

    Learner(recipe, samples, Watched(Sampler(recipe), Watching()), Checkpoints(str(tmp_path), 1), lambda *_: None).fit()
    assert seen == [tuple(s.id for s in chunk.samples) for chunk in chunks]


class Falling:
    """Rewards that rise for three epochs and are lost in the fourth, whatever the images show; two chunks an epoch."""

    def __init__(self) -> None:
        self.calls = 0

    def score(self, images: Any, samples: list[Sample]) -> Any:
        level = (0.0, 1.0, 2.0, 0.0, 0.0)[self.calls // 2]
        self.calls += 1
        return level + np.linspace(0, 0.1, len(images))


@pytest.mark.parametrize(("action", "epochs_kept"), [("keep_best", 2), ("stop", 4)])
def test_a_fall_ends_the_training_and_a_resumed_run_agrees(
    recipe: Recipe, samples: list[Sample], tmp_path: Path, action: str, epochs_kept: int
) -> None:
    monitors = Monitors.model_validate({"fall": {"action": action, "epochs": 1}})
    watched, scorer = set_ddpo(recipe, epochs=8, monitors=monitors), Falling()
    fit(set_ddpo(watched, epochs=3), samples, scorer, tmp_path, attempt=1)
    adapter, rows = fit(watched, samples, scorer, tmp_path, attempt=2)
    assert [row["epoch"] for row in rows] == [3]
    assert rows[0]["monitor_fall"] == 1
    assert adapter.version == epochs_kept * recipe.ddpo.updates  # the policy that sampled the third epoch, or the last one
    again, nothing = fit(watched, samples, scorer, tmp_path, attempt=3)
    assert (again.checksum, nothing) == (adapter.checksum, [])
