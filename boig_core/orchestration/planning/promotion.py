"""The first task of `boig_promote`: which candidate, with which report.

A param wins, then the event that triggered the run, then the newest event. Both only say where to
begin: the store is asked for all the rest. Leaves out: what comes after (see
`boig_core.orchestration.promotion`).
"""

from __future__ import annotations

from typing import Any

from airflow.sdk import Asset, task
from airflow.sdk.exceptions import DownstreamTasksSkipped

from boig_core.config import load_policy
from boig_core.errors import InputError
from boig_core.orchestration.planning.assets import newest_extra
from boig_core.orchestration.promotion.approvers import approvers, require_names
from boig_core.orchestration.promotion.request import assess, folder_of, summary, write_request
from boig_core.storage import store


def plan_promotion(source: Asset) -> Any:
    """The first task: finds the candidate and its report, verifies the chain behind them, and keeps
    the request. With the param ``dry_run`` it is the last one, too.

    Args:
        source: asset whose events name both.
    """

    @task(
        task_id="plan",
        inlets=[source],
        doc_md="Finds the candidate and its report, and verifies what both were made from.",
    )
    def plan_(**context: Any) -> dict[str, Any]:
        folder, params = folder_of(context), context["params"]
        outputs = newest_extra(context, source).get("outputs", {})
        named = {name: params.get(name) or outputs.get(name) for name in ("boigsd", "report")}
        for name, uri in named.items():
            if not uri:
                raise InputError(
                    f"input {name!r}",
                    "is neither a param nor known from an asset event",
                    f"give its URI as the param {name!r}",
                )
        request = write_request(folder, str(named["boigsd"]), str(named["report"]))
        policy = load_policy()
        assessed = assess(request, policy, context)
        result = summary(assessed, request, folder)
        own = assessed.chain.candidate.job.recipe
        store.write_bytes(result["recipe"], own.model_dump_json(indent=1).encode())
        print(f"candidate {result['candidate']}\nreport {result['report']}\n{result['table']}")
        if params.get("dry_run"):
            require_names()
            asked = ", ".join(person.name for person in approvers(policy, assessed.triggered_by))
            print(f"{asked} may approve\ndry run: all was checked, nothing is started")
            raise DownstreamTasksSkipped(
                tasks=sorted(context["task"].get_flat_relative_ids(upstream=False))
            )
        return {key: result[key] for key in ("store", "recipe", "root", "candidate", "report")}

    return plan_()
