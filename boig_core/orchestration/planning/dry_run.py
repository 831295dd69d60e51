"""A run without its work: what the stages would be, what each asks for, whether there is room, and
what would stop it; then it ends.

Recipe, inputs and roots have been checked by `assets.make_plan` before. Leaves out: what only a
stage can tell, such as whether a post is good, and Airflow's pools, which a task cannot see.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from airflow.sdk.exceptions import DownstreamTasksSkipped

from boig_core.config import Recipe
from boig_core.errors import InputError
from boig_core.observability.logs import get_logger
from boig_core.orchestration.jobs import clusters
from boig_core.orchestration.jobs.asks import Ask, asks_of
from boig_core.orchestration.jobs.backend import ask
from boig_core.orchestration.stage import attempts
from boig_core.orchestration.stage.operator import RayJobOperator
from boig_core.storage import commit, manifest
from boig_core.storage.job import Stage, read_recipe

log = get_logger(__name__)


def rehearse(context: Mapping[str, Any], planned: Mapping[str, Any]) -> None:
    """Log what a run would do, and end it.

    Args:
        context: of the task ``plan``.
        planned: its result.

    Raises:
        DownstreamTasksSkipped: always in the end; Airflow takes it for success, and skips what
            comes after.
        InputError: a stage would refuse what it is given.
        ClusterError: the cluster does not answer.
    """
    recipe = read_recipe(planned["recipe"])
    stages = {
        task.task_id: stage
        for task in context["dag"].tasks
        if (stage := _stage_of(task)) is not None
    }
    if "calibration" in planned["outputs"] and Stage.DDPO in stages.values():
        require_worth(recipe, planned["outputs"]["calibration"])
    for task_id, stage in stages.items():
        task = context["dag"].get_task(task_id)
        asks = asks_of(stage, recipe)
        home = attempts.task_uri(
            planned["store"], context["ti"].dag_id, context["ti"].run_id, task_id
        )
        before = (
            _before(home)
            if isinstance(task, RayJobOperator)
            else "for each variant that needs it, with its own recipe"
        )
        log.info(
            "stage %s: %s; in pool %s; %s", stage, " · ".join(map(str, asks)), task.pool, before
        )
        # Only a warning: an autoscaler may add nodes.
        if short := _short_of(asks):
            log.warning("stage %s would wait for room: %s", stage, short)
    log.info("dry run: all was checked, nothing is started")
    # All that follow are named, not the next ones alone: some start whatever became of the tasks
    # before them.
    raise DownstreamTasksSkipped(
        tasks=sorted(context["task"].get_flat_relative_ids(upstream=False))
    )


def require_worth(recipe: Recipe, calibration: str) -> None:
    """The gate of ``ddpo``, by what the calibration's stage has said of it.

    Raises:
        InputError: the calibration is of another reward, or this one does not tell high from low as
            the recipe asks.
    """
    metrics = (
        commit.read_commit(manifest.read_manifest(calibration).commit.rsplit("/", 1)[0]) or {}
    )["metrics"]
    if (name := metrics.get("reward")) != recipe.reward.name:
        raise InputError(
            f"reward {recipe.reward.name}",
            f"the calibration was made for {name}",
            "run boig_llm with this recipe",
        )
    span, least = metrics.get("auc_test_interval"), recipe.reward.min_auc
    if least is not None and (span is None or span[0] <= least):
        rule = (
            f"the 95 % interval of its AUC must lie above {least:g} (reward.min_auc), and is {span}"
        )
        raise InputError(
            f"reward {name}",
            rule,
            f"{metrics.get('recommended')} is recommended; or ingest more posts, and run boig_llm again",
        )


def _stage_of(task: Any) -> Stage | None:
    """Stage of a task; None: it is none of ours."""
    if isinstance(task, RayJobOperator):
        return Stage(task.stage)
    return (
        Stage(task.partial_kwargs["stage"])
        if getattr(task, "operator_class", None) is RayJobOperator
        else None
    )


def _short_of(asks: Sequence[Ask]) -> str:
    return ask(clusters.find(), lambda jobs: jobs.room(asks))


def _before(home: str) -> str:
    """What this run has of a stage already; other runs have no part in it."""
    numbers = commit.attempts(home)
    if not numbers:
        return "it starts anew"
    uri = commit.attempt_uri(home, numbers[-1])
    return (
        f"{uri} is used again"
        if commit.fate(uri) == "committed"
        else f"attempt {numbers[-1] + 1} follows {uri}"
    )
