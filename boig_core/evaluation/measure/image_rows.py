"""What an evaluation has published, read again image by image: for a comparison of several. Imports
no torch.

Leaves out: writing it (see `files`). Shape letter: N images of a row.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from boig_core.errors import CorruptError

GENERATION_FILE: Final = "generation.json"
IMAGES_FILE: Final = "images.parquet"
GUTTER: Final = 4
"""Pixels between the images of a grid."""


@dataclass(frozen=True)
class Images:
    """One row's images as the table has them, in the order of the plan.

    Attributes:
        samples: sample that each image (N) is for.
        prompts: text that it was made from.
        seeds: of its starting noise.
        values: by measure (N): ``reward``, ``judge``, ``clip_margin``, ``diversity``; None where it
            was not measured.
    """

    samples: tuple[str, ...]
    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    values: Mapping[str, NDArray[np.float64] | None]


def read_images(folder: Path, model: str) -> Images:
    """Images of one row of a fetched ``generation`` output.

    Raises:
        CorruptError: the table cannot be read, or has no such row.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        columns = pq.read_table(folder / IMAGES_FILE, filters=[("model", "=", model)]).to_pydict()
        clip_margin = np.subtract(columns["clip"], columns["clip_mismatched"])
        # Tables of older evaluations lack some columns; those are not known, not broken.
        measures = {name: columns.get(name) for name in ("reward", "judge", "diversity")}
        images = Images(
            tuple(columns["sample"]),
            tuple(columns["prompt"]),
            tuple(columns["seed"]),
            {"clip_margin": clip_margin} | _known(measures),
        )
    except (OSError, pa.ArrowException, KeyError) as exc:
        raise CorruptError(IMAGES_FILE, f"cannot be read ({exc})", "run evaluate_sd again") from exc
    if not images.samples:
        raise CorruptError(IMAGES_FILE, f"has no images of {model}", "run evaluate_sd again")
    return images


def _known(
    columns: Mapping[str, list[float | None] | None],
) -> dict[str, NDArray[np.float64] | None]:
    return {
        # All or nothing: a mean over the images that happen to have a value would pair with no
        # other.
        name: None if not values or None in values else np.array(values, np.float64)
        for name, values in columns.items()
    }


def cut_row(grid: Path, rows: int, index: int) -> bytes:
    """One row of a grid of so many, as PNG."""
    with Image.open(grid) as whole:
        # Gutters stand between rows alone: with one more, all rows are equally high.
        step = (whole.height + GUTTER) // rows
        buffer = io.BytesIO()
        whole.crop((0, index * step, whole.width, (index + 1) * step - GUTTER)).save(
            buffer, format="PNG"
        )
    return buffer.getvalue()
