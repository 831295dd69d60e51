"""What a training holds beside its engine: the moving average of the weights, the best policy, and
the one that samples ahead.

All are in each checkpoint. Leaves out: when they change and what they are used for (`learner`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from boig_core.diffusion.lora import Adapter, checksum
from boig_core.errors import RecipeError
from boig_core.training.engine import Engine
from boig_core.training.ranks import rank
from boig_core.training.state_file import open_arrays

_AVERAGE: Final = "ema.npz"
_BEST: Final = "best.npz"
_AHEAD: Final = "ahead.npz"
_WEIGHT: Final = "weight:"


class Average:
    """Exponential moving average of a UNet's trainable weights, in float32 where they are.

    It starts as the weights that it finds; every rank holds it, and all hold the same.

    Args:
        unet: prepared by `lora.make_trainable`.
        decay: share of the average that an update keeps.
    """

    def __init__(self, unet: Any, decay: float) -> None:
        self.decay = decay
        self._trained: dict[str, torch.nn.Parameter] = {
            name: p for name, p in unet.named_parameters() if p.requires_grad
        }
        # float32, since a share of 1 - decay would be rounded away in bfloat16. A copy, since
        # `float` gives back the parameter's own memory where that is float32 already.
        self.weights = {name: p.detach().float().clone() for name, p in self._trained.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights as they are: average = decay * average + (1 - decay) * weights."""
        for name, parameter in self._trained.items():
            self.weights[name].mul_(self.decay).add_(parameter.float(), alpha=1 - self.decay)

    def adapter(self, version: int) -> Adapter:
        """A copy, as it travels."""
        weights = {name: weight.cpu().numpy().copy() for name, weight in self.weights.items()}
        return Adapter(version, weights, checksum(weights))

    def save(self, folder: Path) -> None:
        """Rank 0 writes ``ema.npz``."""
        if rank() == 0:
            arrays: dict[str, Any] = {
                name: weight.cpu().numpy() for name, weight in self.weights.items()
            }
            np.savez(folder / _AVERAGE, **arrays)

    def load(self, folder: Path) -> None:
        """Continue from what `save` wrote; every rank reads it.

        Raises:
            RecipeError: the checkpoint is of a training without an average, or of another model.
            CorruptError: the file holds no arrays.
        """
        if not (folder / _AVERAGE).is_file():
            raise RecipeError(
                "ddpo.ema",
                "the checkpoint was written without it",
                "start a new run, or leave it out",
            )
        stored = open_arrays(folder / _AVERAGE)
        if stored.keys() != self.weights.keys():
            raise RecipeError(
                "ddpo.ema",
                "the checkpoint's average is of other weights",
                "keep ddpo.lora_rank, or start a new run",
            )
        for name, weight in self.weights.items():
            weight.copy_(torch.from_numpy(stored[name]))


@dataclass
class AlignmentState:
    """The engine, and beside it the moving average, the best policy
    (`boig_core.training.monitors.quality`) and the one that samples ahead: one checkpoint holds
    all.

    Attributes:
        engine: what trains.
        quality: of the best epoch.
        adapter: the weights that epoch began with; None where none was offered.
        average: the moving average of the weights; None where the recipe asks for none.
        ahead: on rank 0, and on all after `load`, the weights that sample the next epoch while this
            one's update changes them; None where none are sampled ahead.
    """

    engine: Engine
    quality: float = float("-inf")
    adapter: Adapter | None = None
    average: Average | None = None
    ahead: Adapter | None = None

    def offer(self, quality: float, policy: Callable[[], Adapter]) -> None:
        """Keep the policy if it is the best so far."""
        if quality > self.quality:
            self.quality, self.adapter = quality, policy()

    def save(self, folder: Path) -> None:
        """The engine's files, the average's, and ``best.npz`` and ``ahead.npz`` of rank 0, where
        there are such policies."""
        self.engine.save(folder)
        if self.average is not None:
            self.average.save(folder)
        if self.adapter is not None:
            _write(folder / _BEST, self.adapter, self.quality)
        if self.ahead is not None:
            _write(folder / _AHEAD, self.ahead)

    def load(self, folder: Path) -> None:
        """Continue from what `save` wrote on all ranks."""
        self.engine.load(folder)
        if self.average is not None:
            self.average.load(folder)
        # Only rank 0 offers and publishes a best policy. The one that samples ahead is for every
        # rank, since each checks its rollouts against the weights that made them.
        if rank() == 0 and (folder / _BEST).is_file():
            self.adapter, self.quality = _read(folder / _BEST)
        if (folder / _AHEAD).is_file():
            self.ahead, _ = _read(folder / _AHEAD)


def _write(file: Path, adapter: Adapter, quality: float = 0.0) -> None:
    # The prefix keeps weights apart from `arr_0`, as numpy calls the array without a name.
    arrays: dict[str, Any] = {_WEIGHT + name: weight for name, weight in adapter.weights.items()}
    np.savez(file, np.array([quality, adapter.version]), **arrays)


def _read(file: Path) -> tuple[Adapter, float]:
    stored = open_arrays(file)
    quality, version = stored["arr_0"].tolist()
    weights = {
        name.removeprefix(_WEIGHT): array
        for name, array in stored.items()
        if name.startswith(_WEIGHT)
    }
    return Adapter(int(version), weights, checksum(weights)), quality
