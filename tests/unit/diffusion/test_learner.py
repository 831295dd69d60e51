"""The learner, whole and in one process: it climbs, resumes where it stopped, and stops when
sampling and scoring disagree."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from boig_core.config import Monitors, Recipe
from boig_core.diffusion.learner import Learner
from boig_core.diffusion.lora import Adapter
from boig_core.diffusion.rollout import LocalRollouts, RolloutChunk, Sampler, epoch_window
from boig_core.errors import (
    InfrastructureError,
    InputError,
    RecipeError,
)
from boig_core.training.checkpoint import Checkpoints
from boig_core.vocabulary import Sample
from tests.unit.diffusion.learning import fit, set_ddpo


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["grpo", "awm"])
def test_reward_climbs(
    recipe: Recipe, samples: list[Sample], warmth: Any, tmp_path: Path, objective: str
) -> None:
    climbing = set_ddpo(
        recipe,
        objective=objective,
        epochs=6,
        prompts=4,
        images_per_prompt=8,
        chunk=16,
        micro_batch=16,
        updates=2,
    )
    _, rows = fit(climbing, samples, warmth, tmp_path)
    assert [row["epoch"] for row in rows] == list(range(6))
    assert (
        np.mean([row["reward"] for row in rows[-2:]])
        > np.mean([row["reward"] for row in rows[:2]]) + 0.02
    )
    for row in rows:
        assert 0 < row["grad_norm"] < 10
        assert 0 <= row["clip_fraction"] <= 1


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
    learner = Learner(
        recipe, samples, Crooked(sampler, warmth), Checkpoints(str(tmp_path), 1), lambda *_: None
    )
    crooked = sampler.timesteps[epoch_window(recipe.ddpo, recipe.seed, 0)[0] + 1]
    with pytest.raises(
        RecipeError,
        match=f"timestep {crooked} with unchanged weights, rollouts in float32 .*: must be 1",
    ):
        learner.fit()
    assert learner.engine.steps_done == 0


def test_rollouts_made_elsewhere_are_named_or_scored_again(
    recipe: Recipe, samples: list[Sample], warmth: Any, tmp_path: Path
) -> None:
    """Log-probabilities as another precision would give them, of the forward process."""

    class Elsewhere(LocalRollouts):
        def collect(self, adapter: Adapter, chunks: Any) -> Any:
            results = super().collect(adapter, chunks)
            for trajectory, _ in results:
                trajectory.logprobs_old_BK[:, 1] += 5e-3
            return [
                (replace(t, made_on_B=("float16 on a card",) * len(t)), rewards)
                for t, rewards in results
            ]

    recipe = set_ddpo(recipe, objective="awm", epochs=1, updates=1)
    sampler, rows = Sampler(recipe), list[dict[str, float]]()
    learner = Learner(
        recipe,
        samples,
        Elsewhere(sampler, warmth),
        Checkpoints(str(tmp_path / "a"), 1),
        lambda *_: None,
    )
    with pytest.raises(
        RecipeError,
        match="at draw 1 with unchanged weights, rollouts in float16 on a card, learner in float32 on cpu",
    ):
        learner.fit()
    again = set_ddpo(recipe, recompute_logprobs=True)
    Learner(
        again,
        samples,
        Elsewhere(sampler, warmth),
        Checkpoints(str(tmp_path / "b"), 1),
        lambda _, row: rows.append(row),
    ).fit()
    assert rows[0]["ratio_deviation"] == 0.0  # one update, in the same batches


@pytest.mark.slow
def test_a_heavy_divergence_keeps_the_policy_at_the_base(
    recipe: Recipe, samples: list[Sample], warmth: Any, tmp_path: Path
) -> None:
    result = {}
    for weight in (1e-6, 1e3):
        _, rows = fit(
            set_ddpo(recipe, epochs=4, kl=weight), samples, warmth, tmp_path / f"{weight:g}"
        )
        result[weight] = [row["kl"] for row in rows]
        assert result[weight][0] < result[1e-6][-1]
    assert 0 < result[1e3][-1] < result[1e-6][-1] / 3


def test_no_prompts_is_one_clear_error(recipe: Recipe, warmth: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="high-KPI training samples: 0"):
        fit(recipe, [], warmth, tmp_path)


def test_chunks_reach_the_scorer_with_their_own_samples(
    recipe: Recipe, samples: list[Sample], tmp_path: Path
) -> None:
    seen: list[tuple[str, ...]] = []

    class Watching:
        def score(self, images: Any, samples: list[Sample]) -> Any:
            seen.append(tuple(s.id for s in samples))
            return np.arange(len(images), dtype=np.float64)

    chunks: list[RolloutChunk] = []

    class Watched(LocalRollouts):
        def collect(self, adapter: Adapter, wanted: Any) -> Any:
            chunks.extend(wanted)
            return super().collect(adapter, wanted)

    Learner(
        recipe,
        samples,
        Watched(Sampler(recipe), Watching()),
        Checkpoints(str(tmp_path), 1),
        lambda *_: None,
    ).fit()
    assert seen == [tuple(s.id for s in chunk.samples) for chunk in chunks]


class Falling:
    """Rewards that rise for three epochs and are lost in the fourth, whatever the images show; two
    chunks an epoch."""

    def __init__(self) -> None:
        self.calls = 0

    def score(self, images: Any, samples: list[Sample]) -> Any:
        level = (0.0, 1.0, 2.0, 0.0, 0.0)[self.calls // 2]
        self.calls += 1
        return level + np.linspace(0, 0.1, len(images))


@pytest.mark.slow
@pytest.mark.parametrize(("action", "epochs_kept"), [("keep_best", 2), ("stop", 4)])
def test_a_fall_ends_the_training_and_a_resumed_run_agrees(
    recipe: Recipe, samples: list[Sample], tmp_path: Path, action: str, epochs_kept: int
) -> None:
    monitors = Monitors.model_validate({"fall": {"action": action, "epochs": 1}})
    watched, scorer = set_ddpo(recipe, epochs=8, monitors=monitors), Falling()
    fit(watched, samples, scorer, tmp_path, attempt=1, epochs=3)
    adapter, rows = fit(watched, samples, scorer, tmp_path, attempt=2)
    assert [row["epoch"] for row in rows] == [3]
    assert rows[0]["monitor_fall"] == 1
    # The policy that sampled the third epoch, or the last one.
    assert adapter.version == epochs_kept * recipe.ddpo.updates
    again, nothing = fit(watched, samples, scorer, tmp_path, attempt=3)
    assert (again.checksum, nothing) == (adapter.checksum, [])


class Versions(LocalRollouts):
    """Rollouts that note, as they are asked for and as they are made, whose they are and how many
    updates there were."""

    learner: Learner
    notes: list[tuple[str, int, int, int]]

    def begin(self, adapter: Adapter, chunks: Any) -> Any:
        self.notes.append(
            ("asked", chunks[0].epoch, adapter.version, self.learner.engine.steps_done)
        )
        return super().begin(adapter, chunks)

    def collect(self, adapter: Adapter, chunks: Any) -> Any:
        self.notes.append(
            ("made", chunks[0].epoch, adapter.version, self.learner.engine.steps_done)
        )
        return super().collect(adapter, chunks)


def test_the_next_epoch_is_asked_for_before_the_update_with_the_weights_of_then(
    recipe: Recipe, samples: list[Sample], warmth: Any, tmp_path: Path
) -> None:
    recipe = set_ddpo(recipe, epochs=3, ahead=True)
    rollouts, rows = Versions(Sampler(recipe), warmth), list[dict[str, float]]()
    rollouts.notes = []
    rollouts.learner = Learner(
        recipe, samples, rollouts, Checkpoints(str(tmp_path), 1), lambda _, row: rows.append(row)
    )
    rollouts.learner.fit()
    assert rollouts.notes == [
        ("asked", 0, 0, 0),
        ("made", 0, 0, 0),
        ("asked", 1, 0, 0),
        ("made", 1, 0, 2),  # two updates an epoch
        ("asked", 2, 2, 2),
        ("made", 2, 2, 4),
    ]
    assert [row["off_policy_updates"] for row in rows] == [0, 2, 2]
    assert (rows[0]["off_policy_weight"], rows[0]["off_policy_weight_max"]) == (1, 1)
    for row in rows[1:]:
        assert row["off_policy_weight"] < row["off_policy_weight_max"] < 2
        assert row["off_policy_weight_max"] > 1
    _, plain = fit(set_ddpo(recipe, ahead=False), samples, warmth, tmp_path / "plain")
    assert not any(name.startswith("off_policy") for row in plain for name in row)
    assert rows[0]["grad_norm"] == plain[0]["grad_norm"]
    assert rows[1]["reward"] != plain[1]["reward"]


@pytest.mark.parametrize("claim", [{"version": 2}, {"checksum": "0" * 64}])
def test_rollouts_by_another_policy_than_was_asked_are_refused(
    recipe: Recipe, samples: list[Sample], warmth: Any, tmp_path: Path, claim: dict[str, Any]
) -> None:
    class Newer(LocalRollouts):
        def collect(self, adapter: Adapter, chunks: Any) -> Any:
            results = super().collect(adapter, chunks)
            return (
                results
                if chunks[0].epoch == 0
                else [(replace(t, **claim), rewards) for t, rewards in results]
            )

    recipe = set_ddpo(recipe, ahead=True)
    learner = Learner(
        recipe,
        samples,
        Newer(Sampler(recipe), warmth),
        Checkpoints(str(tmp_path), 1),
        lambda *_: None,
    )
    with pytest.raises(
        InfrastructureError,
        match=r"rollouts of epoch 1 by version ., checksum .*: must be by version 0, checksum",
    ):
        learner.fit()
    assert learner.engine.steps_done == 2


def test_the_start_up_check_of_a_resumed_run_is_of_the_weights_that_sampled(
    recipe: Recipe, samples: list[Sample], warmth: Any, tmp_path: Path
) -> None:
    """A ratio against the newer weights would be far outside; a tenth of the clip range is asked
    for."""
    recipe = set_ddpo(recipe, epochs=3, checkpoint_every=1, ahead=True, clip_ratio=1e-4)
    fit(recipe, samples, warmth, tmp_path, epochs=2)

    class Crooked(LocalRollouts):
        def collect(self, adapter: Adapter, chunks: Any) -> Any:
            results = super().collect(adapter, chunks)
            for trajectory, _ in results:
                trajectory.logprobs_old_BK[:, 0] += 2e-5
            return results

    crooked = Learner(
        recipe,
        samples,
        Crooked(Sampler(recipe), warmth),
        Checkpoints(str(tmp_path), 2),
        lambda *_: None,
    )
    with pytest.raises(RecipeError, match="with unchanged weights"):
        crooked.fit()
    _, rows = fit(recipe, samples, warmth, tmp_path, attempt=3)
    assert [row["epoch"] for row in rows] == [2]
    assert rows[0]["off_policy_weight_max"] > 1 + 1e-5


def test_the_best_epoch_is_the_one_whose_weights_were_probed(
    recipe: Recipe, samples: list[Sample], warmth: Any, tmp_path: Path
) -> None:
    monitors = Monitors.model_validate({"drift": {"action": "keep_best"}})
    recipe = set_ddpo(recipe, epochs=4, ahead=True, probe_every=1, monitors=monitors)
    looked: list[tuple[int, str]] = []

    def probe(epoch: int, adapter: Adapter) -> dict[str, float]:
        looked.append((adapter.version, adapter.checksum))
        return {
            "probe_reward": (0.0, 1.0, 0.5, 0.0)[epoch],
            "probe_reward_std": 0.0,
            "probe_clip_margin": float(epoch < 2),
        }

    rollouts = LocalRollouts(Sampler(recipe), warmth)
    kept = Learner(
        recipe, samples, rollouts, Checkpoints(str(tmp_path), 1), lambda *_: None, probe=probe
    ).fit()
    assert [version for version, _ in looked] == [0, 2, 4]
    assert (kept.version, kept.checksum) == looked[1]


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"lr": 1e-4}, "ddpo.lr was"),
        ({"guidance": 3.0, "objective": "ddpo"}, "ddpo.guidance was"),
        ({"prompts": "others"}, "data was"),
        ({"reward": {"dsg": 1.0}}, "reward.weights was"),
    ],
)
def test_other_work_is_refused_in_its_own_folder_and_told_in_a_later_one(
    recipe: Recipe,
    samples: list[Sample],
    warmth: Any,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    change: dict[str, Any],
    name: str,
) -> None:
    caplog.set_level(logging.INFO)
    short = set_ddpo(recipe, epochs=1, checkpoint_every=1)
    fit(short, samples, warmth, tmp_path)
    settings = {key: value for key, value in change.items() if key not in ("prompts", "reward")}
    other = set_ddpo(short, **settings)
    if "reward" in change:
        other = other.model_copy(
            update={"reward": other.reward.model_copy(update={"weights": change["reward"]})}
        )
    prompts = [replace(sample, text="ice") if "prompts" in change else sample for sample in samples]
    with pytest.raises(InputError, match=rf"{name}.*set that back, or train into another folder"):
        fit(other, prompts, warmth, tmp_path)
    _, rows = fit(other, prompts, warmth, tmp_path, attempt=2)
    assert [row["epoch"] for row in rows] == [0]
    [begins] = [line for line in caplog.messages if "checkpoint of attempt 1" in line]
    assert begins.startswith("training: trains from the start: 1 checkpoint of attempt 1 passed")
    assert name in begins
