"""The probe: the same held-out prompts and noise every time, and what its numbers are for: ending a
training that hacks its reward."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from boig_core.config import Recipe, load_recipe
from boig_core.diffusion.learner import Learner
from boig_core.diffusion.lora import Adapter, read_adapter
from boig_core.diffusion.rollout import LocalRollouts, RolloutChunk, Sampler
from boig_core.errors import InputError
from boig_core.evaluation.measure.judges import ClipJudge, clip_scores, diversity
from boig_core.evaluation.measure.probe import PER_PROMPT, Probe, ProbeResult, ProbeScorer
from boig_core.training.checkpoint import Checkpoints
from boig_core.vocabulary import Sample
from tests.unit.diffusion.learning import end_after

COLORS: Final = ("red", "green", "blue", "yellow", "white", "black", "pink")
KINDS: Final = {"train": "ball", "validation": "tent", "test": "star"}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def recipe(*settings: str) -> Recipe:
    small = (
        "prompts=4",
        "images_per_prompt=8",
        "sampling_steps=5",
        "window=2",
        "chunk=16",
        "micro_batch=16",
        "updates=2",
        "lora_rank=4",
    )
    return load_recipe("tiny", [f"ddpo.{setting}" for setting in (*small, *settings)])


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    return [
        Sample(
            f"{split}-{color}",
            "p",
            "a",
            "c",
            "2020",
            f"a {color} {kind}",
            (),
            50,
            95,
            "high",
            split,
            "0" * 64,
            128,
            128,
        )
        for split, kind in KINDS.items()
        for color in COLORS
    ]


def warmth(images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Red minus blue of each image, in [-1, 1]."""
    return (images[..., 0].astype(np.float64) - images[..., 2]).mean(axis=(1, 2)) / 255


class Warmth:
    """The warmer, the better: a reward that can be hacked."""

    def score(self, images: NDArray[np.uint8], samples: Sequence[Sample]) -> NDArray[np.float64]:
        return warmth(images)


class Doubted(Warmth):
    """Beside it a predictor: as by the law of `judged` too much warmth is as bad as too little, but
    it is wrong about how much is best."""

    def examine(
        self, images: NDArray[np.uint8], samples: Sequence[Sample]
    ) -> dict[str, NDArray[np.float64]]:
        return {"reward": self.score(images, samples), "engagement": -np.abs(warmth(images) - 0.3)}


def judged(setting: Recipe, samples: list[Sample], adapter: Adapter) -> float:
    """What warmth is worth, on prompts and noise that neither training nor probe has seen."""
    owners = tuple(sample for sample in samples if sample.split == "test" for _ in range(4))
    images = (
        Sampler(setting)
        .rollout(adapter, RolloutChunk(1_000, tuple(range(len(owners))), owners, (0, 2)))
        .images_BHWC
    )
    return float(-((warmth(images) - 0.43) ** 2).mean())


def fit(
    setting: Recipe,
    samples: list[Sample],
    scorer: Any,
    task: Path,
    attempt: int = 1,
    epochs: int | None = None,
) -> tuple[Learner, Adapter, list[ProbeResult]]:
    rollouts, looks = LocalRollouts(Sampler(setting), scorer), list[ProbeResult]()
    probe = Probe(setting, samples, rollouts, lambda epoch, look: looks.append(look))
    prompts = [sample for sample in samples if sample.split == "train"]
    learner = Learner(
        setting, prompts, rollouts, Checkpoints(str(task), attempt), lambda *_: None, probe=probe
    )
    end_after(learner, epochs)
    return learner, learner.fit(), looks


@pytest.mark.slow
@pytest.mark.slow
def test_a_hacked_reward_is_stopped_while_the_policy_is_still_better_than_the_base(
    samples: list[Sample], tmp_path: Path
) -> None:
    def trained(action: str) -> tuple[Learner, Adapter]:
        guard = f"monitors.overoptimization={{action: {action}, rise: 0.3, fall: 0.3}}"
        return fit(
            recipe("epochs=12", "probe_every=1", guard), samples, Doubted(), tmp_path / action
        )[:2]

    base = judged(recipe(), samples, read_adapter(Sampler(recipe()).pipe.unet, 0))
    free, hacked = trained("warn")
    assert free.rows[-1]["reward"] > free.rows[0]["reward"] + 0.5
    assert judged(recipe(), samples, hacked) < base
    guarded, best = trained("keep_best")
    assert [trip.monitor for trip in guarded.trips if trip.action == "keep_best"] == [
        "overoptimization"
    ]
    ended = judged(recipe(), samples, read_adapter(guarded.engine.module, 0))
    assert ended > base
    assert judged(recipe(), samples, best) > ended
    witness = [row["probe_engagement"] for row in guarded.rows]
    assert best.version == guarded.config.updates * int(np.argmax(witness))
    assert np.argmax(witness) < np.argmax([row["reward"] for row in guarded.rows])


@pytest.mark.slow
def test_a_resumed_training_goes_by_the_same_probes(samples: list[Sample], tmp_path: Path) -> None:
    settings = ("probe_every=2", "checkpoint_every=1", "monitors.plateau={action: keep_best}")
    setting = recipe("epochs=3", *settings)
    whole, adapter, looks = fit(setting, samples, Doubted(), tmp_path / "whole")
    fit(setting, samples, Doubted(), tmp_path / "parts", 1, epochs=1)
    resumed, again, later = fit(setting, samples, Doubted(), tmp_path / "parts", 2)
    assert resumed.rows == whole.rows
    assert ["probe_engagement" in row for row in resumed.rows] == [True, False, True]
    assert resumed.rows[0]["probe_engagement"] != resumed.rows[2]["probe_engagement"]
    assert (again.checksum, resumed.best.quality) == (adapter.checksum, whole.best.quality)
    assert [look.metrics for look in later] == [looks[1].metrics]
    np.testing.assert_array_equal(later[0].images_PKHWC, looks[1].images_PKHWC)


def test_a_look_measures_held_out_prompts_one_by_one(samples: list[Sample]) -> None:
    setting, clip, looks = recipe(), ClipJudge("package:clip"), list[ProbeResult]()
    rollouts = LocalRollouts(Sampler(setting), ProbeScorer(Doubted(), clip))
    probe = Probe(setting, samples, rollouts, lambda epoch, look: looks.append(look))
    metrics = probe(0, read_adapter(rollouts.sampler.pipe.unet, 0))
    # Neither epoch nor version changes what is sampled.
    assert probe(7, read_adapter(rollouts.sampler.pipe.unet, 3)) == metrics
    assert metrics == looks[0].metrics
    texts = [str(row["prompt"]) for row in looks[0].by_prompt]
    assert sorted(texts) == sorted(
        sample.text for sample in samples if sample.split == "validation"
    )
    images = looks[0].images_PKHWC.reshape(-1, 32, 32, 3)
    assert len(images) == PER_PROMPT * len(texts)
    assert metrics["probe_reward"] == pytest.approx(warmth(images).mean())
    assert metrics["probe_reward_std"] == pytest.approx(warmth(images).std())
    assert [row["reward"] for row in looks[0].by_prompt] == pytest.approx(
        warmth(images).reshape(-1, PER_PROMPT).mean(axis=1)
    )
    embedding_ND = clip.see(images).embedding_ND
    matched_N, mismatched_N = clip_scores(
        embedding_ND, clip.read(texts), np.repeat(np.arange(len(texts)), PER_PROMPT)
    )
    assert metrics["probe_clip_margin"] == pytest.approx(
        (matched_N - mismatched_N).mean(), abs=1e-4
    )
    assert metrics["probe_diversity"] == pytest.approx(
        diversity(embedding_ND.reshape(len(texts), PER_PROMPT, -1)), abs=1e-6
    )
    assert np.mean([float(row["clip_margin"]) for row in looks[0].by_prompt]) == pytest.approx(
        metrics["probe_clip_margin"]
    )


def test_without_held_out_prompts_there_is_one_clear_error(samples: list[Sample]) -> None:
    trained = [sample for sample in samples if sample.split == "train"]
    with pytest.raises(InputError, match="0 distinct prompts of HIGH validation samples"):
        Probe(recipe(), trained, LocalRollouts(Sampler(recipe()), Warmth()), lambda *_: None)
