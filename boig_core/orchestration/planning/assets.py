"""The assets that chain the DAGs, and the light tasks at both ends of each: ``plan`` checks what
goes in, ``announce`` tells the next DAG.

An event's ``extra`` carries what the next DAG needs: outputs by name, recipe, store, root run; and
for people, where the data card is. In `plan`, explicit params win, then the event that triggered
the run, then the newest event, then the defaults. Leaves out: the work (see `operator`).
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from airflow.sdk import Asset, task

from boig_core.config import Recipe, is_recipe_file, load_policy, load_recipe
from boig_core.errors import InputError, UserError
from boig_core.models.diffusion import check_diffusion_model_here
from boig_core.models.language import check_language_model_here
from boig_core.orchestration.masking import hide_environment
from boig_core.orchestration.planning import intervals
from boig_core.orchestration.planning.dry_run import rehearse
from boig_core.orchestration.planning.events import require_announced
from boig_core.orchestration.promotion import registry
from boig_core.orchestration.roots import allowed, follow_store, store_root
from boig_core.orchestration.signals.callbacks import on_retry
from boig_core.orchestration.stage import attempts
from boig_core.orchestration.stage.ceilings import require_hours
from boig_core.orchestration.stage.retries import RETRIES
from boig_core.storage import manifest, marker, runs, store

DATASET = Asset(
    "boig/dataset",
    uri="boig://dataset",
    group="boig",
    extra={"content": ["posts", "images", "what is seen in them"]},
)
BOIGLLM = Asset(
    "boig/boigllm",
    uri="boig://boigllm",
    group="boig",
    extra={"content": ["BoigLLM", "its evaluation", "reward calibration"]},
)
BOIGSD = Asset(
    "boig/boigsd",
    uri="boig://boigsd",
    group="boig",
    extra={"content": ["BoigSD", "its evaluation", "the report"]},
)

DEFAULTS: dict[str, Any] = {
    "owner": "boig",
    "on_execute_callback": hide_environment,
    "on_retry_callback": on_retry,
    **RETRIES,
}
"""Arguments of every task."""


def plan(
    needs: Mapping[str, str],
    source: Asset | None = None,
    default_recipe: str = "tiny",
    instead: Mapping[str, str] | None = None,
    optional: Mapping[str, str] | None = None,
    beside_champion: bool = False,
) -> Any:
    """The first task of a DAG: resolves recipe and inputs, checks both, and writes the resolved
    recipe beside the run. With the param ``dry_run`` it is the last one, too.

    Args:
        needs: kind of manifest of each input by name; ``posts`` is raw data.
        source: asset whose events carry the inputs.
        default_recipe: used when neither params nor events name one.
        instead: inputs by name and kind that may be given beside what is needed, and one of which
            may stand in for it.
        optional: inputs by name and kind that are passed on where a param or the event names them.
        beside_champion: the registry's champion is an input, too, if there is one.

    Returns:
        XCom of ``{"store", "recipe", "policy", "root", "outputs": {name: URI}, "seconds": {stage:
        s}}``.
    """

    @task(
        task_id="plan",
        inlets=[source] if source is not None else [],
        doc_md="Resolves the recipe and the inputs, and checks both.",
    )
    def plan_(**context: Any) -> dict[str, Any]:
        extra = newest_extra(context, source)
        if beside_champion:
            extra = {**extra, "outputs": with_champion(extra.get("outputs", {}))}
        planned = make_plan(
            context, dict(needs), extra, default_recipe, dict(instead or {}), dict(optional or {})
        )
        if context["params"].get("dry_run"):
            rehearse(context, planned)
        return planned

    return plan_()


def make_plan(
    context: Mapping[str, Any],
    needs: Mapping[str, str],
    extra: Mapping[str, Any],
    default_recipe: str,
    instead: Mapping[str, str] | None = None,
    optional: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """What `plan` does, as a function of the params and the event's extra.

    Raises:
        UserError: a recipe or input that is wrong or that the policy does not allow, a store that
            is not set or refuses.
    """
    params = context["params"]
    ti = context["ti"]
    root, policy = store_root(extra.get("store")), load_policy()
    # Before any GPU is taken: without exclusive puts, attempts could not be kept apart.
    marker.ensure(root)
    for named in filter(None, (params.get("recipe"), extra.get("recipe"))):
        if is_recipe_file(named):
            allowed(named, root, policy, "recipes")
    recipe = resolve_recipe(
        params.get("recipe"), params.get("overrides") or [], extra.get("recipe"), default_recipe
    )
    policy.require(recipe, root)
    check_language_model_here(recipe.llm.base, f"llm.base = {recipe.llm.base!r}")
    check_diffusion_model_here(recipe.sd.base, f"sd.base = {recipe.sd.base!r}")
    require_hours(policy, root)
    outputs: dict[str, str] = {}
    instead_of = {name: kind for name, kind in (instead or {}).items() if params.get(name)}
    for name, kind in {**needs, **instead_of, **(optional or {})}.items():
        uri = params.get(name) or extra.get("outputs", {}).get(name)
        if not uri and (instead_of or name in (optional or {})):
            continue
        if not uri:
            raise InputError(
                f"input {name!r}",
                "is neither a param nor known from an asset event",
                f"give its URI as the param {name!r}",
            )
        outputs[name] = allowed(str(uri), root, policy, "posts" if name == "posts" else "outputs")
        if name == "posts":
            check_posts(outputs[name])
        else:
            manifest.read_manifest(outputs[name], kind=kind)
    recipe_uri = store.join(root, "runs", ti.dag_id, attempts.run_folder(ti.run_id), "recipe.json")
    store.write_bytes(recipe_uri, recipe.model_dump_json(indent=1).encode())
    print(f"recipe {recipe.name} ({recipe.digest()[:12]}) -> {recipe_uri}")
    for name, uri in outputs.items():
        print(f"input {name} = {uri!r}")
    return {
        "store": root,
        "recipe": recipe_uri,
        "policy": policy.digest(),
        "root": str(extra.get("root") or f"{ti.dag_id}/{ti.run_id}"),
        "outputs": outputs,
        "seconds": dict(extra.get("seconds") or {}),
    }


def with_champion(outputs: Mapping[str, str]) -> dict[str, str]:
    """Outputs of an event, with the registry's champion, which a new model is evaluated beside;
    without one where no registry is set.

    Raises:
        InputError: the champion cannot be read. No candidate could be promoted over it, so nothing
            is trained.
    """
    uri = registry.champion() if os.environ.get("MLFLOW_TRACKING_URI") else None
    if uri is None:
        # Whom an event names as champion may be so no longer: the registry's word alone counts.
        return {name: output for name, output in outputs.items() if name != "champion"}
    try:
        manifest.read_manifest(uri, kind="sd")
    except UserError as exc:
        raise InputError(
            "the registry's champion",
            f"cannot be read ({exc})",
            "restore its folder, or take the alias from it",
        ) from exc
    return {**outputs, "champion": uri}


def resolve_recipe(
    chosen: str | None, overrides: Sequence[str], from_event: str | None, default: str
) -> Recipe:
    """The recipe of a run: the chosen one, else the event's resolved one, else the default;
    overrides on top.

    Raises:
        RecipeError: naming field, value, rule and remedy.
    """
    if chosen or not from_event:
        return load_recipe(chosen or default, overrides)
    with (
        tempfile.TemporaryDirectory() as folder
    ):  # JSON is YAML: a resolved recipe is a recipe file
        path = Path(folder) / "recipe.yaml"
        path.write_bytes(store.read_bytes(from_event))
        return load_recipe(str(path), overrides)


def check_posts(uri: str) -> None:
    """Posts exist, as far as it can be told from here: not for a glob or a web address.

    Raises:
        InputError: nothing is there.
    """
    if re.search(r"^https?://|[*?\[]", uri):
        return
    if not store.exists(uri) and not any(True for _ in store.list_files(uri)):
        raise InputError(
            uri,
            "no posts were found",
            "give the URI of posts.jsonl, or of the folder that holds it",
        )


def newest_extra(context: Mapping[str, Any], source: Asset | None) -> dict[str, Any]:
    """Extra of the event that triggered this run, else of the asset's newest event, else empty; for
    a copied store with its own locations."""
    if source is None:
        return {}
    triggering = context.get("triggering_asset_events") or {}
    events = (
        list(triggering[source])
        if source in triggering
        else list(context["inlet_events"][source].ascending(False).limit(1))
    )
    if not events:
        return {}
    require_announced(source.name, events)
    # One run may stand for several events that came while it waited.
    return follow_store(max(events, key=lambda event: event.timestamp).extra or {})


def announce(
    asset: Asset, main: str, plan_result: Any, results: Sequence[Any], turn: Any = None
) -> Any:
    """The last task of a DAG: emits the asset's event with all that the next DAG needs; then the
    DAG's graph is made readable.

    Args:
        asset: what was made.
        main: name of the output that the asset stands for.
        plan_result: XCom of `plan`.
        results: XComs of the DAG's stages.
        turn: XCom of `intervals.take_turn`, for a DAG whose runs take turns.
    """

    @task(task_id="announce", outlets=[asset], doc_md=f"Tells the DAGs that wait for {asset.name}.")
    def announce_(
        made_by: dict[str, Any],
        stages: list[dict[str, Any]],
        taken: Any,
        *,
        outlet_events: Any = None,
        asset_state_store: Any = None,
    ) -> dict[str, Any]:
        if not all([made_by, *stages]):
            rule = "was marked as success, so it has no result to announce"
            raise InputError("a task before this one", rule, "clear it, and it runs")
        outputs = dict(made_by["outputs"])
        seconds = dict(made_by["seconds"])
        for stage in stages:
            outputs.update(stage["outputs"])
            seconds[stage_name(stage)] = stage["metrics"].get("seconds")
        extra = {
            "manifest": store.join(outputs[main], manifest.MANIFEST),
            "outputs": outputs,
            "recipe": made_by["recipe"],
            "store": made_by["store"],
            "root": made_by["root"],
            "seconds": seconds,
        }
        # Before the event: a run that has lost its turn fails here, and starts no training.
        if taken is not None:
            intervals.keep_newest(asset_state_store[asset], taken, outputs[main])
        if card := manifest.find_file(outputs[main], manifest.PAGE):
            extra["card"] = card
        extra["used"] = write_summary(made_by)
        print(json.dumps(extra, indent=1))
        outlet_events[asset].extra = extra
        return extra

    announced = announce_(plan_result, list(results), turn)
    drop_implied_edges(announced.operator.dag.task_dict)
    return announced


def drop_implied_edges(tasks: Mapping[str, Any]) -> None:
    """Leave out each edge that a longer way between the same two tasks implies, so that the graph
    shows the order alone.

    Every input that a task takes from an earlier one has made an edge. Tasks start no earlier
    without the implied ones.

    Args:
        tasks: all tasks of a DAG by id.
    """

    def before(operator: Any) -> set[str]:
        return {
            earlier
            for above in operator.upstream_task_ids
            for earlier in (above, *before(tasks[above]))
        }

    # An edge that is implied adds no ancestor, so edges may go in any order.
    for operator in tasks.values():
        for above in {
            earlier for direct in operator.upstream_task_ids for earlier in before(tasks[direct])
        } & operator.upstream_task_ids:
            operator.upstream_task_ids.remove(above)
            tasks[above].downstream_task_ids.remove(operator.task_id)


def write_summary(plan_result: Mapping[str, Any]) -> str:
    """Keep what a run has used as ``summary.json`` beside its recipe, failed attempts included;
    returns it as a line."""
    folder = str(plan_result["recipe"]).rsplit("/", 1)[0]
    run = folder.removeprefix(store.join(plan_result["store"], "runs")).strip("/")
    try:
        summary = runs.summarize(run, runs.run_state(plan_result["store"], run))
    except UserError as exc:  # a wrong price: what the run has made is good without a summary
        return f"no summary: {exc}"
    store.write_bytes(store.join(folder, "summary.json"), json.dumps(summary, indent=1).encode())
    return runs.summary_line(summary)


def stage_name(result: Mapping[str, Any]) -> str:
    """Task id of a stage's result, from its attempt URI ``.../TASK[/MAP]/attempt-N``."""
    *_, above, folder = str(result["attempt"]).rstrip("/").rsplit("/", 1)[0].split("/")
    return above if folder.isdigit() else folder


def timings(plan_result: Any, results: Sequence[Any]) -> Any:
    """A task that writes the seconds of every stage so far, for the report; returns the URI of the
    JSON file."""

    @task(task_id="timings", doc_md="Writes how long each stage took, for the report.")
    def timings_(made_by: dict[str, Any], stages: list[dict[str, Any]]) -> str:
        seconds = {
            **made_by["seconds"],
            **{stage_name(stage): stage["metrics"].get("seconds") for stage in stages},
        }
        uri = store.join(made_by["recipe"].rsplit("/", 1)[0], "timings.json")
        store.write_bytes(uri, json.dumps(seconds, indent=1).encode())
        return uri

    return timings_(plan_result, list(results))
