"""Files of the ``generation`` output: ``generation.json``, one Parquet row per image, one PNG a
prompt with the models below each other.

Leaves out: the numbers (see `generation`), and reading them again (see `image_rows`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from boig_core.evaluation.measure.generation import ImageMeasures
from boig_core.evaluation.measure.image_rows import GENERATION_FILE, GUTTER, IMAGES_FILE
from boig_core.evaluation.measure.judges import distances
from boig_core.evaluation.measure.sampling_plan import ROWS, Plan

_ENLARGE: Final = 3
_LARGE: Final = 128
"""Images of this side are shown as they are: a person sees nothing in 32 pixels, and a grid of
enlarged 512 fills the memory."""


def write_generation(
    folder: Path,
    summary: Mapping[str, Any],
    plan: Plan,
    images: Mapping[str, NDArray[np.uint8]],
    measured: Mapping[str, ImageMeasures],
) -> None:
    """Write all files of the output.

    Args:
        folder: exists, empty.
        summary: content of ``generation.json``; the prompts and their grids are added here.
        plan: prompts and seeds.
        images: (N, H, W, 3) by row of the report; grids show those with guidance, in this order.
        measured: the same rows.
    """
    (folder / "grids").mkdir()
    # A grid shows what a deployment would make, and that is with guidance.
    shown = [model for model in images if ROWS[model].guided]
    prompts = []
    for index, sample in enumerate(plan.samples):
        rows = [
            images[model][index * plan.images_per_prompt : (index + 1) * plan.images_per_prompt]
            for model in shown
        ]
        path = f"grids/{index:03d}.png"
        make_grid(rows).save(folder / path, optimize=True)
        rewritten = {way: texts[index] for way, texts in plan.rewritten.items()}
        prompts.append(
            {
                "id": sample.id,
                "company": sample.company,
                "text": sample.text,
                "rewritten": rewritten,
                "grid": path,
            }
        )
    body = {"schema_version": 1, **summary, "prompts": prompts, "grid_rows": shown}
    (folder / GENERATION_FILE).write_text(
        json.dumps(body, indent=1, allow_nan=False), encoding="utf-8"
    )
    _write_table(folder / IMAGES_FILE, plan, measured)


def make_grid(rows: list[NDArray[np.uint8]]) -> Image.Image:
    """Rows of images (K, H, W, 3) below each other, small ones enlarged without smoothing;
    transparent between them."""
    count, height, width, _ = rows[0].shape
    times = _ENLARGE if max(height, width) < _LARGE else 1
    step_y, step_x = height * times + GUTTER, width * times + GUTTER
    canvas = np.zeros((len(rows) * step_y - GUTTER, count * step_x - GUTTER, 4), np.uint8)
    for r, row_KHWC in enumerate(rows):
        for k, image_HWC in enumerate(row_KHWC):
            large_HWC = image_HWC.repeat(times, axis=0).repeat(times, axis=1)
            canvas[r * step_y :, k * step_x :][: height * times, : width * times, :3] = large_HWC
            canvas[r * step_y :, k * step_x :][: height * times, : width * times, 3] = 255
    return Image.fromarray(canvas)


def _write_table(path: Path, plan: Plan, measured: Mapping[str, ImageMeasures]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    tables = []
    for model, measures in measured.items():
        count = len(plan.seeds)
        columns: dict[str, Any] = {
            "model": [model] * count,
            "sample": [sample.id for sample in plan.owners],
            "bucket": [sample.bucket for sample in plan.owners],
            "account": [sample.account for sample in plan.owners],
            "prompt": plan.prompts(ROWS[model]),
            "seed": list(plan.seeds),
            "reward": measures.reward_N,
            # Typed nulls: tables of all models are joined, and an untyped column would fit none
            # that has values.
            "judge": pa.nulls(count, pa.float64())
            if measures.judge_N is None
            else measures.judge_N,
            "aesthetic": pa.nulls(count, pa.float64())
            if measures.aesthetic_N is None
            else measures.aesthetic_N,
            "clip": measures.clip_N,
            "clip_mismatched": measures.mismatched_N,
            "diversity": distances(
                measures.embedding_ND.reshape(len(plan.samples), plan.images_per_prompt, -1)
            ).reshape(-1),
            "named": measures.named_N,
        }
        tables.append(pa.table(columns))
    pq.write_table(pa.concat_tables(tables), path)
