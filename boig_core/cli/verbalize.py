"""``boig verbalize``: an image in words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from boig_core.cli.options import (
    Json,
)


def verbalize(
    image: Path,
    recipe: Annotated[str, typer.Option(help="Recipe whose perception is used.")] = "tiny",
    as_json: Json = False,
) -> None:
    """Describe an image file: colors, tones and objects, boxes in pixels of the image. Needs
    neither Ray nor Airflow."""
    from boig_core.config import load_recipe
    from boig_core.data.images import load
    from boig_core.perception.describe import Perceiver
    from boig_core.verbalization.answer import print_answer, to_answer

    settings = load_recipe(recipe)
    pixels = load(image, settings.data.max_pixels)
    perceiver = Perceiver.from_recipe(settings.perception)
    seen = perceiver.describe([pixels])[0].scaled(
        pixels.shape[1] / perceiver.side, pixels.shape[0] / perceiver.side
    )
    print(json.dumps(to_answer(seen)) if as_json else print_answer(seen))
