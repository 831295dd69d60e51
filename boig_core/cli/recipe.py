"""``boig recipe``: list, show and check recipes."""

from __future__ import annotations

import json

import typer

from boig_core.cli.options import (
    Json,
    Overrides,
    RecipeArgument,
)
from boig_core.cli.show import show

recipe_app = typer.Typer(name="recipe", help="List, show and check recipes.", no_args_is_help=True)


@recipe_app.command("list")
def recipe_list(as_json: Json = False) -> None:
    """Print the names of the recipes that come with the package."""
    from boig_core.config import recipe_names

    names = recipe_names()
    show(json.dumps(names) if as_json else "\n".join(names))


@recipe_app.command("show")
def recipe_show(recipe: RecipeArgument, overrides: Overrides = None, as_json: Json = False) -> None:
    """Print a recipe with every default filled in, as YAML that is a recipe again."""
    import yaml

    from boig_core.config import load_recipe

    tree = load_recipe(recipe, overrides or []).model_dump(mode="json")
    # YAML brings a line break of its own.
    show(
        json.dumps(tree, indent=1) if as_json else yaml.safe_dump(tree, sort_keys=False),
        end="" if not as_json else "\n",
    )


@recipe_app.command("check")
def recipe_check(
    recipe: RecipeArgument, overrides: Overrides = None, as_json: Json = False
) -> None:
    """Check whether a recipe is valid, and a base folder on this machine one that can be trained,
    and print the recipe's name and digest; exit code 2 and one line when it is not."""
    from boig_core.config import load_recipe
    from boig_core.models.diffusion import check_diffusion_model_here
    from boig_core.models.language import check_language_model_here

    resolved = load_recipe(recipe, overrides or [])
    check_language_model_here(resolved.llm.base, f"llm.base = {resolved.llm.base!r}")
    check_diffusion_model_here(resolved.sd.base, f"sd.base = {resolved.sd.base!r}")
    show(
        json.dumps({"name": resolved.name, "digest": resolved.digest()})
        if as_json
        else f"{resolved.name}: ok ({resolved.digest()[:12]})"
    )
