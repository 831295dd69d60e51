"""Real Ray: the same bits for one and two actors and where actors died or hung; a scorer that fails
ends the epoch by name."""

import functools
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import ray
from numpy.typing import NDArray

from boig_core.cluster.rollouts import RayRollouts
from boig_core.config import Recipe, load_recipe
from boig_core.diffusion.lora import Adapter, read_adapter
from boig_core.diffusion.rollout import RolloutChunk, Sampler, epoch_chunks
from boig_core.errors import ScorerError
from boig_core.vocabulary import Sample

pytestmark = pytest.mark.usefixtures("ray_cluster")

SETTINGS = [
    "ddpo.prompts=6",
    "ddpo.images_per_prompt=2",
    "ddpo.sampling_steps=4",
    "ddpo.window=2",
    "ddpo.chunk=2",
    "ddpo.updates=2",
]


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    words = ("red", "green", "blue", "yellow", "white", "black")
    return [
        Sample(
            f"s{i}",
            f"p{i}",
            "a",
            "c",
            "2020",
            f"a {word} ball",
            (),
            1,
            95,
            "high",
            "train",
            "0",
            8,
            8,
        )
        for i, word in enumerate(words)
    ]


def recipe_with(actors: int) -> Recipe:
    return load_recipe("tiny", [*SETTINGS, f"ddpo.rollout_actors={actors}"])


class Warmth:
    """Red minus blue, in a process of its own."""

    def __init__(self, device: str) -> None:
        assert device == "cpu"

    def score(self, images: NDArray[np.uint8], samples: Sequence[Sample]) -> NDArray[np.float64]:
        return (images[..., 0].astype(np.float64) - images[..., 2]).mean(axis=(1, 2))


class Failing(Warmth):
    """Fails at each call, in the ways that `SAYS` names, in its order."""

    def __init__(self, device: str) -> None:
        super().__init__(device)
        self.calls = 0

    def score(self, images: NDArray[np.uint8], samples: Sequence[Sample]) -> NDArray[np.float64]:
        self.calls += 1
        rewards = super().score(images, samples)
        if self.calls == 1:
            raise ScorerError("nan", "must be finite", "look at the images")
        if self.calls == 2:
            raise IndexError("no such row")
        return rewards * np.nan if self.calls == 3 else rewards[1:]


SAYS = (
    "nan: must be finite",
    r"the scorer of 2 images: raised IndexError\('no such row'\)",
    "score nan: must be finite",
    "1 results of the scorer for 2 inputs",
)


class HangsOnce(Warmth):
    """Hangs at its first call, the first time only."""

    def __init__(self, marker: Path, device: str) -> None:
        super().__init__(device)
        self.marker = marker

    def score(self, images: NDArray[np.uint8], samples: Sequence[Sample]) -> NDArray[np.float64]:
        if not self.marker.exists():
            self.marker.write_text("hung")
            time.sleep(3600)
        return super().score(images, samples)


def die_once(marker: Path, chunk: RolloutChunk) -> None:
    """Kill the actor of the third chunk, the first time only."""
    if chunk.indices[0] == 4 and not marker.exists():
        marker.write_text("died")
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture(scope="module")
def adapter() -> Adapter:
    return read_adapter(Sampler(recipe_with(1)).pipe.unet, 0)


def test_same_bits_for_one_and_two_and_replaced_actors(
    samples: list[Sample], adapter: Adapter, tmp_path: Path
) -> None:
    chunks = epoch_chunks(recipe_with(1).ddpo, samples, 0, 0)
    assert len(chunks) == 6
    died, hung = tmp_path / "died", tmp_path / "hung"
    impatient = recipe_with(1).model_copy(
        update={"reward": recipe_with(1).reward.model_copy(update={"timeout_s": 5.0})}
    )
    pools = [
        RayRollouts.start(recipe_with(1), Warmth),
        RayRollouts.start(recipe_with(2), Warmth, functools.partial(die_once, died)),
        RayRollouts.start(impatient, functools.partial(HangsOnce, hung)),
    ]
    item, *others = (pool.collect(adapter, chunks) for pool in pools)
    worked, waited = ([pool.spent(3600) for pool in pools] for _ in range(2))
    assert [row["chunks_redone"] for row in worked] == [0, 1, 1]
    assert [row["seconds_lost"] > 0 for row in worked] == [False, True, True]
    assert all(
        0 < worked[0][name] < waited[0][name] == 1
        for name in ("idle_rollout_actors", "idle_reward_actors")
    )
    assert not any(row["chunks_redone"] for row in waited)
    [(again, findings)] = pools[0].examine(adapter, chunks[:1])
    assert np.array_equal(again.images_BHWC, item[0][0].images_BHWC)
    assert {name: of_N.tolist() for name, of_N in findings.items()} == {
        "reward": item[0][1].tolist()
    }
    for actor in (*pools[0]._samplers, *pools[0]._scorers):  # while they are idle
        os.kill(ray.get(actor.ready.remote()), signal.SIGKILL)
    others.append(pools[0].collect(adapter, chunks))
    for pool in pools:
        pool.stop()
    assert died.exists()
    assert hung.exists()
    for other in others:
        for (a, reward_a), (b, reward_b) in zip(item, other, strict=True):
            assert a.indices_B.tolist() == b.indices_B.tolist()
            assert np.array_equal(a.latents_BSCHW, b.latents_BSCHW)
            assert np.array_equal(a.logprobs_old_BK, b.logprobs_old_BK)
            assert np.array_equal(a.images_BHWC, b.images_BHWC)
            assert np.array_equal(reward_a, reward_b)
    assert [i for t, _ in item for i in t.indices_B.tolist()] == list(range(12))
    np.testing.assert_array_equal(
        item[0][1], Warmth("cpu").score(item[0][0].images_BHWC, chunks[0].samples)
    )


def test_a_scorer_that_fails_ends_the_epoch_with_its_own_error(
    samples: list[Sample], adapter: Adapter
) -> None:
    chunks = epoch_chunks(recipe_with(1).ddpo, samples, 0, 0)
    with RayRollouts.placed(recipe_with(1), Failing) as rollouts:
        for says in SAYS:
            with pytest.raises(ScorerError, match=says):
                rollouts.collect(adapter, chunks[:1])
