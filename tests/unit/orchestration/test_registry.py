"""The registry's aliases on a real MLflow: champion and previous move with a record, and a move
that was cut is finished by the next."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from boig_core.errors import InfrastructureError, InputError
from boig_core.orchestration.promotion.registry import (
    MODEL,
    Move,
    aliases,
    champion,
    last_move,
    move,
    promoted,
    registry,
    rollback,
)


@pytest.fixture
def versions(client: MlflowClient) -> list[str]:
    """Three versions; the second is champion, the first previous."""
    client.create_registered_model(MODEL)
    tags = [{"uri": f"/models/{n}", "report": f"/reports/{n}"} for n in range(3)]
    created = [
        str(client.create_model_version(MODEL, f"boig:///models/{n}", tags=tags[n]).version)
        for n in range(3)
    ]
    move(client, Move("a", "promote", created[0], None))
    move(client, Move("b", "promote", created[1], created[0]))
    return created


Cut = Callable[[int], None]


@pytest.fixture
def cut(monkeypatch: pytest.MonkeyPatch) -> Cut:
    """Lets the next calls that change an alias through, and the one after them fail; 99 mends it
    again."""
    original, left = MlflowClient.set_registered_model_alias, [99]

    def call(self: MlflowClient, name: str, alias: str, version: str) -> None:
        if left[0] == 0:
            raise MlflowException("the server went away")
        left[0] -= 1
        original(self, name, alias, version)

    monkeypatch.setattr(MlflowClient, "set_registered_model_alias", call)

    def after(calls: int) -> None:
        left[0] = calls

    return after


def test_rollback_swaps_records_and_is_undone_by_another(
    client: MlflowClient, versions: list[str]
) -> None:
    with pytest.raises(InputError, match="why: is empty"):
        rollback("ada", " ")
    assert champion() == "/models/1"
    assert rollback("ada", "fewer clicks") == {
        "model": MODEL,
        "champion": versions[0],
        "previous": versions[1],
    }
    result = client.get_model_version_by_alias(MODEL, "champion")
    assert str(result.version) == versions[0]
    assert champion() == "/models/0"
    assert (
        result.tags["rollback_by"],
        result.tags["rollback_why"],
        result.tags["rollback_of"],
    ) == (
        "ada",
        "fewer clicks",
        versions[1],
    )
    assert result.tags["rollback_at"].endswith("+00:00")
    assert rollback("ada", "a false alarm")["champion"] == versions[1]


def test_without_a_previous_model_it_says_so(client: MlflowClient) -> None:
    assert champion() is None
    with pytest.raises(InputError, match="no previous model"):
        rollback("ada", "worse")
    assert promoted() == []
    client.create_registered_model(MODEL)
    version = str(client.create_model_version(MODEL, "boig:///models/0").version)
    move(client, Move("a", "promote", version, None))
    with pytest.raises(InputError, match="no previous model"):
        rollback("ada", "worse")
    with pytest.raises(InputError, match="has no tag uri"):
        champion()


@pytest.mark.parametrize("calls", [0, 1])
def test_a_rollback_that_was_cut_is_finished_by_the_next_and_not_undone(
    versions: list[str], cut: Cut, calls: int
) -> None:
    cut(calls)
    with pytest.raises(InfrastructureError, match="went away"):
        rollback("ada", "fewer clicks")
    cut(99)
    assert rollback("ada", "fewer clicks") == {
        "model": MODEL,
        "champion": versions[0],
        "previous": versions[1],
    }


def test_a_retry_of_the_same_decision_moves_nothing(versions: list[str]) -> None:
    first = rollback("ada", "fewer clicks", "boig_rollback/run-1")
    assert rollback("ada", "fewer clicks", "boig_rollback/run-1") == first
    assert rollback("ada", "a false alarm", "boig_rollback/run-2")["champion"] == first["previous"]


@pytest.mark.parametrize("calls", [0, 1])
def test_a_rollback_after_a_promotion_that_was_cut_leads_back_to_the_model_before(
    client: MlflowClient, versions: list[str], cut: Cut, calls: int
) -> None:
    cut(calls)
    with registry() as inner, pytest.raises(MlflowException):
        move(inner, Move("c", "promote", versions[2], versions[1]))
    cut(99)
    assert rollback("ada", "fewer clicks") == {
        "model": MODEL,
        "champion": versions[1],
        "previous": versions[2],
    }
    assert aliases(client) == {"champion": versions[1], "previous": versions[2]}
    assert last_move(client)[1] is False


def test_promoted_are_the_models_and_reports_that_aliases_name_and_that_of_a_promotion_that_was_cut(
    client: MlflowClient, versions: list[str], cut: Cut
) -> None:
    assert promoted() == ["/models/0", "/models/1", "/reports/0", "/reports/1"]
    cut(0)
    with registry() as inner, pytest.raises(MlflowException):
        move(inner, Move("c", "promote", versions[2], versions[1]))
    cut(99)
    assert promoted() == [f"/{kind}/{n}" for kind in ("models", "reports") for n in range(3)]
    assert aliases(client) == {"champion": versions[1], "previous": versions[0]}, (
        "who only looks moves nothing"
    )
    cut(1)  # between the two aliases, when none names the former champion
    with registry() as inner, pytest.raises(MlflowException):
        move(inner, Move("c", "promote", versions[2], versions[1]))
    cut(99)
    assert promoted() == [f"/{kind}/{n}" for kind in ("models", "reports") for n in range(3)]


def test_without_a_server_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(InputError, match="MLFLOW_TRACKING_URI"):
        rollback("ada", "worse")
