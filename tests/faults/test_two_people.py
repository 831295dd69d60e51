"""Two people in a real Airflow: who triggered cannot approve, whatever their role; the approver
can."""

from __future__ import annotations

import json
import time

import pytest

from boig_core.demo.follow import APPROVE_AFTER_S
from boig_core.errors import InfrastructureError
from boig_core.orchestration.promotion.chain import verify_chain
from infra.evidence.orchestration.airflow_clicks import Run
from infra.evidence.orchestration.airflow_on_postgres import until
from tests.faults.installation import Installation
from tests.unit.orchestration.chains import whole_chain


def test_who_triggered_cannot_approve_and_the_approver_can(services: Installation) -> None:
    root = str(services.store)
    outputs = whole_chain(root, {"boig_ingest": ["trainer"]})
    assert verify_chain(outputs["boigsd"], outputs["report"], root)
    services.airflow.unpause("boig_promote")
    trainer, approver = services.person("trainer"), services.person("approver")
    named = {name: outputs[name] for name in ("boigsd", "report")}
    run = Run("boig_promote", trainer.trigger("boig_promote", named))
    until("a person is asked", lambda: services.airflow.state(run, "approval") == "awaiting_input")
    asked = time.monotonic()
    for person in (trainer, services.airflow):
        with pytest.raises(InfrastructureError, match=r"answered 403.*is not a respondent"):
            person.approve(run.dag, run.id, "approval")
    until("its scheduler knows", lambda: time.monotonic() - asked > APPROVE_AFTER_S)
    approver.approve(run.dag, run.id, "approval")
    until("it is promoted", lambda: services.airflow.run_state(run) == "success")
    kept = json.loads(
        (services.store / "runs" / run.dag / run.folder / "decision.json").read_text()
    )
    assert (kept["decision"], kept["by"]) == ("Approve", "approver")
    assert kept["triggered_by"] == {"trainer": "boig_ingest/r"}
    assert services.airflow.xcom(run.dag, run.id, "promote")["champion"] == "1"
