"""Real Ray: the bench trains two ranks on what the pools sample and score, and says how long the pools had nothing to do."""

import functools
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import ray
from numpy.typing import NDArray

from boig_core.bench import made_up
from boig_core.cluster.bench import bench_on_ray
from boig_core.config import load_recipe
from boig_core.diffusion.bench import measured
from boig_core.vocabulary import Sample

pytestmark = pytest.mark.usefixtures("ray_cluster")

SETTINGS = [
    "ddpo.prompts=4", "ddpo.images_per_prompt=2", "ddpo.sampling_steps=4", "ddpo.window=2", "ddpo.chunk=2", "ddpo.micro_batch=2",
    "ddpo.updates=2", "ddpo.workers=2",
]  # fmt: skip


class Kept:
    """Red minus blue; leaves a file for each call, in a process of its own or not."""

    def __init__(self, folder: Path, device: str) -> None:
        assert device == "cpu"
        self.folder = folder

    def score(self, images: NDArray[np.uint8], samples: Sequence[Sample]) -> NDArray[np.float64]:
        (self.folder / f"{len(list(self.folder.iterdir())):03d}").touch()
        return (images[..., 0].astype(np.float64) - images[..., 2]).mean(axis=(1, 2))


def test_pools_and_ranks_are_measured_beside_a_plain_loop(tmp_path: Path) -> None:
    recipe = measured(load_recipe("tiny", SETTINGS), 1)
    seen, scratch = tmp_path / "seen", tmp_path / "scratch"
    seen.mkdir()
    speed = bench_on_ray(recipe, made_up(4), functools.partial(Kept, seen), scratch)
    assert speed.images == 8
    assert speed.sampling_s is None  # other processes sample
    assert speed.rollouts_s + speed.update_s == pytest.approx(speed.epoch_s)
    assert speed.sequential_s is not None
    assert set(speed.idle) == {"idle_rollout_actors", "idle_reward_actors", "idle_learner"}
    assert all(0 <= share < 1 for share in speed.idle.values())
    assert speed.idle["idle_learner"] == pytest.approx(speed.rollouts_s / speed.epoch_s)
    assert len(list(seen.iterdir())) == 2 * (4 + 4)  # two epochs of four chunks, by the pool and by the plain loop


def test_the_command_measures_the_recipes_reward_on_ray(tmp_path: Path) -> None:
    small = [part for setting in [*SETTINGS, "ddpo.workers=1", "llm.hidden=32"] for part in ("--set", setting)]
    command = [sys.executable, "-m", "boig_core.cli", "bench", "ddpo", "tiny", "--epochs", "1", "--ray", *small]
    env = {**os.environ, "RAY_ADDRESS": ray.get_runtime_context().gcs_address}  # the tests' own Ray
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=400, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-1000:]
    assert "rollouts and rewards" in done.stdout
    assert "idle: rollout actors" in done.stdout
    assert "times as long" in done.stdout
    assert list(tmp_path.iterdir()) == []
