"""The best weights so far and when to stop: what validation decides during a training.

Best and last are kept apart: a checkpoint holds the engine as it stands (to go on) and, beside it,
the weights of the best validation (to be published). Leaves out: measuring the loss (see `loss`),
and where checkpoints go (see `boig_core.training.checkpoint`).
"""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from boig_core.errors import CorruptError
from boig_core.training.engine import Engine
from boig_core.training.ranks import rank
from boig_core.training.state_file import REMEDY

_WEIGHTS = "best.safetensors"


@dataclass(frozen=True)
class History:
    """Validation losses that decide something, as a checkpoint carries them, in the unit of the
    task's loss (BoigLLM: nats per token).

    Attributes:
        first: before the first step.
        last: of the newest validation.
        best: the lowest after the first step.
        best_step: steps done then.
        since: validations since then.
    """

    first: float | None = None
    last: float | None = None
    best: float | None = None
    best_step: int = 0
    since: int = 0

    @property
    def fell(self) -> bool | None:
        """Whether any validation found a lower loss than before the first step; none without
        two."""
        return None if self.first is None or self.best is None else self.best < self.first


class FinetuneState:
    """An engine with the best weights that it had: what a checkpoint of BoigLLM saves. Every rank
    calls the same methods.

    Args:
        engine: that trains.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._scratch = tempfile.TemporaryDirectory(prefix="boig-best-")
        self.history = History()

    def judge(self, step: int, loss: float) -> None:
        """Take note of a validation after ``step`` steps; of 0 steps no weights are kept, and a
        loss that is not finite says nothing."""
        if not math.isfinite(loss):
            return
        history = replace(self.history, last=loss, since=self.history.since + 1)
        if step == 0:
            history = History(first=loss, last=loss)
        elif self.history.best is None or loss < self.history.best:
            # Gathering needs every rank: they know the same loss, so all come here or none does.
            weights = self._engine.state_dict(trained_only=True, everywhere=False)
            if rank() == 0:
                from safetensors.torch import save_file

                save_file(weights, self._file)
            history = replace(history, best=loss, best_step=step, since=0)
        self.history = history

    def weights(self) -> dict[str, Tensor]:
        """The trained weights of the best validation, on rank 0; empty elsewhere."""
        return _read(self._file) if self._file.exists() else {}

    def state(self) -> dict[str, Any]:
        """The history as JSON holds it."""
        return asdict(self.history)

    def resume(self, state: Mapping[str, Any]) -> None:
        """Take up a history again."""
        self.history = History(**state)

    def save(self, folder: Path) -> None:
        """Write this rank's part of the engine, and on rank 0 the best weights."""
        self._engine.save(folder)
        # Rank 0 alone has one, and before the first best nobody.
        if self._file.exists():
            shutil.copyfile(self._file, folder / _WEIGHTS)

    def load(self, folder: Path) -> None:
        """Continue from what `save` wrote on all ranks.

        Raises:
            CorruptError: the best weights cannot be read.
        """
        self._engine.load(folder)
        if rank() == 0 and (folder / _WEIGHTS).exists():
            _read(folder / _WEIGHTS)  # now, and not when the training has ended
            shutil.copyfile(folder / _WEIGHTS, self._file)

    @property
    def _file(self) -> Path:
        return Path(self._scratch.name) / _WEIGHTS


def _read(file: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(file)
    except SafetensorError as exc:
        raise CorruptError(file.name, f"holds no weights ({exc})", REMEDY) from exc
