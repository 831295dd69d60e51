"""The end of an experiment: what became of each variant, and whether the run counts as a success.

Leaves out: the comparison itself (see `boig_core.evaluation.compare.comparison`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from airflow.sdk import task
from airflow.sdk.exceptions import AirflowSkipException

from boig_core.errors import InputError
from boig_core.escapes import visible
from boig_core.orchestration.planning.assets import (
    write_summary,
)
from boig_core.orchestration.stage import attempts
from boig_core.storage import commit, store

EXPERIMENT: Final = "experiment"
"""Input of the stage compare that holds the variants that failed; no variant is called so."""


def collect(planned: Any, after: Any) -> Any:
    """A task that gathers the evaluations that were made and the reason of each that was not,
    whatever failed.

    Args:
        planned: XCom of the plan.
        after: the mapped evaluations.

    Returns:
        XCom with ``inputs``, those of the stage compare, and ``failed``, reasons by variant.
    """

    @task(
        task_id="collect",
        trigger_rule="all_done",
        # Two values of their own: the stage compare takes the one, `verdict` the other.
        multiple_outputs=True,
        doc_md="Gathers the evaluations, and why others are missing.",
    )
    def collect_(*, ti: Any = None) -> dict[str, dict[str, str]]:
        planned = read_plan(ti)
        names = [variant["name"] for variant in planned["variants"]]
        results = dict(zip(names, read_results(ti, "evaluate_sd", len(names)), strict=True))
        ended = {
            name: result["outputs"]["generation"]
            for name, result in results.items()
            if result is not None
        }
        failed = {
            variant["name"]: _why(planned, variant, index, ti)
            for index, variant in enumerate(planned["variants"])
            if variant["name"] not in ended
        }
        for name, reason in failed.items():
            print(visible(f"variant {name} failed: {reason}"))
        if not ended:
            raise InputError(
                ", ".join(names),
                f"no variant was evaluated ({'; '.join(failed.values())})",
                "mend the first of these causes",
            )
        uri = store.join(planned["recipe"].rsplit("/", 1)[0], f"{EXPERIMENT}.json")
        # A database may forget the order of a mapping's keys.
        store.write_bytes(uri, json.dumps({"variants": names, "failed": failed}, indent=1).encode())
        return {"inputs": {**ended, EXPERIMENT: uri}, "failed": failed}

    collected = collect_()
    [planned, after] >> collected
    return collected


def verdict(planned: Any, compared: Any) -> Any:
    """The last task: keeps what the run has used, and fails where a variant has failed, so that the
    run's end state tells."""

    @task(
        task_id="verdict",
        trigger_rule="all_done",
        doc_md="Fails where a variant failed, although the others were compared.",
    )
    def verdict_(*, ti: Any = None) -> str:
        planned, result = ti.xcom_pull(task_ids="plan"), ti.xcom_pull(task_ids="compare")
        if planned is not None:
            print(write_summary(planned))
        if result is None:
            raise InputError(
                "the comparison", "was not made", "see the log of the task that failed first"
            )
        failed = ti.xcom_pull(task_ids="collect", key="failed")
        report = str(result["outputs"]["report"])
        if failed:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in failed.items())
            remedy = f"the others are compared in {report}; clear the tasks that failed and those after them to complete it"
            raise InputError(
                f"{len(failed)} of {len(planned['variants'])} variants",
                f"failed ({reasons})",
                remedy,
            )
        return report

    judged = verdict_()
    [planned, compared] >> judged
    return judged


def _why(planned: Mapping[str, Any], variant: Mapping[str, Any], index: int, ti: Any) -> str:
    """What the first stage that failed for a variant has left as its reason."""
    # In the order of the work, since what failed first is why the rest failed.
    places = [
        ("finetune_llm", variant["llm"]),
        ("calibrate", variant["calibration"]),
        ("ddpo", index),
        ("finetune_sd", -1),
        ("evaluate_sd", index),
    ]
    for stage, place in places:
        if place is None:
            continue
        folder = attempts.task_uri(planned["store"], ti.dag_id, ti.run_id, stage, place)
        numbers = commit.attempts(folder)
        newest = commit.attempt_uri(folder, numbers[-1]) if numbers else ""
        if (
            newest
            and commit.fate(newest) == "failed"
            and (failure := commit.read_failure(newest)) is not None
        ):
            return f"{stage}: {failure.type}: {failure.message}; {failure.remedy}"
    return "ended without a word; see the logs of its tasks in Airflow"


def read_plan(ti: Any) -> dict[str, Any]:
    """The plan; whoever runs whatever has failed before finds none where the plan itself did."""
    planned = ti.xcom_pull(task_ids="plan")
    if planned is None:
        raise AirflowSkipException("there is no plan")
    return dict(planned)


def read_results(ti: Any, task_id: str, count: int) -> list[Any]:
    """Result of each index of a mapped task; None for one that has none."""
    # Index by index: one that failed leaves a gap, and the others keep their places.
    return list(ti.xcom_pull(task_ids=task_id, map_indexes=list(range(count)))) if count else []
