"""The light tasks of `boig_experiments`: which trainings the variants need, each once, and what
became of them.

A variant is the recipe with some settings of its own. All variants share dataset, evaluation and
the evaluation's reward, so that their images are measured by one yardstick; a setting that would
break this is refused. Leaves out: the work (see `operator`) and the comparison (see
`boig_core.evaluation.compare.comparison`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from airflow.sdk import Asset, Param, task

from boig_core.config import Recipe, load_policy
from boig_core.errors import InputError, RecipeError
from boig_core.orchestration.planning.assets import (
    make_plan,
    newest_extra,
    resolve_recipe,
)
from boig_core.orchestration.planning.dry_run import rehearse
from boig_core.orchestration.planning.experiment_results import EXPERIMENT, read_plan, read_results
from boig_core.storage import store

FREE: Final = ("seed", "llm", "reward", "ddpo")
"""What a variant may change: sections of the recipe, and the seed of its alignment."""
_MOST: Final = 24
_NAME: Final = rf"^(?!{EXPERIMENT}$)[a-z0-9][a-z0-9-]{{0,30}}$"
_TRAINS: Final = {"llm": "BoigLLM", "calibration": "calibration"}


def variants_param() -> Param:
    """The param that names the variants. A list, not a mapping: the first is what the others are
    compared with."""
    overrides = {"type": "array", "items": {"type": "string"}}
    variant = {"name": {"type": "string", "pattern": _NAME}, "overrides": overrides}
    return Param(
        type="array",
        minItems=2,
        maxItems=_MOST,
        items={
            "type": "object",
            "properties": variant,
            "required": ["name", "overrides"],
            "additionalProperties": False,
        },
        title="Variants",
        description=(
            "What is compared, the first being what the others are held against, such as "
            '[{"name": "plain", "overrides": []}, {"name": "kl", "overrides": ["ddpo.kl=0.1"]}]. A variant may change '
            f"{', '.join(FREE)}; those that differ in seed alone are shown together."
        ),
    )


def plan_experiment(needs: Mapping[str, str], source: Asset, optional: Mapping[str, str]) -> Any:
    """The first task: what `assets.plan` does, with a recipe for each variant and for each training
    that variants share.

    Returns:
        XCom of `assets.plan`'s result with ``"llms": [recipe URI]``, ``"calibrations": [{"recipe",
        "llm"}]`` and ``"variants": [{"name", "recipe", "llm", "calibration"}]``; ``llm`` and
        ``calibration`` are indexes, or None for what the run was given.
    """

    @task(
        task_id="plan",
        inlets=[source],
        doc_md="Resolves the recipe, the inputs and the variants, and checks all of it.",
    )
    def plan_(**context: Any) -> dict[str, Any]:
        extra = newest_extra(context, source)
        planned = make_plan(context, needs, extra, "tiny", optional=optional)
        params = context["params"]
        base, *recipes = [
            resolve_recipe(
                params.get("recipe"),
                [*(params.get("overrides") or []), *own],
                extra.get("recipe"),
                "tiny",
            )
            for own in ([], *(variant["overrides"] for variant in params["variants"]))
        ]
        policy = load_policy()
        for recipe in recipes:
            policy.require(recipe, planned["store"])
        work = needed(base, dict(zip(_names(params["variants"]), recipes, strict=True)))
        # After the variants, which are to be checked as well: a rehearsal ends the task.
        if params.get("dry_run"):
            rehearse(context, planned)
        folder = planned["recipe"].rsplit("/", 1)[0]
        return {**planned, **_written(work, folder)}

    return plan_()


def needed(base: Recipe, variants: Mapping[str, Recipe]) -> dict[str, list[dict[str, Any]]]:
    """The trainings and calibrations that the variants need beside what the run was given, each
    once.

    Args:
        base: the recipe of what all share.
        variants: recipe of each variant by its name.

    Returns:
        ``llms``, ``calibrations`` and ``variants`` as `plan_experiment` returns them, with a
        `Recipe` under ``recipe``.

    Raises:
        RecipeError: a variant changes what all must share.
        InputError: two variants are the same.
    """
    llms: list[Recipe] = []
    calibrations: list[tuple[Recipe, int | None]] = []
    rows: list[dict[str, Any]] = []
    seen: dict[str, str] = {}
    for name, recipe in variants.items():
        _check(name, recipe, base)
        if (other := seen.setdefault(recipe.digest(), name)) != name:
            raise InputError(
                f"variants {other} and {name}",
                "are the same",
                "leave one out, or give it settings or a seed of its own",
            )
        # Only the alignment takes the variant's seed: what is trained before is shared by all seeds
        # of a variant.
        llm = (
            None
            if recipe.llm == base.llm
            else _index(llms, base.model_copy(update={"llm": recipe.llm}))
        )
        # The base with the variant's own sections alone: variants that agree in these get equal
        # recipes, and by them one calibration.
        calibrated = base.model_copy(update={"llm": recipe.llm, "reward": recipe.reward})
        calibration = None if calibrated == base else _index(calibrations, (calibrated, llm))
        rows.append({"name": name, "recipe": recipe, "llm": llm, "calibration": calibration})
    return {
        "llms": [{"recipe": recipe} for recipe in llms],
        "calibrations": [{"recipe": recipe, "llm": llm} for recipe, llm in calibrations],
        "variants": rows,
    }


def llm_trainings(planned: Any) -> Any:
    """A task that lists the trainings of BoigLLM for `RayJobOperator` to be expanded over."""

    @task(
        task_id="llm_trainings",
        doc_md="Lists the BoigLLMs that variants need beside the given one.",
    )
    def list_(planned: dict[str, Any]) -> list[dict[str, Any]]:
        return [
            {
                "plan": {**planned, "recipe": training["recipe"]},
                "inputs": {"dataset": planned["outputs"]["dataset"]},
            }
            for training in planned["llms"]
        ]

    return list_(planned)


def calibrations(planned: Any, trained: Any) -> Any:
    """A task that lists the calibrations; one whose BoigLLM failed stays in the list without it, so
    that indexes never move.

    Args:
        planned: XCom of the plan.
        trained: the mapped task that trains BoigLLM.
    """

    @task(
        task_id="calibrations",
        trigger_rule="all_done",
        doc_md="Lists the calibrations that variants need beside the given one.",
    )
    def list_(*, ti: Any = None) -> list[dict[str, Any]]:
        planned = read_plan(ti)
        llms = read_results(ti, "finetune_llm", len(planned["llms"]))
        return [_calibration(planned, calibration, llms) for calibration in planned["calibrations"]]

    listed = list_()
    [planned, trained] >> listed
    return listed


def variants(planned: Any, after: Any) -> Any:
    """A task that lists the variants, each as a plan of its own: recipe and outputs, or why it is
    skipped.

    Args:
        planned: XCom of the plan.
        after: the mapped task that calibrates.
    """

    @task(
        task_id="variants",
        trigger_rule="all_done",
        doc_md="Lists the variants with what each is aligned by.",
    )
    def list_(*, ti: Any = None) -> list[dict[str, Any]]:
        planned = read_plan(ti)
        llms = read_results(ti, "finetune_llm", len(planned["llms"]))
        calibrated = read_results(ti, "calibrate", len(planned["calibrations"]))
        return [
            _with(planned, variant, [("llm", llms), ("calibration", calibrated)])
            for variant in planned["variants"]
        ]

    listed = list_()
    [planned, after] >> listed
    return listed


def _calibration(
    planned: Mapping[str, Any], calibration: Mapping[str, Any], llms: Sequence[Any]
) -> dict[str, Any]:
    plan = _with(planned, calibration, [("llm", llms)])
    return {
        "plan": plan,
        "inputs": {
            name: uri
            for name, uri in plan["outputs"].items()
            if name in {"dataset", "boigllm", "predictor"}
        },
    }


def _with(
    planned: Mapping[str, Any], job: Mapping[str, Any], own: Sequence[tuple[str, Sequence[Any]]]
) -> dict[str, Any]:
    """A plan like the run's, with the recipe and the outputs of its own; ``skip`` where one of them
    was not made."""
    # What trains never gets the judge.
    outputs = {name: uri for name, uri in planned["outputs"].items() if name != "judge"}
    plan = {"store": planned["store"], "root": planned["root"], **job, "outputs": outputs}
    for key, results in own:
        if job[key] is None:
            continue
        if (result := results[job[key]]) is None:
            return {**plan, "skip": f"its {_TRAINS[key]} has failed"}
        # In place, since the plan above holds this very mapping.
        outputs |= {
            name: uri
            for name, uri in result["outputs"].items()
            if name in {"boigllm", "predictor", "calibration"}
        }
    return plan


def _names(variants: Sequence[Mapping[str, Any]]) -> list[str]:
    names = [str(variant["name"]) for variant in variants]
    if twice := [name for index, name in enumerate(names) if name in names[:index]]:
        raise InputError(
            f"variant {twice[0]!r}", "is named twice", "give each variant a name of its own"
        )
    return names


def _check(name: str, recipe: Recipe, base: Recipe) -> None:
    for field in Recipe.model_fields:
        if field not in FREE and getattr(recipe, field) != getattr(base, field):
            rule = "must be as in the recipe, since all variants share dataset, baseline and evaluation"
            raise RecipeError(
                f"variant {name}: {field}",
                rule,
                f"set it under overrides; a variant may change {', '.join(FREE)}",
            )


def _index(known: list[Any], wanted: Any) -> int:
    if wanted not in known:
        known.append(wanted)
    return known.index(wanted)


def _written(
    work: Mapping[str, list[dict[str, Any]]], folder: str
) -> dict[str, list[dict[str, Any]]]:
    """The same with URIs of written recipes, beside the run's own."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for kind, entries in work.items():
        rows[kind] = []
        for index, entry in enumerate(entries):
            uri = store.join(folder, "recipes", f"{kind}-{entry.get('name', index)}.json")
            store.write_bytes(uri, entry["recipe"].model_dump_json(indent=1).encode())
            rows[kind].append({**entry, "recipe": uri})
    return rows
