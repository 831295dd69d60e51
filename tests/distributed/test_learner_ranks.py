"""Real processes over gloo: two ranks align a model as one does, with a moving average, a
divergence and rollouts sampled ahead."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from boig_core.config import load_recipe
from boig_core.diffusion.learner import Learner
from boig_core.diffusion.lora import Adapter
from boig_core.diffusion.rollout import LocalRollouts, Sampler
from boig_core.training.checkpoint import Checkpoints
from boig_core.training.engine import init_process_group
from boig_core.training.ranks import rank
from boig_core.vocabulary import Sample
from tests.processes import run_ranks

SETTINGS = (
    "ddpo.epochs=3", "ddpo.prompts=4", "ddpo.images_per_prompt=2", "ddpo.sampling_steps=4", "ddpo.window=2", "ddpo.chunk=4",
    "ddpo.micro_batch=2", "ddpo.updates=2", "ddpo.lora_rank=4", "ddpo.probe_every=null", "ddpo.ema=0.8",
)  # fmt: skip
SAMPLES = [
    Sample(
        f"s{i}", f"p{i}", "a", "c", "2020", f"a {word} ball", (), 1, 95, "high", "train", "0", 8, 8
    )
    for i, word in enumerate(("red", "green", "blue", "black"))
]


class Warmth:
    """Red minus blue."""

    def score(self, images: Any, samples: Any) -> Any:
        return (images[..., 0].astype(float) - images[..., 2]).mean(axis=(1, 2)) / 255


def align(task: str, *settings: str) -> tuple[list[dict[str, float]], Adapter, str]:
    """On each rank: rows, published weights and checksum of the last weights."""
    torch.set_num_threads(1)
    init_process_group()
    recipe = load_recipe("tiny", [*SETTINGS, *settings])
    rows: list[dict[str, float]] = []
    rollouts: Any = LocalRollouts(Sampler(recipe), Warmth()) if rank() == 0 else None
    learner = Learner(
        recipe, SAMPLES, rollouts, Checkpoints(task, 1), lambda epoch, row: rows.append(row)
    )
    return rows, learner.fit(), learner._policy().checksum


@pytest.mark.parametrize(
    "settings",
    [("ddpo.anchor=ema", "ddpo.kl=0.5"), ("ddpo.kl=0.5", "ddpo.ahead=true")],
    ids=["held to the average", "held to the base, ahead"],
)
def test_two_ranks_align_as_one(tmp_path: Path, settings: tuple[str, ...]) -> None:
    ((rows, published, _),) = run_ranks(align, 1, str(tmp_path / "one"), *settings)
    (rows_of_two, published_of_two, last), (no_rows, other, other_last) = run_ranks(
        align, 2, str(tmp_path / "two"), "ddpo.workers=2", *settings
    )
    assert no_rows == []
    assert other.checksum == published_of_two.checksum
    assert other_last == last != published.checksum
    for row, of_two in zip(rows, rows_of_two, strict=True):
        for name in (
            "reward",
            "kl",
            "grad_norm",
            "approx_kl",
            "ratio_min",
            "ratio_max",
            *(n for n in row if n.startswith("off_policy")),
        ):
            assert of_two[name] == pytest.approx(row[name], rel=1e-3), name
    assert rows[-1]["kl"] > 0
    for name, weights in published.weights.items():
        np.testing.assert_allclose(
            published_of_two.weights[name], weights, rtol=0, atol=1e-5, err_msg=name
        )
