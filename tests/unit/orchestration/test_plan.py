"""What goes into a DAG: an input that is optional is passed on where it is named, checked like any
other, and missed by nobody."""

from __future__ import annotations

import importlib
import json
import shutil
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from boig_core.errors import CorruptError, InputError
from boig_core.orchestration.planning.assets import (
    make_plan,
    stage_name,
    with_champion,
    write_summary,
)
from boig_core.orchestration.promotion import registry
from boig_core.orchestration.roots import follow_store
from boig_core.storage import commit
from boig_core.storage.manifest import Lineage, publish_folder


def published(root: Path, kind: str) -> str:
    uri, attempt = str(root / "models" / kind), str(root / "runs" / kind)
    (root / kind).mkdir(parents=True)
    (root / kind / "weights").write_text(kind)
    lineage = Lineage(inputs={}, recipe="r", code="c")
    publish_folder(
        root / kind, uri, kind=kind, lineage=lineage, commit=f"{attempt}/{commit.COMMIT}"
    )
    commit.commit(attempt, {kind: uri}, {})
    return uri


def test_an_optional_input_is_passed_on_where_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BOIG_STORE", str(tmp_path))
    boigllm, predictor = published(tmp_path, "boigllm"), published(tmp_path, "predictor")

    def outputs(event: dict[str, str], **params: str) -> Any:
        context = {"params": params, "ti": SimpleNamespace(dag_id="d", run_id="r")}
        needs, optional = {"boigllm": "boigllm"}, {"predictor": "predictor"}
        return make_plan(context, needs, {"outputs": event}, "tiny", optional=optional)["outputs"]

    assert outputs({"boigllm": boigllm}) == {"boigllm": boigllm}
    both = {"boigllm": boigllm, "predictor": predictor}
    assert outputs(both) == both
    assert outputs({"boigllm": boigllm}, predictor=predictor) == both
    with pytest.raises(CorruptError, match="is a boigllm, not a predictor"):
        outputs(both, predictor=boigllm)


def test_a_base_that_cannot_be_trained_is_told_before_anything_is_paid_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BOIG_STORE", str(tmp_path / "store"))
    adapter = tmp_path / "adapter" / "adapter_config.json"
    adapter.parent.mkdir()
    adapter.write_text('{"base_model_name_or_path": "meta-llama/L"}')

    def plan(base: Path) -> object:
        params = {"overrides": [f"llm.base={base}"]}
        return make_plan(
            {"params": params, "ti": SimpleNamespace(dag_id="d", run_id="r")}, {}, {}, "tiny"
        )

    with pytest.raises(InputError, match=r"holds an adapter \(LoRA\) of the model meta-llama/L"):
        plan(adapter.parent)
    assert plan(tmp_path / "on" / "the" / "ray" / "nodes" / "alone")


def test_what_an_event_names_is_taken_from_the_copy_of_its_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, copy = tmp_path / "first", tmp_path / "copy"
    boigllm = published(first, "boigllm")
    (first / "runs" / "r").mkdir()
    (first / "runs" / "r" / "recipe.json").write_text("{}")
    extra = {
        "store": str(first),
        "recipe": f"{first}/runs/r/recipe.json",
        "outputs": {"boigllm": boigllm, "posts": "https://x.y/posts.jsonl"},
        "root": "boig_ingest/r",
    }
    monkeypatch.delenv("BOIG_STORE", raising=False)
    assert follow_store(extra) == extra
    monkeypatch.setenv("BOIG_STORE", str(copy))
    assert follow_store(extra) == extra, "the copy does not hold it yet"
    shutil.copytree(first, copy)
    assert follow_store(extra) == {
        **extra,
        "recipe": f"{copy}/runs/r/recipe.json",
        "outputs": {**extra["outputs"], "boigllm": f"{copy}/models/boigllm"},
    }
    assert follow_store({}) == {}


def test_a_champion_that_cannot_be_read_stops_a_run_before_it_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs = {
        "boigllm": "s3://b/models/boigllm/v",
        "champion": "s3://b/models/boigsd/of-another-event",
    }
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert with_champion(outputs) == {"boigllm": outputs["boigllm"]}
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    monkeypatch.setattr(registry, "champion", lambda: f"{tmp_path}/models/boigsd/lost")
    with pytest.raises(InputError, match=r"the registry's champion: cannot be read .*lost"):
        with_champion(outputs)
    monkeypatch.setattr(registry, "champion", lambda: None)
    assert "champion" not in with_champion(outputs)


def test_a_wrong_price_costs_a_run_its_summary_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = {"store": str(tmp_path), "recipe": f"{tmp_path}/runs/boig_sd/r/recipe.json"}
    monkeypatch.setenv("BOIG_GPU_HOUR_PRICE", "much")
    assert write_summary(plan).startswith("no summary: BOIG_GPU_HOUR_PRICE=much")
    monkeypatch.delenv("BOIG_GPU_HOUR_PRICE")
    assert write_summary(plan) == "in all 0 s · at most 0.00 GPU-hours"
    assert json.loads((tmp_path / "runs/boig_sd/r/summary.json").read_text())["run"] == "boig_sd/r"


def test_the_stage_of_a_result_is_named_whether_its_task_was_mapped_or_not() -> None:
    assert stage_name({"attempt": "s3://b/runs/boig_sd/2026/ddpo/attempt-2"}) == "ddpo"
    assert stage_name({"attempt": "s3://b/runs/boig_experiments/2026/ddpo/11/attempt-1"}) == "ddpo"


@pytest.mark.parametrize("name", ["boig_llm", "boig_sd", "boig_promote", "boig_experiments"])
@pytest.mark.parametrize("triggers", [True, False])
def test_no_dag_takes_an_event_that_a_person_created(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, triggers: bool
) -> None:
    monkeypatch.setenv("BOIG_STORE", str(tmp_path))
    dag = importlib.import_module(f"dags.{name}").dag
    plan = dag.get_task("plan")
    [asset] = plan.inlets
    genuine, forged = (
        SimpleNamespace(extra={"outputs": {}} | more, timestamp=datetime.now(UTC))
        for more in ({}, {"from_rest_api": True})
    )
    newest = SimpleNamespace(ascending=lambda _: SimpleNamespace(limit=lambda _: [forged]))
    context = {
        "params": {},
        "ti": SimpleNamespace(dag_id=name, run_id="r"),
        # One run may stand for several events: one that is forged is enough.
        "triggering_asset_events": {asset: [forged, genuine]} if triggers else {},
        "inlet_events": {asset: newest},
    }
    with pytest.raises(InputError, match="was created by a person through Airflow's REST API"):
        plan.python_callable(**context)
