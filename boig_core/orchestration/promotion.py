"""Promotion: gates, a person's approval, then the MLflow registry's alias ``champion`` moves and the old one stays as ``previous``.

The registry holds where the model lies in the store and what it was made from; the bytes stay in the store. Leaves out: the DAG.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import task
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from boig_core.config import Promotion, parse_recipe
from boig_core.errors import CorruptError, InfrastructureError, InputError, NotFoundInStoreError, UserError
from boig_core.orchestration.gates import Gate, evaluate_gates, table
from boig_core.orchestration.registry import MODEL
from boig_core.storage import manifest, store


class Approval(ApprovalOperator):
    """Asks a person, and shows what the gates found. Nobody answers within the recipe's ``promotion.max_days``: the task fails.

    Args:
        gates: result of `gates_task`.
    """

    template_fields = (*ApprovalOperator.template_fields, "gates")

    def __init__(self, *, gates: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.gates = gates

    def execute(self, context: Any) -> Any:
        """Put the question, then wait without holding a worker."""
        self.response_timeout = timedelta(days=self.gates["max_days"])
        self.subject = f"Promote {store.name(self.gates['candidate'])} to champion?"
        self.body = f"{self.gates['table']}\n\nReport: `{self.gates['report']}`"
        return super().execute(context)

    def process_trigger_event_error(self, event: dict[str, Any]) -> None:
        """A question that nobody answered in time is not put again."""
        if event["error_type"] == "timeout":
            raise AirflowFailException(f"nobody answered within {self.gates['max_days']:g} days; the champion stays")
        super().process_trigger_event_error(event)


@task(task_id="gates", doc_md="Evaluates the recipe's promotion gates; a candidate that fails one goes no further (skipped).")
def gates_task(plan: dict[str, Any], **context: Any) -> dict[str, Any]:
    """Returns gates, verdict and what the approval form shows; skips what follows when a gate fails."""
    try:
        recipe = parse_recipe(_read_json(plan["recipe"]))
        gates = read_gates(plan, recipe.promotion)
    except UserError as exc:
        raise AirflowFailException(str(exc)) from exc
    result = {
        "gates": [asdict(gate) for gate in gates],
        "passed": all(gate.passed for gate in gates),
        "table": table(gates),
        "candidate": plan["outputs"]["boigsd"],
        "report": store.join(plan["outputs"]["report"], "report.html"),
        "max_days": recipe.promotion.max_days,
    }
    print(result["table"])
    if not result["passed"]:
        context["ti"].xcom_push(key="return_value", value=result)
        failed = ", ".join(gate.name for gate in gates if not gate.passed)
        raise AirflowSkipException(f"not promoted, the champion stays: {failed}")
    return result


@task(task_id="promote", doc_md="Registers the model in MLflow and moves the alias champion.")
def promote_task(plan: dict[str, Any], gates: dict[str, Any], approval: dict[str, Any]) -> dict[str, Any]:
    """Runs after a person approved; returns ``{"model", "version", "champion", "previous", "approved_by"}``."""
    user = approval.get("responded_by_user") or {}
    name = str((user.get("name") if isinstance(user, Mapping) else user) or "unknown")
    try:
        return {**register(plan["outputs"]["boigsd"], plan, gates, name), "approved_by": name}
    except UserError as exc:
        raise AirflowFailException(str(exc)) from exc


def read_gates(plan: Mapping[str, Any], promotion: Promotion) -> list[Gate]:
    """Evaluate the gates on the report that a plan names."""
    return evaluate_gates(_read_json(store.join(plan["outputs"]["report"], "report.json")), promotion)


def register(uri: str, plan: Mapping[str, Any], gates: Mapping[str, Any], approved_by: str) -> dict[str, Any]:
    """Register a model folder and make it champion; the same folder is registered once.

    Args:
        uri: the model's folder in the store.
        plan: of the promoting run.
        gates: what the candidate has shown.
        approved_by: the person who approved; kept with the time as tags on the version.

    Raises:
        InputError: no tracking server is set.
        InfrastructureError: MLflow does not answer.
    """
    if not os.environ.get("MLFLOW_TRACKING_URI"):
        raise InputError("MLFLOW_TRACKING_URI", "is not set", "set it to the MLflow server that keeps the registry")
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    # MLflow refuses plain local paths as a source; the scheme says that boig's store holds the model.
    source = uri if store.is_s3(uri) else f"boig://{uri}"
    tags = {
        "uri": uri,
        "manifest": manifest.read_manifest(uri, kind="sd").digest(),
        "report": str(plan["outputs"]["report"]),
        "recipe": str(plan["recipe"]),
        "root": str(plan["root"]),
        "gates": json.dumps(gates["gates"]),
    }
    try:
        client = MlflowClient()
        if not client.search_registered_models(f"name='{MODEL}'"):
            client.create_registered_model(MODEL, description="Diffusion models that boig has aligned with a KPI.")
        versions = client.search_model_versions(f"name='{MODEL}'")
        same = [version for version in versions if version.tags.get("uri") == uri]
        new = same[0] if same else client.create_model_version(MODEL, source, tags=tags)
        for key, value in {"approved_by": approved_by, "approved_at": datetime.now(UTC).isoformat(timespec="seconds")}.items():
            client.set_model_version_tag(MODEL, str(new.version), key, value)
        champion = client.get_registered_model(MODEL).aliases.get("champion")
        if champion is not None and str(champion) != str(new.version):
            client.set_registered_model_alias(MODEL, "previous", str(champion))
        client.set_registered_model_alias(MODEL, "champion", str(new.version))
        aliases = {name: str(version) for name, version in client.get_registered_model(MODEL).aliases.items()}
    except MlflowException as exc:
        raise InfrastructureError(os.environ["MLFLOW_TRACKING_URI"], f"MLflow failed ({exc})", "check the server and its log") from exc
    return {"model": MODEL, "version": str(new.version), "champion": aliases.get("champion"), "previous": aliases.get("previous")}


def _read_json(uri: str) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(store.read_bytes(uri))
    except ValueError as exc:
        raise CorruptError(uri, f"is not valid JSON ({exc})", "make the output again") from exc
    except NotFoundInStoreError as exc:
        raise NotFoundInStoreError(uri, "does not exist", "give the URI of a finished run's output") from exc
    return content
