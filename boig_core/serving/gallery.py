"""``index.html``: the images of a generation on one page; everything inline, nothing is fetched.

The text comes from a stranger: it is escaped. Leaves out: the images in full size, to which the
page leads.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from typing import Any, Final

from PIL import Image

GALLERY: Final = "index.html"
_SIDE: Final = 512
"""Longest side of an image on the page, in pixels; a smaller image is shown as it is."""


def render(record: Mapping[str, Any], files: Mapping[str, bytes]) -> str:
    """The page.

    Args:
        record: content of ``generation.json``.
        files: PNG of each image that the record names.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("boig_core.serving"), autoescape=True, undefined=StrictUndefined
    )
    images = [{**row, **_inline(files[row["file"]])} for row in record["images"]]
    return environment.get_template("gallery.html.j2").render(**{**record, "images": images})


def _inline(png: bytes) -> dict[str, Any]:
    """An image's ``src``, and whether it is so small that it is shown larger than it is."""
    with Image.open(io.BytesIO(png)) as image:
        small = max(image.size) < _SIDE // 2
        image.thumbnail((_SIDE, _SIDE))
        buffer = io.BytesIO()
        # Anew, so that the page does not repeat what the file says of itself.
        image.convert("RGB").save(buffer, "PNG")
    data = base64.b64encode(buffer.getvalue()).decode()
    return {"src": f"data:image/png;base64,{data}", "small": small}
