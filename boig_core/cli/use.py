"""``boig generate`` and ``boig describe``: images of a promoted model, and what BoigLLM would have
in them."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast, get_args

import typer

from boig_core.cli.options import Json
from boig_core.cli.show import show
from boig_core.errors import InputError
from boig_core.escapes import visible
from boig_core.verbalization.answer import LOOK, to_answer

if TYPE_CHECKING:
    from boig_core.serving.published import PublishedModel
    from boig_core.vocabulary import Description

Text = Annotated[str, typer.Argument(help="Text of the post that the image is for.")]
Account = Annotated[
    str, typer.Option(help="Account whose post it is: one that the model was trained on.")
]
Model = Annotated[
    str,
    typer.Option(
        help="Model: champion or previous in MLflow's registry (MLFLOW_TRACKING_URI), or its folder in the store."
    ),
]


def generate(
    text: Text,
    account: Account,
    out: Annotated[Path, typer.Option(help="New folder for the images.")],
    aim: Annotated[
        Literal["high"] | None,
        typer.Option(
            help="Rank the images by the reward that the model was aligned to, best first; BoigSD aims at a high KPI."
        ),
    ] = None,
    count: Annotated[int, typer.Option("-n", min=1, max=256, help="How many images.")] = 4,
    seed: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=2**32 - 1,
            help="Seed of the first image, the next one has the next; default: drawn.",
        ),
    ] = None,
    model: Model = "champion",
    as_json: Json = False,
) -> None:
    """Make images for a post by a published model: PNG files, each with its origin in its XMP, and
    a page that shows them. It needs neither Ray nor Airflow."""
    from boig_core.observability.progress import Progress
    from boig_core.serving import generate as generating
    from boig_core.serving.gallery import GALLERY
    from boig_core.serving.published import require_text

    generating.require_free(out)
    words = require_text(text)
    with _opened(model) as published:
        published.require_account(account)
        first = generating.draw_seed() if seed is None else seed
        request = generating.GenerationRequest(words, account, count, first, aim == "high")
        progress = Progress("images", count, _tell, every_s=2)
        record = generating.generate(
            published, request, out, lambda images: progress.add([None] * images)
        )
    if as_json:
        show(json.dumps(record, indent=1))
        return
    for row in record["images"]:
        reward = f"  reward {row['reward']:.2f}" if "reward" in row else ""
        show(f"{out / row['file']}{reward}")
    show(f"{out / GALLERY} shows them; model {record['model']}")


def describe(
    text: Text,
    account: Account,
    aim: Annotated[
        Literal["high", "low"],
        typer.Option(help="KPI that the post should reach: the account's usual high or low one."),
    ] = "high",
    sketch: Annotated[
        Path | None,
        typer.Option(help="SVG file to draw it into: boxes of the objects, and the colors."),
    ] = None,
    model: Model = "champion",
    as_json: Json = False,
) -> None:
    """Print what BoigLLM would have in the image of a post: colors, tones and objects with their
    boxes. It asks the BoigLLM that the model was aligned by."""
    from boig_core.serving import describe as describing
    from boig_core.serving.published import require_text

    words = require_text(text)
    with _opened(model) as published:
        answer, post = describing.describe(published, words, account, aim)
        place = published.place
    if sketch is not None:
        sketch.write_text(describing.sketch(answer, post.width, post.height), "utf-8")
    if as_json:
        size = {"width": post.width, "height": post.height}
        show(json.dumps({"model": place, "aim": aim, **size, "description": to_answer(answer)}))
        return
    print_description(answer, post.width, post.height, aim)
    if sketch is not None:
        show(f"sketch: {sketch}")


def print_description(description: Description, width: int, height: int, aim: str) -> None:
    """A description as a table for a terminal."""
    from rich.console import Console

    from boig_core.observability.tables import print_table

    answer = to_answer(description)
    look = answer[LOOK]
    console = Console()
    print_table(
        console,
        f"Image of {width} x {height} pixels for a {aim} KPI",
        ("color or tone", "share"),
        {
            **{name: (f"{color['coverage']:.0%}",) for name, color in look["colors"].items()},
            **{f"{tone} tones": (f"{share:.0%}",) for tone, share in look["tones"].items()},
        },
    )
    if answer["objects"]:
        print_table(
            console,
            "Objects, by their boxes in pixels",
            ("object", "left", "top", "right", "bottom"),
            {name: tuple(f"{edge:.0f}" for edge in box) for name, box in answer["objects"].items()},
        )


@contextmanager
def _opened(model: str) -> Iterator[PublishedModel]:
    """The model that an alias of the registry or a folder names."""
    from boig_core.orchestration.promotion import registry
    from boig_core.serving.published import open_published

    uri: str | None = model
    if model in get_args(registry.Alias):
        uri = registry.model_of(cast(registry.Alias, model))
        if uri is None:
            raise InputError(
                f"--model {model}",
                f"names no model: the registry has no {model} yet",
                "promote one with boig_promote, or give the model's folder",
            )
    with tempfile.TemporaryDirectory(prefix="boig-use-") as scratch:
        yield open_published(str(uri), Path(scratch))


def _tell(line: str) -> None:
    """Print a line of progress; standard output holds the result alone."""
    sys.stderr.write(f"{visible(line)}\n")
