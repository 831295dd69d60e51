"""``report.json``: the numbers of one whole run, in one shape that gates, people and later runs can
rely on.

Every key of the schema is there. A number that the recipe enables is finite; a measure that was not
run is null, with its reason under ``absent`` by dotted path. Imports no torch. Leaves out: the page
(see `page`), and where the numbers come from (see `ray_jobs.report`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any, Final

from boig_core.config import Recipe
from boig_core.errors import BoigError, CorruptError
from boig_core.llm.metrics import METRICS
from boig_core.rewards.calibration import passes
from boig_core.storage import store
from boig_core.storage.job import Stage

REPORT_FILE: Final = "report.json"
DESCRIBERS: Final = ("boigllm", "no_kpi", "retrieval", "few_shot")
GENERATORS: Final = ("base", "high_kpi", "boigsd", "best_of_n", "prompt_rewrite")
# A comparison spans several runs, so it is no stage of one.
_TIMED: Final = tuple(stage.value for stage in Stage if stage != Stage.COMPARE)
_DATASET: Final = ("posts", "rejected", "images", "buckets")
_SHARES: Final = ("high", "low", "all", "undefined")
_DESCRIBING: Final = (
    "n",
    "asked",
    "vectors",
    "constrained",
    "parse_rate",
    "parse_rate_unconstrained",
    "failures",
)
_VALIDITY: Final = ("auc_high_vs_low", "pearson", "n")
_GENERATION: Final = ("reward", "judge", "kid", "fid", "clip", "aesthetic", "diversity", "n")
_NOT_MEASURED: Final = {
    "few_shot": "needs a general language model to prompt; evaluation.few_shot of the recipe names none",
    "retrieval": "was not run",
    "no_kpi": "was not run",
    "boigllm": "was not run",
}


def build_report(
    *,
    dataset: Mapping[str, Any],
    description: Mapping[str, Any],
    calibration: Mapping[str, Any],
    generation: Mapping[str, Any],
    seconds: Mapping[str, float],
    recipe: Recipe,
) -> dict[str, Any]:
    """Put the stages' results into the report's shape and check it.

    Args:
        dataset: meta of the dataset's manifest.
        description: content of ``description.json``.
        calibration: content of ``calibration.json``.
        generation: content of ``generation.json``.
        seconds: of each stage that is known.
        recipe: its name is shown, its gate is applied to each reward.

    Raises:
        CorruptError: a number is not finite, or is missing without a reason.
    """
    # A copy, since reasons of other stages are added.
    absent = dict(generation["absent"])
    described = _described(description, absent)
    timings = {stage: seconds.get(stage) for stage in _TIMED}
    absent |= {
        f"timings.{stage}": "not among the runs that this report was made from"
        for stage, s in timings.items()
        if s is None
    }
    validity = {
        name: _validity(calibration, name, recipe) for name in calibration["splits"]["test"]
    }
    reward = _reward(calibration, recipe, absent)
    report = {
        "schema_version": 1,
        "recipe": recipe.name,
        "dataset": {key: dataset.get(key) for key in _DATASET},
        "description": described,
        "describing": {key: description[key] for key in _DESCRIBING if key in description},
        "reward_validity": {
            name: _explained(row, f"reward_validity.{name}", absent)
            for name, row in validity.items()
        },
        "generation": generation["generation"],
        "paired": {
            pair: {name: row for name, row in rows.items() if row}
            for pair, rows in {**description.get("paired", {}), **generation["paired"]}.items()
        },
        "by": generation["by"],
        "reward": reward,
        "timings": timings,
        "absent": absent,
    }
    check_report(report)
    return report


def _described(description: Mapping[str, Any], absent: dict[str, str]) -> dict[str, Any]:
    """Row of each model that describes images; adds to ``absent`` what has no number, and why."""
    rows = {
        model: description.get(model)
        for model in (*DESCRIBERS, *sorted(_extra_models(description)))
    }
    for model, row in rows.items():
        if row is None:
            absent[f"description.{model}"] = _NOT_MEASURED[model]
        else:
            empty = [f"description.{model}.{path}" for path, value in _leaves(row) if value is None]
            absent |= dict.fromkeys(empty, "undefined for every sample of this bucket")
    return rows


def _reward(
    calibration: Mapping[str, Any], recipe: Recipe, absent: dict[str, str]
) -> dict[str, Any]:
    """What the reward is; adds to ``absent`` what it lacks, and why."""
    reward = {key: calibration[key] for key in ("clip", "recommended")} | {
        "name": calibration["reward"],
        "min_auc": recipe.reward.min_auc,
    }
    reasons = {
        "recommended": "no formulation has an AUC on the validation split",
        "min_auc": "the recipe sets no gate",
    }
    absent |= {f"reward.{key}": reason for key, reason in reasons.items() if reward[key] is None}
    return reward


def check_report(report: Mapping[str, Any]) -> None:
    """Hold a report against the schema.

    Raises:
        CorruptError: a key is missing, a number is not finite, a null has no reason, or a reason
            belongs to something that is not null.
    """
    _need(
        report, ("dataset", "description", "reward_validity", "generation", "timings", "absent"), ""
    )
    _need(report["dataset"], _DATASET, "dataset.")
    _need(report["description"], DESCRIBERS, "description.")
    _need(report["generation"], GENERATORS, "generation.")
    _need(report["timings"], _TIMED, "timings.")
    for model, row in report["description"].items():
        if row is not None:
            _need(row, METRICS, f"description.{model}.")
            for metric in METRICS:
                _need(row[metric], _SHARES, f"description.{model}.{metric}.")
    for name, row in report["reward_validity"].items():
        _need(row, _VALIDITY, f"reward_validity.{name}.")
    for model, row in report["generation"].items():
        if row is not None:
            _need(row, _GENERATION, f"generation.{model}.")
    absent: Mapping[str, str] = report["absent"]
    body = {key: value for key, value in report.items() if key != "absent"}
    nulls = set()
    for path, value in _leaves(body):
        # JSON knows no NaN: Python would write one that other readers refuse.
        if isinstance(value, float) and not math.isfinite(value):
            raise CorruptError(
                f"{path} = {value}", "must be finite", "see the stage that measured it"
            )
        if value is None:
            nulls.add(path)
            if not absent.get(path):
                raise CorruptError(
                    f"{path} = null", "has no reason under absent", "see the stage that measured it"
                )
    # The other way round, too: a reason that outlives its null would deny a number that is there.
    for path in absent:
        if path not in nulls:
            raise CorruptError(
                f"absent {path}",
                "gives a reason for something that is not null",
                "see the stage that measured it",
            )


def read_report(uri: str) -> dict[str, Any]:
    """Report of a ``report`` output, or of a ``report.json``; checked.

    Raises:
        NotFoundInStoreError: there is none.
        CorruptError: it is no report.
    """
    target = uri if uri.endswith(".json") else store.join(uri, REPORT_FILE)
    try:
        report = json.loads(store.read_bytes(target))
        check_report(report)
    # Many of boig's errors are ValueErrors as well; those have said what is wrong.
    except BoigError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError) as exc:
        raise CorruptError(
            target, "is not a report", "give the folder that the stage report has published"
        ) from exc
    return dict(report)


def _validity(calibration: Mapping[str, Any], name: str, recipe: Recipe) -> dict[str, Any]:
    """Validity of one formulation on the test split, whether it passes the gate, and its numbers on
    the validation split."""
    row, chosen_by = (calibration["splits"][split][name] for split in ("test", "validation"))
    detail = {"reliability", "accounts", "accounts_too_few", "more_kpis"}
    validation = {key: value for key, value in chosen_by.items() if key not in detail}
    return {**row, "passes": passes(row, recipe.reward.min_auc), "validation": validation}


def _explained(tree: Mapping[str, Any], path: str, absent: dict[str, str]) -> dict[str, Any]:
    """The same without its ``undefined``, at any depth; each reason goes to ``absent``."""
    absent |= {f"{path}.{key}": reason for key, reason in tree.get("undefined", {}).items()}
    return {
        key: _explained(value, f"{path}.{key}", absent) if isinstance(value, Mapping) else value
        for key, value in tree.items()
        if key != "undefined"
    }


def _extra_models(description: Mapping[str, Any]) -> set[str]:
    return {
        key
        for key, row in description.items()
        # Models stand beside other keys in one mapping, and are told by having all metrics.
        if key not in DESCRIBERS and isinstance(row, Mapping) and set(METRICS) <= set(row)
    }


def _need(tree: Any, keys: tuple[str, ...], prefix: str) -> None:
    missing = [key for key in keys if not isinstance(tree, Mapping) or key not in tree]
    if missing:
        raise CorruptError(
            f"{prefix}{missing[0]}", "is missing from the report", "see the stage that measures it"
        )


def _leaves(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted path and value of everything that is neither mapping nor list."""
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from _leaves(value, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(tree, (list, tuple)):
        for index, value in enumerate(tree):
            yield from _leaves(value, f"{prefix}.{index}")
    else:
        yield prefix, tree
