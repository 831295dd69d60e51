"""The page of a comparison, in the manner of the report's: everything inline, nothing is fetched.

Numbers come from ``comparison.json`` alone; images stand beside them. Leaves out: deciding
anything.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from boig_core.evaluation.compare.comparison import headline
from boig_core.evaluation.measure.image_rows import cut_row
from boig_core.evaluation.report.page import environment, grid_file, spread
from boig_core.evaluation.report.plots import whiskers

TITLES: Final = {
    "reward": "Reward",
    "judge": "Judge",
    "clip_margin": "CLIP margin",
    "diversity": "Diversity",
}
_PROMPTS: Final = 8
"""Prompts whose images are in the page."""


@dataclass(frozen=True)
class VariantImages:
    """Where a variant's images are.

    Attributes:
        name: the variant.
        folder: its fetched evaluation.
        generation: content of its ``generation.json``.
    """

    name: str
    folder: Path
    generation: Mapping[str, Any]


def render_comparison(
    comparison: Mapping[str, Any], shown: Sequence[VariantImages], dataset: str
) -> str:
    """The page.

    Args:
        comparison: content of ``comparison.json``.
        shown: evaluated variants in its order.
        dataset: its name.
    """
    return (
        environment()
        .get_template("comparison.html.j2")
        .render(
            comparison=comparison,
            dataset=dataset,
            headline=headline(comparison),
            state="bad" if comparison["failed"] else "good",
            titles=TITLES,
            charts=[
                (title, svg)
                for measure, title in TITLES.items()
                if (svg := _chart(comparison, measure))
            ],
            prompts=_prompts(shown),
            sampled=["base", *(variant.name for variant in shown)],
        )
    )


def _chart(comparison: Mapping[str, Any], measure: str) -> str:
    """Differences from the reference by group, and below each group of several seeds those of each
    seed."""
    rows = []
    for name, group in comparison["groups"].items():
        row = (group["over_reference"] or {}).get(measure)
        if row:
            seeds = group["variants"] if len(group["variants"]) > 1 else []
            rows.append((f"{name}, {len(seeds)} seeds" if seeds else name, row))
            rows += [
                (f"seed {variant['seed']}", variant["over_reference"][measure])
                for variant in map(comparison["variants"].get, seeds)
            ]
    return whiskers(rows, digits=3 if measure == "diversity" else 2)


def _prompts(shown: Sequence[VariantImages]) -> list[dict[str, Any]]:
    """Prompts with a picture of each row: the base of the first evaluation, then each variant's own
    images."""
    first = shown[0]
    picked = []
    for index in spread(range(len(first.generation["prompts"])), _PROMPTS):
        prompt = first.generation["prompts"][index]
        # The base is the same in every evaluation: one row of it is enough.
        rows = [_row(first, index, "base"), *(_row(variant, index, "boigsd") for variant in shown)]
        picked.append({"company": prompt["company"], "text": prompt["text"], "rows": rows})
    return picked


def _row(variant: VariantImages, index: int, model: str) -> str:
    rows: list[str] = variant.generation["grid_rows"]
    grid = grid_file(variant.folder, variant.generation["prompts"][index]["grid"])
    picture = cut_row(grid, len(rows), rows.index(model))
    return "data:image/png;base64," + base64.b64encode(picture).decode()
