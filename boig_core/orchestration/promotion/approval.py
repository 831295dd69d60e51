"""Promotion: gates, a person's approval, then the MLflow registry's alias ``champion`` moves and
the old one stays as ``previous``.

No task believes an XCom: each reads the request from the store and evaluates it anew, and the
registry moves for a decision that the approval has kept there. The registry holds where the model
lies in the store and what it was made from; the bytes stay in the store. Leaves out: the DAG, the
chain behind a candidate (see `chain`) and who may answer (see `approvers`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import Param, task
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException, TaskAwaitingInput

from boig_core.config import Policy, load_policy
from boig_core.config.policy import Approver
from boig_core.errors import CorruptError, InputError, NotFoundInStoreError
from boig_core.observability.logs import hide_secrets
from boig_core.orchestration.promotion.approvers import approvers, require_allowed, require_names
from boig_core.orchestration.promotion.registry import (
    MODEL,
    Move,
    aliases,
    is_registered,
    last_move,
    locations,
    move,
    registry,
    rollback,
    version_tags,
)
from boig_core.orchestration.promotion.request import (
    Assessment,
    assess,
    folder_of,
    read_request,
    summary,
    write_request,
)
from boig_core.orchestration.ui.links import REPORT_PAGE, ReportLink
from boig_core.storage import control, evidence, places, store


@task(
    task_id="gates",
    doc_md="Evaluates the promotion gates; a candidate that fails one goes no further (skipped).",
)
def gates_task(**context: Any) -> dict[str, Any]:
    """Returns gates and verdict, for people; skips what follows when a gate fails."""
    folder = folder_of(context)
    request = read_request(folder)
    assessed = assess(request, load_policy(), context)
    result = summary(assessed, request, folder)
    print(result["table"])
    if assessed.failed:
        # A task that is skipped returns nothing, and people must still see what the gates found.
        context["ti"].xcom_push(key="return_value", value=result)
        raise AirflowSkipException(_not_promoted(assessed))
    return result


class Approval(ApprovalOperator):
    """Asks a person, with the gates' table and a link to the report with its images; the answer is
    kept in the store.

    Only approvers of the policy are asked who triggered no run of the chain. Nobody answers within
    the recipe's ``promotion.max_days``: the task fails.
    """

    operator_extra_links = (ReportLink(),)

    def __init__(self, **kwargs: Any) -> None:
        # The form shows only params whose source is the task.
        why = Param(
            "",
            type="string",
            title="Why",
            description="Your reason, kept with the decision. The buttons wait for it.",
            source="task",
        )
        super().__init__(**{**kwargs, "params": {"why": why}})
        self.pages: dict[str, str] = {}
        self._max_days = 0.0

    def execute(self, context: Any) -> Any:
        """Put the question, then wait without holding a worker."""
        folder, policy = folder_of(context), load_policy()
        require_names()
        earlier = read_request(folder)
        # A new question voids any earlier answer of this run.
        request = write_request(folder, earlier.candidate, earlier.report)
        assessed = assess(request, policy, context)
        if assessed.failed:  # the task gates was marked as success, or the registry has changed
            raise AirflowFailException(_not_promoted(assessed))
        asked = approvers(policy, assessed.triggered_by)
        gates = summary(assessed, request, folder)
        # Set as the task runs: a DAG file that is parsed knows neither candidate nor recipe.
        self.assigned_users = [{"id": person.id, "name": person.name} for person in asked]
        self.response_timeout = timedelta(days=gates["max_days"])
        self.subject = f"Promote {store.name(gates['candidate'])} to champion?"
        self.body = form(gates, asked)
        # Links are kept when a task ends; this one waits.
        context["ti"].xcom_push(key=ReportLink().xcom_key, value=gates["page"])
        try:
            return super().execute(context)
        except TaskAwaitingInput as waiting:
            # What was asked goes through Airflow's own record of the wait, which no person can
            # write: the answer is to this and to nothing else.
            kept = {key: gates[key] for key in (*_ASKED, "max_days")}
            raise TaskAwaitingInput(
                method_name=waiting.method_name, kwargs={"asked": kept}, timeout=waiting.timeout
            ) from None

    def execute_complete(
        self, context: Any, event: dict[str, Any], asked: Mapping[str, Any] | None = None
    ) -> Any:
        """Check the answer, and keep who decided what, when and why, before anything follows from
        it."""
        self._max_days = (asked or {}).get("max_days", 0.0)
        if "error" not in event:
            folder, policy = folder_of(context), load_policy()
            request = read_request(folder)
            assessed = assess(request, policy, context)
            gates = summary(assessed, request, folder)
            require_names()
            _require_unchanged("the question", asked or {}, gates)
            person = require_allowed(policy, assessed.triggered_by, event.get("responded_by_user"))
            kept = decision(gates, event, person)
            # Beside the decision: what lies there is signed with it, and goes to an auditor.
            store.write_bytes(store.join(folder, POLICY), policy.model_dump_json(indent=1).encode())
            store.write_bytes(gates["decision"], json.dumps(kept, indent=1).encode())
            is_signed = evidence.keep(gates["store"], gates["decision"])
            self.log.info(
                "the decision is kept%s at %s",
                " and signed" if is_signed else "",
                gates["decision"],
            )
            self.pages = {ReportLink().name: gates["page"]}
        return super().execute_complete(context, event)

    def process_trigger_event_error(self, event: dict[str, Any]) -> None:
        """A question that nobody answered in time is not put again."""
        if event["error_type"] == "timeout":
            raise AirflowFailException(
                f"nobody answered within {self._max_days:g} days; the champion stays"
            )
        super().process_trigger_event_error(event)


POLICY: Final = "policy.json"
"""The policy under which a person has answered, beside the decision."""
_DECISION: Final = ("a decision", "clear the task approval")
"""What the file is, and what helps when it is none."""
_PLACED: Final = ("candidate", "report")
_ASKED: Final = ("question", "candidate", "manifest", "report", "report_manifest")
"""What a question and its answer are about."""


def form(gates: Mapping[str, Any], asked: tuple[Approver, ...]) -> str:
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
    who = f"May answer: {', '.join(person.name for person in asked)}."
    if gates["triggered_by"]:
        struck = (f"{name} (`{run}`)" for name, run in gates["triggered_by"].items())
        who += f" Not these, who triggered a run of the chain: {', '.join(struck)}."
    if gates["unknown"]:
        runs = ", ".join(f"`{run}`" for run in gates["unknown"])
        who += f" **Who triggered is not known** of {runs}."
    return "\n\n".join([*links, choice, gates["table"], about, who])


def decision(
    gates: Mapping[str, Any], event: Mapping[str, Any], person: Approver
) -> dict[str, Any]:
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
        "by": person.name,
        "by_id": person.id,
        "at": event["responded_at"].isoformat(timespec="seconds"),
        "why": (event.get("params_input") or {}).get("why") or "",
        **{key: gates[key] for key in ("root", "gates")},
        **{key: gates[key] for key in ("report_manifest", "question", "triggered_by", "unknown")},
    }


@task(task_id="promote", doc_md="Registers the model in MLflow and moves the alias champion.")
def promote_task(**context: Any) -> dict[str, Any]:
    """Runs after a person approved; returns ``{"model", "version", "champion", "previous",
    "approved_by"}``."""
    folder, policy = folder_of(context), load_policy()
    request = read_request(folder)
    assessed = assess(request, policy, context)
    gates = summary(assessed, request, folder)
    kept = require_approved(gates, assessed, policy)
    if assessed.failed:
        raise AirflowFailException(_not_promoted(assessed))
    return {**register(gates, kept["by"], kept["why"]), "approved_by": kept["by"]}


def require_approved(
    gates: Mapping[str, Any], assessed: Assessment, policy: Policy
) -> dict[str, Any]:
    """The decision that the approval has kept, if it approves what the request is about.

    Args:
        gates: summary of the assessment.
        assessed: the request, as it is now.
        policy: of this installation, read now.

    Raises:
        InputError: there is none, or it is no approval of this very candidate.
        PolicyError: whoever approved may not.
        CorruptError: the file is no decision.
    """
    uri = gates["decision"]
    try:
        kept = control.read_object(uri, *_DECISION)
        choice, person = kept["decision"], {"id": kept["by_id"], "name": kept["by"]}
        named = {key: places.locate(str(kept[key]), gates["store"]) for key in _PLACED}
        kept = {**kept, **named, "why": str(kept["why"])}
    except NotFoundInStoreError:
        rule = f"was marked as success: nobody has answered, {uri} does not exist"
        raise InputError("the task approval", rule, "clear it, and have a person answer") from None
    except KeyError as exc:
        raise CorruptError(uri, f"is not {_DECISION[0]} (no {exc})", _DECISION[1]) from exc
    _require_unchanged(uri, kept, gates)
    if choice != Approval.APPROVE:
        raise InputError(uri, f"says {choice}", "clear the task approval to ask again")
    require_allowed(policy, assessed.triggered_by, person)
    return kept


def _require_unchanged(what: str, asked: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    changed = [key for key in _ASKED if asked.get(key) != now[key]]
    if changed:
        raise InputError(
            what,
            f"is about another {', '.join(changed)} than this run now is",
            "clear the task approval, and have a person answer anew",
        )


def _not_promoted(assessed: Assessment) -> str:
    return f"not promoted, the champion stays: {', '.join(assessed.failed)}"


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


def register(gates: Mapping[str, Any], approved_by: str, why: str) -> dict[str, Any]:
    """Register the candidate and make it champion; the same folder is registered once, and a
    decision is carried out once.

    Args:
        gates: summary of the assessment: the model, its evidence and its lineage, which become tags
            of the version, and the question that was answered.
        approved_by: the person who approved; kept with time and reason.
        why: their reason.

    Raises:
        InputError: no tracking server is set, or the decision was carried out before and taken back
            since.
        CorruptError: signatures are asked for, and the decision has none or is about another model.
        InfrastructureError: MLflow does not answer.
    """
    uri = gates["candidate"]
    evidence.require_promoted(gates["store"], gates["decision"], uri)
    tags = version_tags(gates, gates["store"])
    # MLflow reads it by `artifacts`, which goes by the tags: a store may move.
    source = f"boig:///{tags['uri']}"
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
        now, done = datetime.now(UTC).isoformat(timespec="seconds"), f"decision_{gates['question']}"
        if same and done in same[0].tags and aliases(client).get("champion") != new:
            # Cleared after a rollback, the task would undo what another person has decided since.
            raise InputError(
                gates["decision"],
                "was carried out before, and another model is champion since",
                "trigger boig_promote again, and have a person decide anew",
            )
        for key, value in {
            "approved_by": approved_by,
            "approved_at": now,
            "approved_why": why,
        }.items():
            client.set_model_version_tag(MODEL, new, key, hide_secrets(value))
        last_move(client)  # one that was cut is finished before the next begins
        alias_versions = aliases(client)
        # Promoted once more, a champion would become its own previous: no way back by a rollback.
        if alias_versions.get("champion") != new:
            move(client, Move(gates["question"], "promote", new, alias_versions.get("champion")))
            alias_versions = aliases(client)
        client.set_model_version_tag(MODEL, new, done, now)
    return {
        "model": MODEL,
        "version": new,
        "champion": alias_versions.get("champion"),
        "previous": alias_versions.get("previous"),
    }
