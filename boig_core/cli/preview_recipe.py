"""The recipe that ``boig ingest --preview --write`` writes: what a recipe said before, and the
lines that save what would be lost, each with its reason.

Leaves out: which lines these are (`boig_core.data.suggestions`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from boig_core.config import Data
from boig_core.config.loading import own_tree, recipe_names
from boig_core.config.presets import PRESETS
from boig_core.data.suggestions import Suggestion, place_name
from boig_core.errors import InputError
from boig_core.escapes import visible


def write_recipe(
    path: Path,
    location: str,
    recipe: str,
    overrides: Sequence[str],
    data: Data,
    lines: Sequence[Suggestion],
) -> None:
    """Write a recipe file that was not there.

    Args:
        path: of the file.
        location: of the export, which names the dataset where the recipe does not.
        recipe: name or path of the one that it is made from.
        overrides: settings that it is to keep.
        data: the section with the lines.
        lines: that are suggested.

    Raises:
        InputError: the file exists, or cannot be written.
    """
    text = "\n".join(_recipe_lines(location, recipe, overrides, data, lines)) + "\n"
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as exc:
        raise overwrites(path) from exc
    except OSError as exc:
        raise InputError(
            f"--write {path}",
            f"cannot be written ({exc.strerror})",
            "name a file in a folder that exists",
        ) from exc


def overwrites(path: Path) -> InputError:
    """The error of a recipe that would be written over a file."""
    return InputError(
        f"--write {path}", "exists, and is never overwritten", "name a file that does not"
    )


def flow(value: Any) -> str:
    """A value as YAML in one line."""
    import yaml

    # Between quotes a line break is written out.
    broken = isinstance(value, str) and len(value.splitlines()) > 1
    text = yaml.safe_dump(
        value,
        default_flow_style=True,
        default_style='"' if broken else None,
        allow_unicode=True,
        width=10**6,
    )
    # After a bare value it marks the end of the document.
    return text.strip().removesuffix("...").strip()


def _recipe_lines(
    location: str,
    recipe: str,
    overrides: Sequence[str],
    data: Data,
    lines: Sequence[Suggestion],
) -> Iterator[str]:
    import yaml

    tree = own_tree(recipe, overrides)
    own = dict(tree.pop("data", None) or {})
    yield f"# From {_comment(recipe)}, with what the posts in {_comment(location)} need (boig ingest --preview)."
    if "extends" in tree:
        yield f"extends: {flow(tree.pop('extends'))}"
    yield "data:"
    if recipe in recipe_names() and "name" not in own:
        yield "  # The name of the dataset in the store."
        yield f"  name: {_slug(place_name(location))}"
    fields = {line.path[0] for line in lines if line.value is not None}
    for name, value in own.items():
        if name not in fields:
            yield f"  {name}: {flow(value)}"
    yield from _data_lines(data, lines)
    if tree:
        yield yaml.safe_dump(tree, sort_keys=False, allow_unicode=True).rstrip()


def _data_lines(data: Data, lines: Sequence[Suggestion]) -> Iterator[str]:
    tree = data.model_dump(mode="json", exclude_defaults=True)
    for name in dict.fromkeys(line.path[0] for line in lines):
        own = [line for line in lines if line.path[0] == name]
        if len(own[0].path) == 1:
            [line] = own
            yield f"  # {_comment(line.why)}."
            yield f"  # {name}:" if line.value is None else f"  {name}: {flow(line.value)}"
            continue
        # A field of a section wins as a whole, so what it held before stands here, too, but for
        # what comes from a preset.
        below = PRESETS[data.preset].get(name, {}) if data.preset else {}
        values = {
            key: value for key, value in tree.get(name, {}).items() if below.get(key) != value
        }
        yield f"  {name}:" if values else f"  # {name}:"
        yield from _items(values, {line.path[1]: line for line in own})
        for line in own:
            if line.value is None:
                yield f"    # {_comment(line.why)}"
                yield f"    # {line.path[1]}:"


def _items(values: Mapping[str, Any], lines: Mapping[str, Suggestion]) -> Iterable[str]:
    for key, value in values.items():
        if key in lines:
            yield f"    # {_comment(lines[key].why)}."
        yield f"    {key}: {flow(value)}"


def _comment(text: str) -> str:
    """A text that may stand in a comment: one line, without signs that YAML forbids."""
    return re.sub("[\ufffe\uffff]", "?", visible(" ".join(text.split())))


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:63] or "posts"
