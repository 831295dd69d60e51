"""Files of a training's state, opened as data alone: one that asks for more than tensors, plain
values and a few classes is refused before anything of it runs, whoever wrote it.

Leaves out: what the files hold (see `engine`), and whether they are whole (see `checkpoint`).
"""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch.serialization import safe_globals

from boig_core.errors import CorruptError, RecipeError

REMEDY: Final = "remove this checkpoint, or start a new run"
_GLOBAL: Final = re.compile(r"GLOBAL (\S+)")


def open_state(
    path: str | Path, classes: Sequence[Any], map_location: Any = "cpu", *, mmap: bool = False
) -> Any:
    """What `torch.save` has written.

    Args:
        path: the file.
        classes: what may stand in it beside tensors and plain values.
        map_location: as for `torch.load`.
        mmap: leave the tensors' bytes on the disk until they are read.

    Raises:
        CorruptError: it holds something else, or is no such file.
    """
    try:
        with safe_globals(list(classes)):
            return torch.load(path, map_location=map_location, mmap=mmap, weights_only=True)
    except OSError:
        raise
    # Whatever a file of a stranger makes a decoder raise; torch itself names a dozen classes.
    except Exception as exc:
        asked = _GLOBAL.search(str(exc)) if isinstance(exc, pickle.UnpicklingError) else None
        rule = (
            f"asks for {asked[1]}, which no training state of boig holds"
            if asked
            else f"is no training state ({type(exc).__name__})"
        )
        raise CorruptError(Path(path).name, rule, REMEDY) from exc


def open_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """What `numpy.savez` has written.

    Raises:
        CorruptError: it holds something else than arrays of numbers, or is no such file.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: np.asarray(stored[name]) for name in stored.files}
    except OSError:
        raise
    except Exception as exc:
        raise CorruptError(path.name, f"holds no arrays ({type(exc).__name__})", REMEDY) from exc
    if odd := [name for name, array in arrays.items() if array.dtype.kind not in "iufb"]:
        raise CorruptError(path.name, f"{odd[0]} is no array of numbers", REMEDY)
    return arrays


def read_layout(path: Path) -> dict[str, Any]:
    """``ranks``, ``zero_stage`` and ``groups`` (shape by name of what was trained) of the training
    that wrote a checkpoint.

    Raises:
        RecipeError: the folder holds no state of an engine.
        CorruptError: the file is no layout.
    """
    if not path.is_file():
        raise RecipeError(
            str(path.parent), "holds no engine state", "give the folder of a complete checkpoint"
        )
    try:
        layout = json.loads(path.read_text())
        return {key: layout[key] for key in ("ranks", "zero_stage", "groups")}
    except (ValueError, KeyError, TypeError) as exc:
        raise CorruptError(path.name, f"is no layout ({type(exc).__name__})", REMEDY) from exc
