"""Promotion: gates, a person's approval, then the MLflow registry's alias ``champion`` moves and
the old one stays as ``previous``.

The registry holds where the model lies in the store and what it was made from; the bytes stay in
the store. Leaves out: the DAG.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import Param, task
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from boig_core.config import parse_recipe
from boig_core.errors import CorruptError, InputError, NotFoundInStoreError
from boig_core.observability.logs import hide_secrets
from boig_core.orchestration.promotion.gates import PromotionEvidence, evaluate_gates, table
from boig_core.orchestration.promotion.registry import (
    MODEL,
    Move,
    aliases,
    champion,
    is_registered,
    last_move,
    locations,
    move,
    registry,
    rollback,
    version_tags,
)
from boig_core.orchestration.ui.links import REPORT_PAGE, ReportLink, page_url
from boig_core.storage import commit as commits
from boig_core.storage import evidence, manifest, places, store
from boig_core.storage.job import Job, read_job
from boig_core.storage.runs import DECISION


class Approval(ApprovalOperator):
    """Asks a person, with the gates' table and a link to the report with its images; the answer is
    kept in the store.

    Nobody answers within the recipe's ``promotion.max_days``: the task fails.

    Args:
        gates: result of `gates_task`.
    """

    template_fields = (*ApprovalOperator.template_fields, "gates")
    operator_extra_links = (ReportLink(),)

    def __init__(self, *, gates: Any, **kwargs: Any) -> None:
        # The form shows only params whose source is the task.
        why = Param(
            "",
            type="string",
            title="Why",
            description="Your reason, kept with the decision. The buttons wait for it.",
            source="task",
        )
        super().__init__(**{**kwargs, "params": {"why": why}})
        self.gates = gates

    @property
    def pages(self) -> dict[str, str]:
        """Address of the report, for its link."""
        return {ReportLink().name: self.gates["page"]}

    def execute(self, context: Any) -> Any:
        """Put the question, then wait without holding a worker."""
        # Set as the task runs: a DAG file that is parsed knows neither candidate nor recipe.
        self.response_timeout = timedelta(days=self.gates["max_days"])
        self.subject = f"Promote {store.name(self.gates['candidate'])} to champion?"
        self.body = form(self.gates)
        # Links are kept when a task ends; this one waits.
        context["ti"].xcom_push(key=ReportLink().xcom_key, value=self.gates["page"])
        return super().execute(context)

    def execute_complete(self, context: Any, event: dict[str, Any]) -> Any:
        """Keep who decided what, when and why, before anything follows from it."""
        if "error" not in event:
            store.write_bytes(
                self.gates["decision"], json.dumps(decision(self.gates, event), indent=1).encode()
            )
            is_signed = evidence.keep(self.gates["store"], self.gates["decision"])
            self.log.info(
                "the decision is kept%s at %s",
                " and signed" if is_signed else "",
                self.gates["decision"],
            )
        return super().execute_complete(context, event)

    def process_trigger_event_error(self, event: dict[str, Any]) -> None:
        """A question that nobody answered in time is not put again."""
        if event["error_type"] == "timeout":
            raise AirflowFailException(
                f"nobody answered within {self.gates['max_days']:g} days; the champion stays"
            )
        super().process_trigger_event_error(event)


def form(gates: Mapping[str, Any]) -> str:
    """What the approval shows, as Markdown: links first, since they are what a person opens before
    deciding."""
    links = [
        f"**[Report with images]({gates['page']})**"
        if gates["page"]
        else f"Report: `{store.join(gates['report'], REPORT_PAGE)}`"
    ]
    champion = gates["champion"] or "none yet"
    about = f"Candidate `{gates['candidate']}`. Champion now: `{champion}`."
    choice = "Every gate has passed. **Approve** makes the candidate champion in the model registry, **Reject** changes nothing."
    return "\n\n".join([*links, choice, gates["table"], about])


def decision(gates: Mapping[str, Any], event: Mapping[str, Any]) -> dict[str, Any]:
    """Who decided what, when and why, on which evidence, with places in the store. The manifest
    leads back to the posts, input by input."""
    located = {key: gates[key] for key in ("candidate", "champion", "report", "recipe")}
    return {
        **{
            key: None if uri is None else places.place_of(uri, gates["store"])
            for key, uri in located.items()
        },
        "manifest": gates["manifest"],
        "decision": event["chosen_options"][0],
        "by": person(event),
        "at": event["responded_at"].isoformat(timespec="seconds"),
        "why": (event.get("params_input") or {}).get("why") or "",
        **{key: gates[key] for key in ("root", "gates")},
    }


def person(event: Mapping[str, Any]) -> str:
    """Name of the person who answered."""
    user = event.get("responded_by_user") or {}
    return str((user.get("name") if isinstance(user, Mapping) else user) or "unknown")


@task(
    task_id="gates",
    doc_md="Evaluates the recipe's promotion gates; a candidate that fails one goes no further (skipped).",
)
def gates_task(plan: dict[str, Any], **context: Any) -> dict[str, Any]:
    """Returns gates, verdict and what the approval form shows; skips what follows when a gate
    fails."""
    candidate, report = plan["outputs"]["boigsd"], plan["outputs"]["report"]
    recipe = parse_recipe(_read_json(plan["recipe"]))
    known = collect_evidence(candidate, report)
    gates = evaluate_gates(
        json.loads(manifest.read_file(report, "report.json", kind="report")), recipe, known
    )
    result = {
        "gates": [asdict(gate) for gate in gates],
        "passed": all(gate.passed for gate in gates),
        "table": table(gates),
        "candidate": candidate,
        "manifest": manifest.read_manifest(candidate, kind="sd").digest(),
        "champion": known.champion,
        "report": report,
        "page": page_url(report, REPORT_PAGE, plan["store"]),
        "recipe": plan["recipe"],
        "root": plan["root"],
        "store": plan["store"],
        "decision": store.join(plan["recipe"].rsplit("/", 1)[0], DECISION),
        "max_days": recipe.promotion.max_days,
    }
    print(result["table"])
    if not result["passed"]:
        # A task that is skipped returns nothing, and people must still see what the gates found.
        context["ti"].xcom_push(key="return_value", value=result)
        failed = ", ".join(gate.name for gate in gates if not gate.passed)
        raise AirflowSkipException(f"not promoted, the champion stays: {failed}")
    return result


@task(task_id="promote", doc_md="Registers the model in MLflow and moves the alias champion.")
def promote_task(gates: dict[str, Any], approval: dict[str, Any]) -> dict[str, Any]:
    """Runs after a person approved; returns ``{"model", "version", "champion", "previous",
    "approved_by"}``."""
    name = person(approval)
    return {
        **register(gates, name, (approval.get("params_input") or {}).get("why") or ""),
        "approved_by": name,
    }


@task(task_id="rollback", doc_md="The champion and the one before it change places.")
def rollback_task(**context: Any) -> dict[str, Any]:
    """Returns ``{"model", "champion", "previous"}``; a retry of the same run changes nothing
    more."""
    run = context["dag_run"]
    return rollback(
        run.triggering_user_name or "unknown",
        context["params"]["why"],
        f"{run.dag_id}/{run.run_id}",
    )


def collect_evidence(candidate: str, report: str) -> PromotionEvidence:
    """What the registry, and the runs behind a report, say about a candidate.

    Raises:
        InputError: the report is about another model.
        CorruptError, NotFoundInStoreError: an output or the run that made it cannot be read.
    """
    # The job of the evaluation says which model and which champion were sampled. It is found from
    # the report by manifests, so a param that names another model is caught.
    evaluation = _made_by(_made_by(report).input("generation"))
    if store.normalize(evaluation.input("boigsd")) != store.normalize(candidate):
        raise InputError(
            report,
            f"is about {evaluation.input('boigsd')}, not about {candidate}",
            "give a model and its own report",
        )
    compared, now = evaluation.inputs.get("champion"), champion()
    training = commits.read_commit(_attempt(candidate)) or {}
    return PromotionEvidence(
        champion=None if now is None else store.normalize(now),
        compared=None if compared is None else store.normalize(compared),
        candidate=store.normalize(candidate),
        monitors=training.get("metrics", {}).get("monitors"),
    )


def _made_by(output: str) -> Job:
    """Job of the run that made an output."""
    return read_job(store.join(_attempt(output), "job.json"))


def _attempt(output: str) -> str:
    return manifest.read_manifest(output).commit.rsplit("/", 1)[0]


def register(gates: Mapping[str, Any], approved_by: str, why: str) -> dict[str, Any]:
    """Register the candidate and make it champion; the same folder is registered once.

    Args:
        gates: result of `gates_task`: the model, its evidence and its lineage, which become tags of
            the version.
        approved_by: the person who approved; kept with time and reason.
        why: their reason.

    Raises:
        InputError: no tracking server is set.
        CorruptError: signatures are asked for, and the decision has none or is about another model.
        InfrastructureError: MLflow does not answer.
    """
    uri = gates["candidate"]
    evidence.require_promoted(gates["store"], gates["decision"], uri)
    # MLflow refuses plain local paths as a source; the scheme says that boig's store holds the
    # model.
    source = uri if store.is_s3(uri) else f"boig://{uri}"
    tags = version_tags(gates, gates["store"])
    with registry() as client:
        if not is_registered(client):
            client.create_registered_model(
                MODEL, description="Diffusion models that boig has aligned with a KPI."
            )
        # A try that was cut may have registered the version: the next one goes on with that.
        versions = client.search_model_versions(f"name='{MODEL}'")
        same = [version for version in versions if locations(version.tags).get("uri") == uri]
        new = str(
            (same[0] if same else client.create_model_version(MODEL, source, tags=tags)).version
        )
        now = datetime.now(UTC).isoformat(timespec="seconds")
        for key, value in {
            "approved_by": approved_by,
            "approved_at": now,
            "approved_why": why,
        }.items():
            client.set_model_version_tag(MODEL, new, key, hide_secrets(value))
        last_move(client)  # one that was cut is finished before the next begins
        alias_versions = aliases(client)
        # Promoted once more, a champion would become its own previous, and the model before would
        # be lost to a rollback.
        if alias_versions.get("champion") != new:
            move(client, Move(uuid4().hex, "promote", new, alias_versions.get("champion")))
            alias_versions = aliases(client)
    return {
        "model": MODEL,
        "version": new,
        "champion": alias_versions.get("champion"),
        "previous": alias_versions.get("previous"),
    }


def _read_json(uri: str) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(store.read_bytes(uri))
    except ValueError as exc:
        raise CorruptError(uri, f"is not valid JSON ({exc})", "make the output again") from exc
    except NotFoundInStoreError as exc:
        raise NotFoundInStoreError(
            uri, "does not exist", "give the URI of a finished run's output"
        ) from exc
    return content
