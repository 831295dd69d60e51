"""``boig verbalize``: an image in words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from boig_core.cli.options import (
    Json,
)
from boig_core.cli.show import show


def verbalize(
    image: Annotated[
        Path, typer.Argument(help="Image file: JPEG, PNG, WebP, GIF, BMP, AVIF or HEIC.")
    ],
    recipe: Annotated[
        str,
        typer.Option(
            help="Recipe whose section perception is used: a name that boig recipe list prints, or the path of a YAML file."
        ),
    ] = "tiny",
    as_json: Json = False,
) -> None:
    """Print what is seen in an image file: colors, tones and objects with their boxes, in pixels of
    the image. It needs neither Ray nor Airflow."""
    from boig_core.config import load_recipe
    from boig_core.data.imaging.decoding import load
    from boig_core.perception.describe import Perceiver
    from boig_core.verbalization.answer import print_answer, to_answer

    settings = load_recipe(recipe)
    pixels = load(image, settings.data.max_pixels)
    perceiver = Perceiver.from_recipe(settings.perception)
    seen = perceiver.describe([pixels])[0].scaled(
        pixels.shape[1] / perceiver.side, pixels.shape[0] / perceiver.side
    )
    show(json.dumps(to_answer(seen)) if as_json else print_answer(seen))
