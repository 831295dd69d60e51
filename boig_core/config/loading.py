"""A recipe from its file: what it extends, overrides, and one readable line for a mistake."""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Final, get_args

import yaml
from pydantic import BaseModel, ValidationError

from boig_core.config.recipe import Recipe
from boig_core.errors import RecipeError

_DEPTH: Final = 20
_VALUES: Final = 20_000


def recipe_names() -> list[str]:
    """Names of the recipes that come with the package."""
    return sorted(
        p.name.removesuffix(".yaml")
        for p in resources.files("boig_core.recipes").iterdir()
        if p.name.endswith(".yaml")
    )


def is_recipe_file(name_or_path: str) -> bool:
    """Whether a recipe is named by its file, not by its name in the package."""
    return Path(name_or_path).suffix in {".yaml", ".yml"} or os.sep in name_or_path


def load_recipe(name_or_path: str, overrides: Sequence[str] = ()) -> Recipe:
    """Resolve a recipe.

    Args:
        name_or_path: a recipe of the package by name, or a YAML file.
        overrides: ``section.field=value`` settings, the value as YAML; later ones win.

    Raises:
        RecipeError: no such recipe, YAML that cannot be read, an unknown key, or a value that
            breaks its rule.
    """
    tree = _tree(name_or_path)
    for override in overrides:
        _apply(tree, override)
    return parse_recipe(tree)


def own_tree(name_or_path: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """What a recipe says by itself, to write it down anew: of a file what stands in it, of a
    recipe of the package that it extends it; with overrides.

    Raises:
        RecipeError: as `load_recipe`.
    """
    tree = _read(name_or_path)[0] if is_recipe_file(name_or_path) else {"extends": name_or_path}
    for override in overrides:
        _apply(tree, override)
    return tree


def _tree(name_or_path: str) -> dict[str, Any]:
    """A recipe file over the one that it extends: a field of a section wins as a whole."""
    tree, fallback = _read(name_or_path)
    # Before `extends`: a recipe bears the name of its own file, not that of the one below it.
    tree.setdefault("name", fallback)
    if (below := tree.pop("extends", None)) is None:
        return tree
    if below not in recipe_names():
        raise RecipeError(
            f"extends = {below!r}",
            "must be a recipe of the package",
            f"use one of {', '.join(recipe_names())}",
        )
    merged = _tree(below)
    for key, value in tree.items():
        # No deeper than the fields of a section: merged further, `reward.weights` would keep the
        # formulations that the file leaves out.
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = {**merged[key], **value} if both else value
    return merged


def _read(name_or_path: str) -> tuple[dict[str, Any], str]:
    """What stands in a recipe, and the name that it bears unless it says another."""
    path = Path(name_or_path)
    if is_recipe_file(name_or_path):
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as exc:
            raise RecipeError(
                f"recipe {name_or_path}", f"cannot be read ({exc})", "give the path of a YAML file"
            ) from exc
        fallback = path.stem
    elif name_or_path in recipe_names():
        text = (
            resources.files("boig_core.recipes")
            .joinpath(f"{name_or_path}.yaml")
            .read_text(encoding="utf-8")
        )
        fallback = name_or_path
    else:
        raise RecipeError(
            f"recipe {name_or_path!r}",
            "is not known",
            f"use one of {', '.join(recipe_names())} or the path of a YAML file",
        )
    try:
        tree = parse_yaml(text) or {}
    except ValueError as exc:
        raise RecipeError(
            f"recipe {name_or_path}", "is not valid YAML", " ".join(str(exc).split())
        ) from exc
    if not isinstance(tree, dict):
        raise RecipeError(
            f"recipe {name_or_path}", "must be a mapping of sections", "see `boig recipe show tiny`"
        )
    return tree, fallback


def parse_yaml(text: str) -> Any:
    """What a YAML text says.

    Raises:
        ValueError: it cannot be read, or says too much.
    """
    try:
        tree = yaml.safe_load(text)
    # Beside its own errors PyYAML raises others, such as of a 13th month, or of a ``!!bool`` that
    # is none.
    except Exception as exc:
        raise ValueError(str(exc) or type(exc).__name__) from exc
    waiting, count = [(tree, 1)], 0
    # Aliases let a few lines stand for billions of values, which a copy or a message writes out.
    while waiting:
        node, depth = waiting.pop()
        count += 1
        if depth > _DEPTH or count > _VALUES:
            raise ValueError(f"more than {_DEPTH} levels or {_VALUES} values")
        inner = node.values() if isinstance(node, dict) else node
        if isinstance(node, (dict, list, tuple)):
            waiting.extend((value, depth + 1) for value in inner)
    return tree


def parse_recipe(tree: Any) -> Recipe:
    """Validate a recipe's tree, as from JSON or YAML.

    Raises:
        RecipeError: naming the first field that fails, its value, the rule and the nearest known
            key.
    """
    try:
        return Recipe.model_validate(tree)
    except ValidationError as exc:
        # It says all that pydantic's own text does.
        raise first_error(exc, Recipe, "see `boig recipe show tiny` for every field") from None


def _apply(tree: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals or not key.strip():
        raise RecipeError(
            f"override {override!r}", "must read section.field=value", "for example ddpo.epochs=5"
        )
    *parents, leaf = key.strip().split(".")
    node = tree
    for parent in parents:
        child = node.setdefault(parent, {})
        if not isinstance(child, dict):
            raise RecipeError(
                f"override {override!r}", f"{parent} is no section", "see `boig recipe show tiny`"
            )
        node = child
    try:
        node[leaf] = parse_yaml(value)
    except ValueError as exc:
        raise RecipeError(
            f"override {override!r}", "the value is not valid YAML", "quote it"
        ) from exc


def first_error(exc: ValidationError, model: type[BaseModel], remedy: str) -> RecipeError:
    """The first field of a recipe or policy that fails, its value, the rule and the nearest known
    key.

    Args:
        exc: what validation raised.
        model: the class that was validated.
        remedy: where a reader finds every field.
    """
    error = exc.errors(include_url=False)[0]
    where = _short(".".join(str(part) for part in error["loc"])) or model.__name__.lower()
    if error["type"] == "extra_forbidden":
        known = _known_keys(model, error["loc"][:-1])
        near = difflib.get_close_matches(str(error["loc"][-1]), known, n=1)
        nearest = f"did you mean {near[0]}?" if near else f"known keys: {', '.join(known)}"
        return RecipeError(where, f"is not a key of the {model.__name__.lower()}", nearest)
    # pydantic puts these words before the text of our own ValueErrors.
    rule = error["msg"].removeprefix("Value error, ")
    # The value of a rule between fields is their whole section, too long for a line.
    whole = isinstance(error["input"], (dict, BaseModel))
    met = where if whole else _short(f"{where} = {error['input']!r}")
    return RecipeError(met, rule[0].lower() + rule[1:], remedy)


def _short(text: str) -> str:
    """A piece of a message: one line that can be written, whatever a file holds."""
    text = " ".join(text.encode(errors="replace").decode().split())
    return text if len(text) <= 200 else text[:197] + "..."


def _known_keys(model: Any, loc: Sequence[str | int]) -> list[str]:
    for part in loc:
        model = model.model_fields[str(part)].annotation
        # An optional section is a union with None: its keys are those of the model in it.
        model = next(
            (
                kind
                for kind in get_args(model)
                if isinstance(kind, type) and issubclass(kind, BaseModel)
            ),
            model,
        )
    return list(model.model_fields)
