"""The registry's aliases on a real MLflow: champion and previous move with a record, and a move
that was cut is finished by the next."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from boig_core.errors import CorruptError, InfrastructureError, InputError
from boig_core.orchestration.promotion.registry import (
    MODEL,
    Move,
    aliases,
    champion,
    last_move,
    move,
    named_models,
    promoted,
    registry,
    rollback,
    version_tags,
)
from boig_core.storage import commit, evidence, manifest, store
from tests.unit.storage.keys import make_keys, use_keys
from tests.unit.storage.small_store import promote


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
    assert named_models() == {}
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
    assert named_models() == {"/models/1": "champion", "/models/0": "previous"}
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


def of_store(root: str) -> dict[str, Any]:
    """What gates say of a model in a store."""
    task = f"{root}/runs/boig_sd/run/ddpo"
    folder = Path(root).parent / "weights"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "unet.bin").write_bytes(b"weights")
    uri = f"{root}/models/boigsd/version"
    lineage = manifest.Lineage(inputs={}, recipe="r", code="c")
    made = manifest.publish_folder(
        folder, uri, kind="sd", lineage=lineage, commit=f"{task}/attempt-1/commit.json"
    )
    commit.commit(f"{task}/attempt-1", {"boigsd": uri}, {})
    return {
        "candidate": uri,
        "manifest": made.digest(),
        "report": f"{root}/reports/version",
        "recipe": f"{root}/runs/boig_promote/run/recipe.json",
        "root": "boig_ingest/run",
        "decision": f"{root}/runs/boig_promote/run/decision.json",
        "gates": [],
        "store": root,
    }


@pytest.mark.parametrize("from_before", [False, True], ids=["places", "tags with locations"])
def test_under_a_copied_store_the_champion_is_the_copys(
    client: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, from_before: bool
) -> None:
    first, copy, other = (str(tmp_path / name / "store") for name in ("first", "copy", "other"))
    gates = of_store(first)
    tags = version_tags(gates, first)
    assert tags["store"] == first
    assert (tags["uri"], tags["report"]) == ("models/boigsd/version", "reports/version")
    if from_before:
        tags = {"uri": gates["candidate"], "report": gates["report"], "manifest": tags["manifest"]}
    client.create_registered_model(MODEL)
    version = str(client.create_model_version(MODEL, "boig:///m", tags=tags).version)
    move(client, Move("a", "promote", version, None))
    monkeypatch.delenv("BOIG_STORE", raising=False)
    assert champion() == f"{first}/models/boigsd/version"
    monkeypatch.setenv("BOIG_STORE", copy)
    assert champion() == f"{first}/models/boigsd/version", "the copy does not hold it"
    shutil.copytree(first, copy)
    assert champion() == f"{copy}/models/boigsd/version"
    assert promoted() == [f"{copy}/models/boigsd/version", f"{copy}/reports/version"]
    shutil.rmtree(first)
    assert champion() == f"{copy}/models/boigsd/version"
    # Another store may have another model in the same place.
    of_store(other)
    monkeypatch.setenv("BOIG_STORE", other)
    uri = f"{other}/models/boigsd/version"
    tree = json.loads(Path(uri, "manifest.json").read_text())
    Path(uri, "manifest.json").write_text(json.dumps({**tree, "meta": {"another": 1}}))
    assert champion() == f"{first}/models/boigsd/version"


def test_without_a_server_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(InputError, match="MLFLOW_TRACKING_URI"):
        rollback("ada", "worse")


def test_where_signatures_are_asked_for_an_unsigned_model_is_neither_opened_nor_rolled_back_to(
    client: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = str(tmp_path / "store")
    decision, model = promote(root, tmp_path)
    gates = {
        **of_store(str(tmp_path / "other" / "store")),
        "candidate": model,
        "manifest": manifest.read_manifest(model).digest(),
        "decision": decision,
    }
    private, public = make_keys(tmp_path / "keys")
    client.create_registered_model(MODEL)
    created = [
        str(client.create_model_version(MODEL, "boig:///m", tags=tags).version)
        for tags in (version_tags(gates, root), {"uri": model}, version_tags(gates, root))
    ]
    move(client, Move("a", "promote", created[0], None))
    move(client, Move("b", "promote", created[1], created[0]))
    use_keys(monkeypatch, private, None)
    assert champion() == model, "without a key to verify with, nothing is asked for"
    use_keys(monkeypatch, private, public)
    with pytest.raises(CorruptError, match="has no signed decision"):
        champion()
    with pytest.raises(CorruptError, match="is not signed"):
        rollback("ada", "worse")
    assert aliases(client) == {"champion": created[1], "previous": created[0]}
    evidence.keep(root, decision)
    assert rollback("ada", "worse")["champion"] == created[0]
    assert champion() == model
    with pytest.raises(CorruptError, match="has no signed decision"):
        rollback("ada", "back to the unsigned one")
    store.write_bytes(decision, store.read_bytes(decision) + b" ")
    with pytest.raises(CorruptError, match="is not what was signed"):
        champion()
