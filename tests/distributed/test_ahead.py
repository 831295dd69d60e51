"""Rollouts that are sampled ahead on Ray: during the update, by the order of events, and with the
bits of one process."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from numpy.typing import NDArray

from boig_core.cluster.rollouts import RayRollouts
from boig_core.config import Recipe, load_recipe
from boig_core.diffusion.rollout import LocalRollouts, RolloutChunk, Sampler
from boig_core.training.checkpoint import Checkpoints
from boig_core.training.engine import Engine
from boig_core.vocabulary import Sample

pytestmark = pytest.mark.usefixtures("ray_cluster")

SETTINGS = (
    "ddpo.ahead=true",
    "ddpo.epochs=3",
    "ddpo.prompts=3",
    "ddpo.images_per_prompt=2",
    "ddpo.sampling_steps=4",
    "ddpo.window=2",
    "ddpo.chunk=2",
    "ddpo.micro_batch=2",
    "ddpo.updates=1",
    "ddpo.lora_rank=4",
    "ddpo.rollout_actors=2",
)
SAMPLES = [
    Sample(
        f"s{i}", f"p{i}", "a", "c", "2020", f"a {word} ball", (), 1, 95, "high", "train", "0", 8, 8
    )
    for i, word in enumerate(("red", "green", "blue"))
]
LONGEST_S = 240.0
"""Of a wait for what never comes without the overlap."""


class Warmth:
    """Red minus blue."""

    def __init__(self, device: str) -> None:
        pass

    def score(self, images: NDArray[np.uint8], samples: Sequence[Sample]) -> NDArray[np.float64]:
        return (images[..., 0].astype(np.float64) - images[..., 2]).mean(axis=(1, 2)) / 255


class Events:
    """What happened, in order; who waits for something gets it as soon as it did."""

    def __init__(self) -> None:
        import asyncio

        self.seen: list[str] = []
        self.changed = asyncio.Condition()

    async def tell(self, name: str) -> None:
        async with self.changed:
            self.seen.append(name)
            self.changed.notify_all()

    async def wait(self, name: str) -> None:
        async with self.changed:
            await self.changed.wait_for(lambda: name in self.seen)

    async def all(self) -> list[str]:
        return self.seen


def in_step_with_the_update(events: Any, chunk: RolloutChunk) -> None:
    """A chunk that is sampled ahead waits for the update before it to begin."""
    if chunk.epoch > 0:
        ray.get(events.wait.remote(f"update {chunk.epoch - 1} begins"), timeout=LONGEST_S)
    ray.get(events.tell.remote(f"epoch {chunk.epoch} is sampled"))


def learn(recipe: Recipe, rollouts: Any, folder: Path) -> tuple[str, list[dict[str, float]]]:
    from boig_core.diffusion.learner import Learner

    rows: list[dict[str, float]] = []
    return Learner(
        recipe, SAMPLES, rollouts, Checkpoints(str(folder), 1), lambda _, row: rows.append(row)
    ).fit().checksum, rows


def test_the_next_epoch_is_sampled_during_the_update_with_the_bits_of_one_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = load_recipe("tiny", SETTINGS)
    expected, rows = learn(
        recipe, LocalRollouts(Sampler(recipe), Warmth("cpu")), tmp_path / "alone"
    )
    events = ray.remote(Events).options(num_cpus=0).remote()  # type: ignore[attr-defined]
    step = Engine.step

    def step_with_the_rollouts(engine: Engine, losses: Any) -> Any:
        epoch = engine.steps_done
        ray.get(events.tell.remote(f"update {epoch} begins"))
        if epoch + 1 < recipe.ddpo.epochs:  # without the overlap each would wait for the other
            ray.get(events.wait.remote(f"epoch {epoch + 1} is sampled"), timeout=LONGEST_S)
        info = step(engine, losses)
        ray.get(events.tell.remote(f"update {epoch} ends"))
        return info

    monkeypatch.setattr(Engine, "step", step_with_the_rollouts)
    rollouts = RayRollouts.start(recipe, Warmth, functools.partial(in_step_with_the_update, events))
    checksum, overlapped = learn(recipe, rollouts, tmp_path / "pools")
    shares = rollouts.spent(3600.0)
    rollouts.stop()
    happened = list(dict.fromkeys(ray.get(events.all.remote())))
    for epoch in (0, 1):
        began, sampled, ended = (
            happened.index(name)
            for name in (
                f"update {epoch} begins",
                f"epoch {epoch + 1} is sampled",
                f"update {epoch} ends",
            )
        )
        assert began < sampled < ended
    assert checksum == expected
    for row, other in zip(overlapped, rows, strict=True):
        timeless = {name for name in row if not name.startswith(("seconds", "images_per_s"))}
        assert {name: row[name] for name in timeless} == {name: other[name] for name in timeless}
    assert all(0 < shares[f"idle_{pool}"] < 1 for pool in ("rollout_actors", "reward_actors"))
    assert shares["chunks_redone"] == 0
