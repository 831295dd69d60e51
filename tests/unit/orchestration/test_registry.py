"""Rollback on a real MLflow registry: champion and previous change places, with a record; without a previous it says so."""

from __future__ import annotations

import pytest
from mlflow import MlflowClient

from boig_core.errors import InputError
from boig_core.orchestration.registry import MODEL, promoted, rollback


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}"


@pytest.fixture
def client(server: str, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    return MlflowClient(server, server)


def test_rollback_swaps_records_and_is_undone_by_another(client: MlflowClient) -> None:
    with pytest.raises(InputError, match="no previous model"):
        rollback("ada", "worse")
    assert promoted() == []
    client.create_registered_model(MODEL)
    tags = [{"uri": f"/store/models/{n}", "report": f"/store/reports/{n}"} for n in range(3)]
    versions = [str(client.create_model_version(MODEL, f"boig:///models/{n}", tags=tags[n]).version) for n in range(3)]
    client.set_registered_model_alias(MODEL, "champion", versions[1])
    with pytest.raises(InputError, match="no previous model"):
        rollback("ada", "worse")
    client.set_registered_model_alias(MODEL, "previous", versions[0])
    with pytest.raises(InputError, match="--why"):
        rollback("ada", " ")
    assert rollback("ada", "fewer clicks") == {"model": MODEL, "champion": versions[0], "previous": versions[1]}
    champion = client.get_model_version_by_alias(MODEL, "champion")
    assert str(champion.version) == versions[0]
    assert str(client.get_model_version_by_alias(MODEL, "previous").version) == versions[1]
    assert (champion.tags["rollback_by"], champion.tags["rollback_why"]) == ("ada", "fewer clicks")
    assert champion.tags["rollback_of"] == versions[1]
    assert champion.tags["rollback_at"].endswith("+00:00")
    assert rollback("ada", "a false alarm")["champion"] == versions[1]
    assert promoted() == sorted([*tags[0].values(), *tags[1].values()]), "the third was never promoted"


def test_without_a_server_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(InputError, match="MLFLOW_TRACKING_URI"):
        rollback("ada", "worse")
