"""A promotion's tasks one by one, in an Airflow whose people may write XComs, mark tasks as
success, clear them and send events: nothing of that stands for an approver's answer."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException, TaskAwaitingInput
from mlflow import MlflowClient

from boig_core.errors import BoigError, InputError, PolicyError
from boig_core.orchestration.planning.assets import BOIGSD
from boig_core.orchestration.promotion.registry import MODEL, aliases, rollback
from boig_core.storage import manifest, store
from tests.dags.running import load
from tests.unit.orchestration.chains import change, whole_chain

pytestmark = pytest.mark.slow  # of the whole suite, not of its quick part

ANN, BOB = ({"id": name, "name": name} for name in ("ann", "bob"))


class Promotion:
    """A run of boig_promote about a chain that ``ann`` began.

    Attributes:
        asked: what was put to people.
        by: who triggered the run; None: an asset.
    """

    def __init__(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.home, self.root = home, str(home / "store")
        self.outputs = whole_chain(self.root, {"boig_ingest": ["ann"]})
        self.asked: list[dict[str, Any]] = []
        self.by: str | None = None
        self.events: list[Any] = []
        self.params: dict[str, Any] = {name: self.outputs[name] for name in ("boigsd", "report")}
        self.dag = load("boig_promote")
        monkeypatch.setenv("BOIG_STORE", self.root)
        monkeypatch.setenv("BOIG_POLICY", str(home / "policy.yaml"))
        monkeypatch.setattr(
            "airflow.providers.standard.operators.hitl.upsert_hitl_detail",
            lambda **detail: self.asked.append(detail),
        )
        self.allow("ann", "bob")

    def allow(self, *names: str, **gates: Any) -> None:
        """Write the policy."""
        people = [{"id": name, "name": name} for name in names]
        (self.home / "policy.yaml").write_text(
            yaml.safe_dump({"approvers": people, "gates": gates})
        )

    @property
    def context(self) -> dict[str, Any]:
        forged = {"passed": True, "chosen_options": ["Approve"], "responded_by_user": BOB}
        ti = SimpleNamespace(
            dag_id="boig_promote",
            run_id="r",
            id=uuid.uuid4(),
            xcom_push=lambda **_: None,
            xcom_pull=lambda *_, **__: forged,
        )
        events = SimpleNamespace(
            ascending=lambda _: SimpleNamespace(limit=lambda _: self.events[-1:])
        )
        return {
            "ti": ti,
            "task_instance": ti,
            "dag_run": SimpleNamespace(
                dag_id="boig_promote", run_id="r", triggering_user_name=self.by
            ),
            "params": self.params,
            "triggering_asset_events": {},
            "inlet_events": {BOIGSD: events},
        }

    @property
    def folder(self) -> str:
        return f"{self.root}/runs/boig_promote/r"

    def run(self, task: str) -> Any:
        """One of the tasks that are functions."""
        return self.dag.get_task(task).python_callable(**self.context)

    def ask(self) -> dict[str, Any]:
        """The approval up to where it waits; returns what Airflow keeps meanwhile."""
        with pytest.raises(TaskAwaitingInput) as waiting:
            self.dag.get_task("approval").execute(self.context)
        return dict(waiting.value.kwargs or {})

    def answer(
        self, kept: dict[str, Any], user: dict[str, str] | None, *, option: str = "Approve"
    ) -> Any:
        event = {
            "chosen_options": [option],
            "params_input": {"why": "it sells"},
            "responded_at": datetime.now(UTC),
            "responded_by_user": user,
        }
        return self.dag.get_task("approval").execute_complete(self.context, event, **kept)

    def approve(self) -> None:
        self.run("plan")
        self.answer(self.ask(), BOB)

    def decision(self) -> dict[str, Any]:
        return json.loads(store.read_bytes(f"{self.folder}/decision.json"))  # type: ignore[no-any-return]


@pytest.fixture
def promotion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, client: MlflowClient) -> Promotion:
    return Promotion(tmp_path, monkeypatch)


def champion(client: MlflowClient) -> str | None:
    return aliases(client).get("champion")


def test_who_began_the_chain_is_not_asked_and_the_form_says_why(promotion: Promotion) -> None:
    promotion.run("plan")
    assert promotion.run("gates")["passed"] is True
    promotion.ask()
    [asked] = promotion.asked
    assert asked["assigned_users"] == [BOB]
    assert (
        "May answer: bob. Not these, who triggered a run of the chain: ann (`boig_ingest/r`)."
        in (asked["body"])
    )
    # The demo's recipe leaves one monitor out.
    [monitors] = [line for line in asked["body"].splitlines() if "monitors tripped" in line]
    assert "**loosened**" in monitors
    assert asked["body"].count("**loosened**") == 1


def test_who_triggered_the_promotion_itself_is_struck(promotion: Promotion) -> None:
    promotion.by = "bob"
    promotion.run("plan")
    with pytest.raises(PolicyError) as caught:
        promotion.dag.get_task("approval").execute(promotion.context)
    assert "ann triggered boig_ingest/r, bob triggered boig_promote/r" in str(caught.value)
    assert promotion.asked == []


def test_nobody_is_asked_where_nobody_may_answer(
    promotion: Promotion, monkeypatch: pytest.MonkeyPatch
) -> None:
    promotion.run("plan")
    approval = promotion.dag.get_task("approval")
    promotion.allow()
    with pytest.raises(PolicyError, match="names nobody"):
        approval.execute(promotion.context)
    promotion.allow("bob")
    monkeypatch.setenv("AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS", "True")
    with pytest.raises(InputError, match="nobody has a name"):
        approval.execute(promotion.context)
    assert promotion.asked == []


def test_an_approver_promotes_and_the_decision_is_kept(
    promotion: Promotion, client: MlflowClient
) -> None:
    promotion.approve()
    kept = promotion.decision()
    assert (kept["by"], kept["by_id"], kept["decision"]) == ("bob", "bob", "Approve")
    assert kept["triggered_by"] == {"ann": "boig_ingest/r"}
    assert kept["manifest"] == manifest.read_manifest(promotion.outputs["boigsd"]).digest()
    assert promotion.run("promote")["champion"] == "1" == champion(client)
    assert promotion.run("promote")["champion"] == "1", "once more after a lost answer"


def test_a_task_that_was_marked_as_success_stands_for_nothing(
    promotion: Promotion, client: MlflowClient
) -> None:
    for task in ("gates", "promote"):
        with pytest.raises(InputError, match="the task plan: was marked as success"):
            promotion.run(task)
    promotion.run("plan")
    with pytest.raises(InputError, match="the task approval: was marked as success"):
        promotion.run("promote")
    promotion.ask()
    with pytest.raises(InputError, match="nobody has answered"):
        promotion.run("promote")
    assert champion(client) is None


def test_gates_that_were_marked_as_success_are_evaluated_before_anybody_is_asked(
    promotion: Promotion,
) -> None:
    promotion.run("plan")
    promotion.allow("bob", min_reward_gain=0.5)
    with pytest.raises(AirflowSkipException, match="reward over base"):
        promotion.run("gates")
    with pytest.raises(AirflowFailException, match="reward over base"):
        promotion.dag.get_task("approval").execute(promotion.context)
    assert promotion.asked == []


def test_no_task_takes_an_xcom(promotion: Promotion) -> None:
    """A person may write them."""
    for name in ("gates", "promote"):
        task = promotion.dag.get_task(name)
        assert (tuple(task.op_args), dict(task.op_kwargs)) == ((), {})
    assert set(promotion.dag.get_task("approval").template_fields) == {"subject", "body"}


def test_gates_are_evaluated_once_more_as_the_champion_moves(
    promotion: Promotion, client: MlflowClient
) -> None:
    promotion.approve()
    promotion.allow("bob", min_diversity=0.9)
    with pytest.raises(AirflowFailException, match=r"not promoted, .*: diversity kept"):
        promotion.run("promote")
    assert champion(client) is None


def test_an_answer_of_before_a_clear_counts_no_more(
    promotion: Promotion, client: MlflowClient
) -> None:
    """Another person clears the run, and marks the approval as success while it waits again."""
    promotion.approve()
    promotion.run("plan")
    with pytest.raises(InputError, match="is about another question"):
        promotion.run("promote")
    promotion.approve()
    promotion.ask()
    with pytest.raises(InputError, match="is about another question"):
        promotion.run("promote")
    assert champion(client) is None


def test_an_answer_is_to_the_question_that_was_put(promotion: Promotion) -> None:
    """Another candidate is slipped in while a person reads the form."""
    promotion.run("plan")
    kept = promotion.ask()
    promotion.outputs |= whole_chain(promotion.root, {"boig_ingest": []}, "seed=5", run="s")
    promotion.params = {name: promotion.outputs[name] for name in ("boigsd", "report")}
    promotion.run("plan")
    with pytest.raises(InputError, match="is about another question, candidate"):
        promotion.answer(kept, BOB)
    forgeries: tuple[dict[str, Any], ...] = ({}, {"asked": {}})
    for forged in forgeries:
        with pytest.raises(InputError, match="is about another"):
            promotion.answer(forged, BOB)
    assert not store.exists(f"{promotion.folder}/decision.json")


@pytest.mark.parametrize(
    "user", [ANN, None, {"id": "bob", "name": "ann"}, {"id": "x", "name": "x"}]
)
def test_who_answers_is_checked_again(promotion: Promotion, user: dict[str, str] | None) -> None:
    promotion.run("plan")
    kept = promotion.ask()
    with pytest.raises(PolicyError, match="does not count"):
        promotion.answer(kept, user)
    assert not store.exists(f"{promotion.folder}/decision.json")


def test_an_approver_who_was_taken_off_meanwhile_may_not_answer(
    promotion: Promotion, client: MlflowClient
) -> None:
    promotion.run("plan")
    kept = promotion.ask()
    promotion.allow("eve")
    with pytest.raises(PolicyError, match="answer of bob"):
        promotion.answer(kept, BOB)
    promotion.allow("bob")
    promotion.answer(kept, BOB)
    promotion.allow("eve")
    with pytest.raises(PolicyError, match="answer of bob"):
        promotion.run("promote")
    assert champion(client) is None


@pytest.mark.parametrize("name", ["boigsd", "report"])
def test_what_changed_after_the_question_was_put_is_not_promoted(
    promotion: Promotion, client: MlflowClient, name: str
) -> None:
    promotion.run("plan")
    kept = promotion.ask()
    uri = f"{promotion.outputs[name]}/manifest.json"
    before = store.read_bytes(uri)
    change(uri, meta={"other": 1})
    with pytest.raises(BoigError):
        promotion.answer(kept, BOB)
    store.write_bytes(uri, before)
    promotion.answer(kept, BOB)
    change(uri, meta={"other": 1})
    with pytest.raises(BoigError):
        promotion.run("promote")
    assert champion(client) is None


@pytest.mark.parametrize(
    "fields",
    [
        {"decision": "Reject"},
        {"candidate": "/models/other"},
        {"manifest": "0" * 64},
        {"report_manifest": "0" * 64},
        {"question": "0" * 32},
        {"by": "ann", "by_id": "ann"},
        {"by": "ann"},
    ],
)
def test_a_decision_about_something_else_moves_nothing(
    promotion: Promotion, client: MlflowClient, fields: dict[str, str]
) -> None:
    promotion.approve()
    change(f"{promotion.folder}/decision.json", **fields)
    with pytest.raises(BoigError):
        promotion.run("promote")
    assert champion(client) is None


def test_a_decision_is_carried_out_once(promotion: Promotion, client: MlflowClient) -> None:
    """Another person clears the task after a rollback."""
    client.create_registered_model(MODEL)
    old = str(client.create_model_version(MODEL, "boig:///models/0").version)
    promotion.approve()
    promotion.run("promote")
    client.set_registered_model_alias(MODEL, "previous", old)
    rollback("ann", "fewer clicks")
    client.set_model_version_tag(MODEL, old, "uri", promotion.outputs["boigsd"])
    with pytest.raises(InputError, match="was carried out before"):
        promotion.run("promote")
    assert champion(client) == old


def test_a_forged_event_names_no_candidate(promotion: Promotion, tmp_path: Path) -> None:
    promotion.params = {}
    forged = whole_chain(str(tmp_path / "drop"), run="forged")

    def event(**more: Any) -> Any:
        extra = {"outputs": forged, "store": str(tmp_path / "drop"), **more}
        return SimpleNamespace(extra=extra, timestamp=datetime.now(UTC))

    promotion.events = [event(from_rest_api=True)]
    with pytest.raises(InputError, match="was created by a person through Airflow's REST API"):
        promotion.run("plan")
    # One that a task announced, whose XComs somebody had written: BOIG_STORE alone counts.
    promotion.events = [event()]
    with pytest.raises(InputError, match="lies outside of the store"):
        promotion.run("plan")
    promotion.events = []
    with pytest.raises(InputError, match="is neither a param nor known from an asset event"):
        promotion.run("plan")


def test_gates_are_those_of_the_candidates_own_recipe(promotion: Promotion) -> None:
    strict = whole_chain(promotion.root, None, "promotion.min_reward_gain=0.5", run="s")
    promotion.params = {name: strict[name] for name in ("boigsd", "report")}
    assert not {"recipe", "overrides"} & set(promotion.dag.params)
    promotion.run("plan")
    with pytest.raises(AirflowSkipException, match="reward over base"):
        promotion.run("gates")
