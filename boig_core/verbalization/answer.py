"""ANSWER: a Description as the JSON that BoigLLM writes, printed one way and parsed strictly.

    {"color and tones": {"colors": {NAME: {"coverage": f}}, "tones": {"warm": f, "neutral": f,
     "cool": f}}, "objects": {NAME: [x1, y1, x2, y2]}}

The canonical text has two digits per coverage, colors and objects from the largest down, and boxes
in whole pixels, so that one description has one text and a small model needs few tokens. Beside it
stands the engagement predictor's answer, a KPI from 0 to 100. Leaves out: the prompt (see
`templates`) and measuring (see `perception`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final, NoReturn

from boig_core.errors import InputError
from boig_core.vocabulary import PALETTE, TONES, Box, Description

LOOK: Final = "color and tones"
_REMEDY: Final = "write the ANSWER shape of `boig verbalize IMAGE --json`"


def to_answer(description: Description) -> dict[str, Any]:
    """A description as the tree of its ANSWER: coverage with two digits, boxes with one, the
    largest first."""
    # Ordered as it is printed, and by name where that is equal: one description has one text.
    colors = sorted(description.colors.items(), key=lambda item: (-round(item[1], 2), item[0]))
    objects = sorted(description.objects.items(), key=lambda item: (-_area(item[1]), item[0]))
    return {
        LOOK: {
            "colors": {name: {"coverage": round(share, 2)} for name, share in colors},
            "tones": {
                tone: round(description.tones[tone], 2)
                for tone in TONES
                if tone in description.tones
            },
        },
        "objects": {name: [round(edge, 1) for edge in box] for name, box in objects},
    }


def print_answer(description: Description) -> str:
    """The canonical text of a description: what BoigLLM learns to write, and what rewards
    teacher-force.

    Compact JSON on one line; parsing it gives the description back up to the rounding (0.01 of
    coverage, 1 pixel).
    """
    # Rounded before they are ordered, so that printing what was parsed gives the same text.
    whole = {
        name: (float(round(x1)), float(round(y1)), float(round(x2)), float(round(y2)))
        for name, (x1, y1, x2, y2) in description.objects.items()
    }
    tree = to_answer(replace(description, objects=whole))
    colors = ",".join(
        f'{json.dumps(name)}:{{"coverage":{color["coverage"]:.2f}}}'
        for name, color in tree[LOOK]["colors"].items()
    )
    tones = ",".join(f'"{tone}":{share:.2f}' for tone, share in tree[LOOK]["tones"].items())
    objects = ",".join(
        f"{json.dumps(name)}:[{','.join(str(int(edge)) for edge in box)}]"
        for name, box in tree["objects"].items()
    )
    return f'{{"{LOOK}":{{"colors":{{{colors}}},"tones":{{{tones}}}}},"objects":{{{objects}}}}}'


def parse_answer(text: str) -> Description:
    """The description that a text states.

    Raises:
        InputError: no JSON, another shape, a color or tone that is not in the vocabulary, or a
            number out of range.
    """
    try:
        # Python's own parser is laxer: of equal keys it keeps the last, and it reads NaN and
        # Infinity.
        tree = json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse)
    except InputError:
        raise
    # A number of thousands of digits is a ValueError alone.
    except (ValueError, RecursionError) as exc:
        raise InputError(_short(text), "is not JSON", _REMEDY) from exc
    return from_answer(tree)


def from_answer(tree: Any) -> Description:
    """The description that a parsed ANSWER states; keys beside ``color and tones`` and ``objects``
    are passed over.

    Raises:
        InputError: another shape, a color or tone that is not in the vocabulary, or a number out of
            range.
    """
    root = _mapping(tree, "the answer")
    look = _mapping(root.get(LOOK), f'"{LOOK}"')
    colors = {
        _known(name, PALETTE, "color of the palette"): _share(
            _mapping(color, f"color {name}").get("coverage"), name
        )
        for name, color in _mapping(look.get("colors"), '"colors"').items()
    }
    tones = {
        _known(tone, TONES, "tone"): _share(share, tone)
        for tone, share in _mapping(look.get("tones"), '"tones"').items()
    }
    objects = {
        _whole(name): _box(box, name)
        for name, box in _mapping(root.get("objects"), '"objects"').items()
    }
    return Description(colors, tones, objects)


def print_prediction(normalized: float, kpi: str = "likes") -> str:
    """The engagement predictor's answer: a KPI within its account, 0 to 100, as a whole number."""
    return f"{{{json.dumps(kpi)}:{round(normalized)}}}"


def parse_prediction(text: str, kpi: str = "likes") -> int:
    """The KPI, 0 to 100, that an engagement predictor's answer states.

    Raises:
        InputError: anything but a JSON object that holds ``kpi`` alone, as a whole number from 0 to
            100.
    """
    remedy = f"write {print_prediction(50, kpi)}"
    try:
        tree = _mapping(
            json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse), "the prediction"
        )
    except (ValueError, RecursionError) as exc:
        raise InputError(_short(text), "is no prediction", remedy) from exc
    value = tree.get(kpi)
    if (
        len(tree) != 1
        or not isinstance(value, int)
        # JSON's true would pass as 1.
        or isinstance(value, bool)
        or not 0 <= value <= 100
    ):
        raise InputError(_short(text), f"must be {kpi} alone, a whole number from 0 to 100", remedy)
    return value


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    tree = dict(pairs)
    if len(tree) < len(pairs):
        raise InputError(
            _short(json.dumps([key for key, _ in pairs])), "names a key twice", _REMEDY
        )
    return tree


def _refuse(constant: str) -> NoReturn:
    raise InputError(constant, "is no number of an answer", _REMEDY)


def _mapping(tree: Any, what: str) -> Mapping[str, Any]:
    if not isinstance(tree, dict):
        raise InputError(
            what, "must be a JSON object" if tree is not None else "is missing", _REMEDY
        )
    return tree


def _known(name: str, names: Mapping[str, Any] | tuple[str, ...], what: str) -> str:
    if name not in names:
        raise InputError(_short(name), f"is no {what}", f"use {', '.join(names)}")
    return name


def _whole(name: str) -> str:
    """A name that can be written: JSON can spell half of a surrogate pair, no file can hold it."""
    if any("\ud800" <= letter <= "\udfff" for letter in name):
        raise InputError(_short(name), "holds half a character", _REMEDY)
    return name


def _is_number(value: Any) -> bool:
    # In Python a bool is an int.
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return False
    try:
        # The 1e999 of a text reads as infinite.
        return math.isfinite(value)
    except OverflowError:  # an integer beyond all floats
        return False


def _share(value: Any, name: str) -> float:
    if not _is_number(value) or not 0 <= value <= 1:
        raise InputError(
            f"coverage of {name} = {_short(str(value))}", "must be a number in [0, 1]", _REMEDY
        )
    return float(value)


def _box(value: Any, name: str) -> Box:
    if (
        not isinstance(value, list)
        or len(value) != 4
        or not all(_is_number(edge) for edge in value)
    ):
        raise InputError(
            f"box of {_short(name)} = {_short(str(value))}",
            "must be four finite numbers [x1, y1, x2, y2]",
            _REMEDY,
        )
    x1, y1, x2, y2 = (float(edge) for edge in value)
    if x1 > x2 or y1 > y2:
        raise InputError(
            f"box of {_short(name)} = {_short(str(value))}",
            "must have x1 <= x2 and y1 <= y2",
            _REMEDY,
        )
    return x1, y1, x2, y2


def _short(text: str) -> str:
    # What is said of a text must be writable on one line, whatever stands in it.
    text = " ".join(text.encode(errors="replace").decode().split())
    return text if len(text) <= 80 else text[:77] + "..."
