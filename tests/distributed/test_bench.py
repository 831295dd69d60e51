"""Real Ray: the bench trains under Ray Train on what the pools sample and score, and says how long
the pools had nothing to do."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import ray

pytestmark = pytest.mark.usefixtures("ray_cluster")

SETTINGS = [
    "ddpo.prompts=4", "ddpo.images_per_prompt=2", "ddpo.sampling_steps=4", "ddpo.window=2", "ddpo.chunk=2", "ddpo.micro_batch=2",
    "ddpo.updates=2", "ddpo.rollout_actors=1", "llm.hidden=32",
]  # fmt: skip


def test_pools_and_ranks_are_measured_beside_a_plain_loop(tmp_path: Path) -> None:
    small = [part for setting in SETTINGS for part in ("--set", setting)]
    command = [
        sys.executable,
        "-m",
        "boig_core.cli",
        "bench",
        "ddpo",
        "tiny",
        "--epochs",
        "1",
        "--ray",
        "--json",
        *small,
    ]
    env = {**os.environ, "RAY_ADDRESS": ray.get_runtime_context().gcs_address}  # the tests' own Ray
    done = subprocess.run(
        command, env=env, capture_output=True, text=True, timeout=1500, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr[-1000:]
    speed = json.loads(done.stdout.splitlines()[-1])
    assert speed["images"] == 8
    assert speed["sampling_s"] is None  # other processes sample
    assert speed["rollouts_s"] + speed["update_s"] == pytest.approx(speed["epoch_s"])
    assert speed["times_sequential"] == pytest.approx(speed["sequential_s"] / speed["epoch_s"])
    assert set(speed["idle"]) == {"idle_rollout_actors", "idle_reward_actors", "idle_learner"}
    # 1 is said of a pool that did nothing.
    assert all(0 <= share < 1 for share in speed["idle"].values())
    assert speed["idle"]["idle_learner"] == pytest.approx(speed["rollouts_s"] / speed["epoch_s"])
    assert list(tmp_path.iterdir()) == []
