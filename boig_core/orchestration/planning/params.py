"""The params that people give a DAG's run: recipe, overrides, and where its inputs lie.

Leaves out: checking what they name, which the first task does (see `assets`).
"""

from __future__ import annotations

from typing import Any

from airflow.sdk import Param

from boig_core.config import recipe_names
from boig_core.storage.credentials import CREDENTIALS

LOCATION: dict[str, Any] = {"type": ["null", "string"], "pattern": f"^(?!.*{CREDENTIALS})"}
"""Schema of a param that names a location. Airflow keeps and shows what a run is given: credentials
are refused before there is a run."""


def recipe_params(default: str | None) -> dict[str, Param]:
    """Params that choose the recipe; ``default=None`` leaves the choice to the asset event."""
    kind = {**LOCATION, "type": "string"} if default else LOCATION
    which = "A recipe of the package by name, or the path of a YAML file."
    which += (
        "" if default else " Empty: the recipe of the dataset or model that triggered this run."
    )
    settings = "One section.field=value a line, such as ddpo.epochs=5."
    return {
        "recipe": Param(
            default, **kind, examples=recipe_names(), title="Recipe", description=which
        ),
        "overrides": Param(
            [],
            type=["null", "array"],
            items={"type": "string"},
            title="Overrides",
            description=settings,
        ),
        "dry_run": dry_run_param(),
    }


def dry_run_param() -> Param:
    """The param that asks for a rehearsal."""
    what = "Check everything, log what would run, and start nothing."
    return Param(False, type="boolean", title="Dry run", description=what)


def uri_param(title: str, what: str) -> Param:
    """A param for the URI of an input, such as ``a BoigLLM``; empty: from the asset event."""
    which = f"URI of {what}. Empty: the one that triggered this run, else the newest."
    return Param(None, **LOCATION, title=title, description=which)


def model_params() -> dict[str, Param]:
    """Params of what an alignment is made from: the dataset, and what `boig_llm` has made of it."""
    return {
        "dataset": uri_param("Dataset", "a perceived dataset"),
        "boigllm": uri_param("BoigLLM", "a BoigLLM"),
        "calibration": uri_param("Reward calibration", "the BoigLLM's reward calibration"),
        "predictor": uri_param(
            "Engagement predictor", "the BoigLLM's engagement predictor, if there is one"
        ),
        "judge": uri_param("Judge", "the engagement predictor that judges, if there is one"),
    }
