"""What a run of ``boig_promote`` is about, and what the store says of it.

Its tasks hand each other nothing through XComs, which people may write: the first one keeps the
request in the store, and each reads it there, reads the chain behind it, and evaluates the gates
anew. Leaves out: asking a person (see `approval`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Final
from uuid import uuid4

from boig_core.config import Policy, Recipe
from boig_core.errors import InputError, NotFoundInStoreError
from boig_core.orchestration.promotion.chain import Chain, verify_chain
from boig_core.orchestration.promotion.gates import (
    Gate,
    PromotionEvidence,
    evaluate_gates,
    raise_to_floors,
    table,
)
from boig_core.orchestration.promotion.registry import champion
from boig_core.orchestration.roots import store_root
from boig_core.orchestration.stage.attempts import run_folder
from boig_core.orchestration.ui.links import REPORT_PAGE, page_url
from boig_core.storage import control, manifest, places, store
from boig_core.storage.runs import DECISION

REQUEST: Final = "request.json"
_REQUEST: Final = ("a request", "clear the task plan")
"""What the file is, and what helps when it is none."""


@dataclass(frozen=True)
class Request:
    """Content of ``request.json``, with locations in the place of places.

    Attributes:
        question: id of the question that is put to a person; a new one each time that it is put, so
            that an answer to an earlier one counts no more.
        candidate: URI of the model.
        report: URI of its report.
    """

    question: str
    candidate: str
    report: str


@dataclass(frozen=True)
class Assessment:
    """What the store, the policy and the registry say of a request now.

    Attributes:
        chain: behind the candidate.
        recipe: of the candidate's own job, its gates raised to the policy's floors.
        gates: all of them.
        champion: URI of the registry's champion; None: there is none yet.
        triggered_by: each person who triggered a run of the chain or this run, with the run.
    """

    chain: Chain
    recipe: Recipe
    gates: list[Gate]
    champion: str | None
    triggered_by: Mapping[str, str]

    @property
    def failed(self) -> list[str]:
        """Names of the gates that fail."""
        return [gate.name for gate in self.gates if not gate.passed]


def folder_of(context: Mapping[str, Any]) -> str:
    """The run's folder in the store.

    Raises:
        InputError: ``BOIG_STORE`` is not set, or is no location.
    """
    ti = context["ti"]
    return store.join(store_root(), "runs", ti.dag_id, run_folder(ti.run_id))


def write_request(folder: str, candidate: str, report: str) -> Request:
    """Keep a request with a question of its own, in the place of the run's earlier one."""
    request = Request(uuid4().hex, store.normalize(candidate), store.normalize(report))
    root = store_root()
    body = {
        "question": request.question,
        "candidate": places.place_of(request.candidate, root),
        "report": places.place_of(request.report, root),
    }
    store.write_bytes(store.join(folder, REQUEST), json.dumps(body, indent=1).encode())
    return request


def read_request(folder: str) -> Request:
    """The run's request.

    Raises:
        InputError: the task that keeps it has not run.
        CorruptError: the file is no request.
    """
    uri = store.join(folder, REQUEST)
    try:
        kept = control.read(uri, Request, *_REQUEST)
        candidate, report = (
            places.locate(place, store_root()) for place in (kept.candidate, kept.report)
        )
        return replace(kept, candidate=candidate, report=report)
    except NotFoundInStoreError:
        rule = "was marked as success, so nothing is known of the candidate"
        raise InputError("the task plan", rule, "clear it") from None


def assess(request: Request, policy: Policy, context: Mapping[str, Any]) -> Assessment:
    """Verify the chain behind a request, and evaluate the gates.

    Raises:
        UserError: as `verify_chain`, or the registry cannot be asked.
    """
    chain = verify_chain(request.candidate, request.report, store_root())
    recipe = raise_to_floors(chain.candidate.job.recipe, policy.gates)
    now = champion()
    evidence = PromotionEvidence(
        champion=None if now is None else store.normalize(now),
        compared=chain.compared,
        candidate=chain.candidate.uri,
        monitors=chain.monitors,
    )
    report = json.loads(manifest.read_file(chain.report.uri, "report.json", kind="report"))
    run = context["dag_run"]
    own = {run.triggering_user_name: f"{run.dag_id}/{run.run_id}"}
    return Assessment(
        chain=chain,
        recipe=recipe,
        gates=evaluate_gates(report, recipe, evidence),
        champion=evidence.champion,
        # An asset that triggered this run has no name.
        triggered_by={**{name: at for name, at in own.items() if name}, **chain.triggered_by},
    )


def summary(assessed: Assessment, request: Request, folder: str) -> dict[str, Any]:
    """What people, the decision and the registry get of an assessment."""
    candidate, report, root = assessed.chain.candidate, assessed.chain.report, store_root()
    return {
        "gates": [asdict(gate) for gate in assessed.gates],
        "passed": not assessed.failed,
        "table": table(assessed.gates),
        "candidate": candidate.uri,
        "manifest": candidate.digest,
        "champion": assessed.champion,
        "report": report.uri,
        "report_manifest": report.digest,
        "page": page_url(report.uri, REPORT_PAGE, root),
        "recipe": store.join(folder, "recipe.json"),
        "root": candidate.job.root,
        "store": root,
        "question": request.question,
        "decision": store.join(folder, DECISION),
        "max_days": assessed.recipe.promotion.max_days,
        "triggered_by": dict(assessed.triggered_by),
        "unknown": list(assessed.chain.unknown),
    }
