"""Real processes over gloo: two ranks align a model as one does, with a moving average, a divergence and rollouts sampled ahead."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

ALIGNING = """
import os, sys
import torch
from boig_core.config import load_recipe
from boig_core.diffusion.learner import Learner
from boig_core.diffusion.rollout import LocalRollouts, Sampler
from boig_core.training.checkpoint import Checkpoints
from boig_core.training.engine import init_process_group, rank
from boig_core.vocabulary import Sample

task, out, *settings = sys.argv[1:]
torch.set_num_threads(1)
init_process_group()
recipe = load_recipe("tiny", [
    "ddpo.epochs=3", "ddpo.prompts=4", "ddpo.images_per_prompt=2", "ddpo.sampling_steps=4", "ddpo.window=2", "ddpo.chunk=4",
    "ddpo.micro_batch=2", "ddpo.updates=2", "ddpo.lora_rank=4", "ddpo.probe_every=null", *settings,
])
samples = [
    Sample(f"s{i}", f"p{i}", "a", "c", "2020", f"a {word} ball", (), 1, 95, "high", "train", "0", 8, 8)
    for i, word in enumerate(("red", "green", "blue", "black"))
]

class Warmth:
    def score(self, images, samples):
        return (images[..., 0].astype(float) - images[..., 2]).mean(axis=(1, 2)) / 255

rows = []
rollouts = LocalRollouts(Sampler(recipe), Warmth()) if rank() == 0 else None
learner = Learner(recipe, samples, rollouts, Checkpoints(task, 1), lambda epoch, row: rows.append(row))
published = learner.fit()
torch.save((rows, published, learner._policy().checksum), f"{out}-{rank()}.pt")
os._exit(0)  # gloo's threads may still run at an ordinary exit, which aborts the process now and then; all is written
"""


def align(folder: Path, ranks: int, *settings: str) -> list[Any]:
    """Rows, published weights and checksum of the last weights, of each rank of a training in processes of its own."""
    script, out = folder / "aligning.py", folder / f"out-{ranks}"
    script.write_text(ALIGNING)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", str(script)]
    arguments = [str(folder / f"task-{ranks}"), str(out), f"ddpo.workers={ranks}", *settings]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, *arguments], env=environment, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return [torch.load(f"{out}-{rank}.pt", weights_only=False) for rank in range(ranks)]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "settings",
    [("ddpo.anchor=ema", "ddpo.kl=0.5"), ("ddpo.kl=0.5", "ddpo.ahead=true")],
    ids=["held to the average", "held to the base, ahead"],
)
def test_two_ranks_align_as_one(tmp_path: Path, settings: tuple[str, ...]) -> None:
    ((rows, published, _),) = align(tmp_path, 1, "ddpo.ema=0.8", *settings)
    (rows_of_two, published_of_two, last), (no_rows, other, other_last) = align(tmp_path, 2, "ddpo.ema=0.8", *settings)
    assert no_rows == []
    assert other.checksum == published_of_two.checksum
    assert other_last == last != published.checksum
    for row, of_two in zip(rows, rows_of_two, strict=True):
        for name in ("reward", "kl", "grad_norm", "approx_kl", "ratio_min", "ratio_max", *(n for n in row if n.startswith("off_policy"))):
            assert of_two[name] == pytest.approx(row[name], rel=1e-3), name
    assert rows[-1]["kl"] > 0
    for name, weights in published.weights.items():
        np.testing.assert_allclose(published_of_two.weights[name], weights, rtol=0, atol=1e-5, err_msg=name)
