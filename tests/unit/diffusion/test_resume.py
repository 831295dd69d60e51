"""A training that is resumed, killed or has notice ends with the bits of one that was not."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from boig_core.config import Recipe
from boig_core.diffusion.learner import Learner
from boig_core.diffusion.lora import Adapter
from boig_core.diffusion.rollout import LocalRollouts, Sampler
from boig_core.errors import (
    PreemptedError,
)
from boig_core.training import preemption
from boig_core.training.checkpoint import Checkpoints
from boig_core.vocabulary import Sample
from tests.processes import forks
from tests.unit.diffusion.learning import fit, set_ddpo


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["grpo", "ddpo"])
def test_resumed_equals_uninterrupted(
    recipe: Recipe, samples: list[Sample], warmth: Any, tmp_path: Path, objective: str
) -> None:
    whole = set_ddpo(recipe, epochs=3, checkpoint_every=1, objective=objective)
    expected, rows = fit(whole, samples, warmth, tmp_path / "whole")
    fit(whole, samples, warmth, tmp_path / "parts", attempt=1, epochs=2)
    resumed, later = fit(whole, samples, warmth, tmp_path / "parts", attempt=2)
    assert [row["epoch"] for row in later] == [2]
    assert later[0]["reward"] == rows[2]["reward"]
    assert resumed.checksum == expected.checksum
    finished, nothing = fit(whole, samples, warmth, tmp_path / "parts", attempt=3)
    assert finished.checksum == expected.checksum
    assert nothing == []


class Killed:
    """Warmth, in a process that dies at its sixth chunk: in the middle of the third epoch."""

    def __init__(self, warmth: Any) -> None:
        self.warmth, self.calls = warmth, 0

    def score(self, images: Any, samples: list[Sample]) -> Any:
        self.calls += 1
        if self.calls == 6:
            os.kill(os.getpid(), signal.SIGKILL)
        return self.warmth.score(images, samples)


@pytest.mark.slow
@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"objective": "ddpo", "ema": 0.8, "kl": 0.1, "anchor": "ema"},
        {"objective": "awm", "ema": 0.8, "ahead": True},
    ],
)
def test_killed_and_resumed_equals_uninterrupted_to_the_bit(
    recipe: Recipe, samples: list[Sample], warmth: Any, tmp_path: Path, settings: dict[str, Any]
) -> None:
    """Published average, weights, per-prompt statistics, prompts, who sampled them, and every
    metric but the seconds."""
    recipe = set_ddpo(recipe, epochs=4, checkpoint_every=1, **settings)
    process = forks().Process(
        target=fit, args=(recipe, samples, Killed(warmth), tmp_path / "parts")
    )
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL

    def run(task: Path, attempt: int) -> tuple[Learner, str, dict[float, dict[str, float]], Any]:
        rows: dict[float, dict[str, float]] = {}
        asked: dict[int, tuple[str, list[str]]] = {}

        class PendingRollouts(LocalRollouts):
            def collect(self, adapter: Adapter, chunks: Any) -> Any:
                asked[chunks[0].epoch] = (
                    adapter.checksum,
                    [sample.id for chunk in chunks for sample in chunk.samples],
                )
                return super().collect(adapter, chunks)

        learner = Learner(
            recipe,
            samples,
            PendingRollouts(Sampler(recipe), warmth),
            Checkpoints(str(task), attempt),
            rows.__setitem__,
        )
        return learner, learner.fit().checksum, rows, asked

    whole, published, rows, asked = run(tmp_path / "whole", 1)
    resumed, published_again, later, asked_later = run(tmp_path / "parts", 2)
    assert min(later) in (1, 2)  # the newest checkpoint may have been on its way
    assert published_again == published
    assert published != whole._policy().checksum, "the average is not the last weights"
    assert resumed._policy().checksum == whole._policy().checksum
    assert resumed.history == whole.history
    assert resumed.rows == whole.rows
    for epoch, row in later.items():
        assert asked_later[int(epoch)] == asked[int(epoch)]
        timeless = {name for name in row if not name.startswith(("seconds", "images_per_s"))}
        assert {name: row[name] for name in timeless} == {
            name: rows[epoch][name] for name in timeless
        }


@pytest.mark.slow
def test_notice_in_an_epoch_saves_at_its_end_and_the_run_goes_on_from_there(
    recipe: Recipe,
    samples: list[Sample],
    warmth: Any,
    tmp_path: Path,
    terminate: Callable[[], None],
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
    assert [(row["epoch"], row["reward"]) for row in later] == [
        (row["epoch"], row["reward"]) for row in rows[2:]
    ]
    assert resumed.checksum == expected.checksum
