"""``boig policy``: what this installation allows, and whether a recipe fits it."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from boig_core.cli.options import Json, Overrides, StoreRoot, store_root
from boig_core.cli.show import show

policy_app = typer.Typer(
    name="policy",
    help="Show what this installation allows, and check recipes against it.",
    no_args_is_help=True,
)


@policy_app.command("show")
def policy_show(as_json: Json = False) -> None:
    """Print the policy with every default filled in, as YAML that is a policy again; its file and
    digest stand in a comment at the top."""
    import yaml

    from boig_core.config import load_policy

    policy = load_policy()
    tree = policy.model_dump(mode="json")
    if as_json:
        print(json.dumps({"source": policy.source, "digest": policy.digest(), "policy": tree}))
        return
    show(f"# {policy.source}\n# digest {policy.digest()}")
    show(yaml.safe_dump(tree, sort_keys=False), end="")


@policy_app.command("check")
def policy_check(
    recipe: Annotated[
        str | None,
        typer.Argument(
            help="Recipe to hold against the policy: a name or the path of a YAML file. Without one, the policy alone is checked."
        ),
    ] = None,
    overrides: Overrides = None,
    store: StoreRoot = None,
    as_json: Json = False,
) -> None:
    """Check the policy, and with a recipe print everything that the recipe asks for and the policy
    does not allow; exit code 2 where there is any."""
    from boig_core.config import load_policy, load_recipe

    policy = load_policy()
    refusals = (
        []
        if recipe is None
        else list(policy.refusals(load_recipe(recipe, overrides or []), store_root(store)))
    )
    if as_json:
        rows = [
            {"value": each.value, "rule": each.rule, "remedy": each.remedy} for each in refusals
        ]
        print(json.dumps({"source": policy.source, "digest": policy.digest(), "refusals": rows}))
    else:
        what = "policy" if recipe is None else f"policy and {recipe}"
        for refusal in refusals:
            show(str(refusal))
        if not refusals:
            show(f"{what}: ok ({policy.source}, {policy.digest()[:12]})")
    if refusals:
        raise typer.Exit(2)
