"""The shipped tiny model under a recipe that is small enough for a test."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from boig_core.config import Recipe, load_recipe
from boig_core.vocabulary import Sample

BASE = "package:tiny-sd"
SMALL = (
    "epochs=2",
    "prompts=4",
    "images_per_prompt=2",
    "sampling_steps=5",
    "window=2",
    "chunk=4",
    "micro_batch=3",
    "updates=2",
    "lora_rank=4",
)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def recipe() -> Recipe:
    return load_recipe("tiny", [f"sd.base={BASE}", *(f"ddpo.{setting}" for setting in SMALL)])


@pytest.fixture
def samples() -> list[Sample]:
    colors = ("red", "green", "blue", "yellow", "white", "black", "pink")
    return [
        Sample(f"s{i}", f"p{i}", "a", "c", "2020-01-01T00:00:00Z", f"a {color} ball", (), 50, 95, "high", "train", "0" * 64, 128, 128)
        for i, color in enumerate(colors)
    ]


class Warmth:
    """A reward that the pixels alone decide: red minus blue."""

    def score(self, images: NDArray[np.uint8], samples: Sequence[Sample]) -> NDArray[np.float64]:
        return (images[..., 0].astype(np.float64) - images[..., 2]).mean(axis=(1, 2)) / 255


@pytest.fixture
def warmth() -> Warmth:
    return Warmth()
