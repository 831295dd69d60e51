"""What BoigLLM would have in the image of a post: asked, and drawn as a sketch.

Leaves out: making the image (see `generate`).
"""

from __future__ import annotations

from typing import Final, Literal

from boig_core.errors import InputError
from boig_core.serving.published import PublishedModel
from boig_core.vocabulary import PALETTE, Description, Sample

Aim = Literal["high", "low"]
_BAR: Final = 0.06
"""Height of the bar of colors below the sketch, as a share of the image's longer side."""
_LARGE: Final = 640.0
"""Longer side of the sketch, in units of the drawing."""
_GAP: Final = 10.0
"""Room between the sketch and the bar."""


def describe(
    model: PublishedModel, text: str, account: str, aim: Aim
) -> tuple[Description, Sample]:
    """What the BoigLLM that aligned a model expects in the image of a post that reaches a KPI, and
    the post, in whose pixels the boxes are.

    Args:
        model: that was aligned.
        text: of the post.
        account: whose post it is.
        aim: the account's usual high or low KPI.

    Raises:
        InputError: the account is unknown, nothing has aligned the model, or the answer cannot be
            parsed.
    """
    from boig_core.rewards.loading import load_models
    from boig_core.verbalization.templates import Wording, build_prompt

    model.require_account(account)
    pair, post = model.calibration.conditions.of(account), model.new_post(text, account)
    condition = pair.high_condition if aim == "high" else pair.low_condition
    prompt = build_prompt(post, condition, Wording.of(model.recipe))
    [answer] = load_models(model.input_folder("boigllm", "boigllm"), model.recipe).predict([prompt])
    if answer is None:
        raise InputError(
            "BoigLLM's answer",
            "cannot be parsed",
            "train it with llm.constrained, or for more steps",
        )
    return answer, post


def sketch(description: Description, width: int, height: int) -> str:
    """A description as an SVG: its objects as boxes in its colors, and the colors' shares below.

    The ground has the color that covers most. Which object has which color no description says: the
    largest box gets the next color, and so on.

    Args:
        description: with boxes in pixels.
        width: of the image, in pixels.
        height: of the image, in pixels.
    """
    from xml.sax.saxutils import escape

    scale = _LARGE / max(width, height)
    wide, high, bar = width * scale, height * scale, _LARGE * _BAR
    colors = sorted(description.colors, key=lambda name: -description.colors[name])
    fills = [_hex(name) for name in colors] or ["#ffffff"]
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide:.0f} {high + _GAP + bar:.0f}" '
        'font-family="system-ui, sans-serif" font-size="18">',
        f'<rect width="{wide:.0f}" height="{high:.0f}" fill="{fills[0]}"/>',
    ]
    boxes = sorted(description.objects.items(), key=lambda item: -_area(item[1]))
    for i, (name, (x1, y1, x2, y2)) in enumerate(boxes):
        fill = fills[(i + 1) % len(fills)]
        parts.append(
            f'<rect x="{x1 * scale:.1f}" y="{y1 * scale:.1f}" width="{(x2 - x1) * scale:.1f}" '
            f'height="{(y2 - y1) * scale:.1f}" fill="{fill}" stroke="{_ink(fill)}" stroke-width="2"/>'
            f'<text x="{x1 * scale + 8:.1f}" y="{y1 * scale + 24:.1f}" fill="{_ink(fill)}">'
            f"{escape(name)}</text>"
        )
    at = 0.0
    for name in colors:
        share = description.colors[name] * wide
        parts.append(
            f'<rect x="{at:.1f}" y="{high + _GAP:.1f}" width="{share:.1f}" height="{bar:.1f}" '
            f'fill="{_hex(name)}"><title>{escape(name)}</title></rect>'
        )
        at += share
    return "\n".join([*parts, "</svg>", ""])


def _hex(name: str) -> str:
    return "#{:02x}{:02x}{:02x}".format(*PALETTE[name])


def _ink(fill: str) -> str:
    """Black or white, whichever can be read on a color."""
    red, green, blue = (int(fill[i : i + 2], 16) for i in (1, 3, 5))
    return "#000000" if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else "#ffffff"


def _area(box: tuple[float, float, float, float]) -> float:
    x1, y1, x2, y2 = box
    return (x2 - x1) * (y2 - y1)
