"""Each DAG runs whole, chained by its asset's newest event, against a Jobs API whose stages are
stand-ins."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from boig_core.config import load_recipe
from boig_core.storage import commit, manifest, signing, store
from boig_core.storage.check import check_store
from boig_core.storage.copying import copy_store
from boig_core.storage.job import Job, Stage, read_job, write_job
from tests.dags.running import Answer, events, load, states, xcoms
from tests.unit.storage.keys import make_keys, use_keys

pytestmark = pytest.mark.usefixtures("airflow_db")


def _policy(folder: Path) -> Path:
    path = folder / "policy.yaml"
    path.write_text(
        f"posts: [{folder / 'posts'}, /nowhere]\noutputs: [/nowhere]\n"
        "approvers: [{id: approver, name: approver}]\n"
    )
    return path


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, ray_stub: Any) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("boig")
    (folder / "posts").mkdir()
    (folder / "posts" / "posts.jsonl").write_text("{}\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BOIG_STORE", str(folder / "store"))
        patch.setenv("BOIG_POLICY", str(_policy(folder)))
        patch.setenv("RAY_API_ADDRESS", ray_stub.address)
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")
        use_keys(patch, *make_keys(folder / "keys"))
        yield folder


@pytest.fixture(scope="module")
def ingest(home: Path, ray_stub: Any) -> Any:
    return load("boig_ingest").test(
        run_conf={"posts": str(home / "posts"), "overrides": ["seed=7", "promotion.max_days=1"]}
    )


@pytest.fixture(scope="module")
def llm(ingest: Any) -> Any:
    return load("boig_llm").test()


@pytest.fixture(scope="module")
def sd(llm: Any) -> Any:
    return load("boig_sd").test()


def test_ingest_commits_and_announces(ingest: Any, home: Path, ray_stub: Any) -> None:
    assert set(states(ingest).values()) == {"success"}
    results = xcoms(ingest)
    dataset = results["perceive"]["outputs"]["dataset"]
    assert results["perceive"]["metrics"]["rows"] == 3.0
    assert commit.read_commit(results["perceive"]["attempt"])["outputs"] == {"dataset": dataset}
    recipe = json.loads(store.read_bytes(results["plan"]["recipe"]))
    assert recipe["seed"] == 7
    assert recipe["name"] == "tiny"
    [event] = events("boig/dataset")
    assert event["outputs"] == {"posts": str(home / "posts"), "dataset": dataset}
    assert event["manifest"] == f"{dataset}/manifest.json"
    assert event["card"] == f"{dataset}/card.html"
    assert store.exists(event["card"])
    assert event["recipe"] == results["plan"]["recipe"]
    assert event["store"] == str(home / "store")
    assert event["root"] == f"boig_ingest/{ingest.run_id}"
    assert set(event["seconds"]) == {"ingest", "perceive"}
    names = list(ray_stub.entrypoints)
    assert all(
        len(name) <= 100 and name.startswith("boig-") and name == name.lower() for name in names
    )
    assert "perceive" in names[1]


def test_what_ingest_knew_reaches_boig_llm(llm: Any, ingest: Any) -> None:
    assert set(states(llm).values()) == {"success"}
    results = xcoms(llm)
    assert results["plan"]["outputs"]["dataset"] == xcoms(ingest)["perceive"]["outputs"]["dataset"]
    assert json.loads(store.read_bytes(results["plan"]["recipe"]))["seed"] == 7
    assert results["plan"]["root"] == f"boig_ingest/{ingest.run_id}"
    inputs = inputs_of(results["calibrate"])
    assert set(inputs) == {"dataset", "boigllm", "predictor"}
    assert all(
        inputs[name] == results["finetune_llm"]["outputs"][name]
        for name in ("boigllm", "predictor")
    )
    assert "card" not in events("boig/boigllm")[-1]
    outputs = {"dataset", "boigllm", "no_kpi", "predictor", "judge", "description", "calibration"}
    assert set(events("boig/boigllm")[-1]["outputs"]) == outputs


def test_boig_sd_gives_the_report_all_it_needs(sd: Any, llm: Any) -> None:
    assert set(states(sd).values()) == {"success"}
    results = xcoms(sd)
    inputs = inputs_of(results["report"])
    assert set(inputs) == {"dataset", "description", "calibration", "generation", "runs"}
    for stage in ("ddpo", "evaluate_sd"):
        job_inputs = inputs_of(results[stage])
        assert job_inputs["predictor"] == xcoms(llm)["finetune_llm"]["outputs"]["predictor"]
        # What trains and chooses never gets the judge.
        assert ("judge" in job_inputs) == (stage == "evaluate_sd")
    summary = json.loads(
        store.read_bytes(f"{results['plan']['recipe'].rsplit('/', 1)[0]}/summary.json")
    )
    assert set(summary["stages"]) == {"finetune_sd", "ddpo", "evaluate_sd", "report"}
    assert summary["seconds"] == pytest.approx(
        sum(results[stage]["metrics"]["seconds"] for stage in summary["stages"]), abs=0.2
    )
    assert results["announce"]["used"].startswith(
        f"in all {summary['seconds']:.0f} s · at most 0.00 GPU-hours"
    )
    seconds = json.loads(store.read_bytes(inputs["runs"]))
    assert list(seconds) == [
        "ingest",
        "perceive",
        "finetune_llm",
        "evaluate_llm",
        "calibrate",
        "finetune_sd",
        "ddpo",
        "evaluate_sd",
    ]


def inputs_of(result: dict[str, Any]) -> dict[str, str]:
    return read_job(f"{result['attempt']}/job.json").inputs


def champion(home: Path) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(f"sqlite:///{home / 'mlflow.db'}").get_model_version_by_alias(
        "boigsd", "champion"
    )


@pytest.fixture(scope="module")
def promoted(sd: Any) -> tuple[Any, Answer]:
    answer = Answer("Approve")
    with answer:
        return load("boig_promote").test(), answer


@pytest.fixture(scope="module")
def second(promoted: Any) -> Any:
    """Another model, trained when the first is champion."""
    return load("boig_sd").test()


def test_a_person_promotes(sd: Any, promoted: tuple[Any, Answer], home: Path) -> None:
    run, answer = promoted
    assert set(states(run).values()) == {"success"}
    model, report = xcoms(sd)["ddpo"]["outputs"]["boigsd"], xcoms(sd)["report"]["outputs"]["report"]
    assert "| reward over base | 0.2 | >\u00a00 | yes |" in answer.body
    assert (
        "| judge over champion | – | >\u00a00 | – | not applicable: this is the first model |"
        in answer.body
    )
    assert f"(/boig/reports/{report.rsplit('/', 1)[1]}/report.html)" in answer.body
    assert answer.refused == 403, "who triggered the chain, though an admin, may not answer"
    result = xcoms(run)["promote"]
    assert result["champion"] == result["version"] == "1"
    assert result["approved_by"] == "approver"
    version = champion(home)
    assert f"{version.tags['store']}/{version.tags['uri']}" == model
    assert version.tags["store"] == str(home / "store")
    assert version.tags["manifest"] == manifest.read_manifest(model).digest()
    assert (version.tags["approved_by"], version.tags["approved_why"]) == (
        result["approved_by"],
        "it sells",
    )
    assert version.tags["approved_at"].endswith("+00:00")


def test_the_decision_is_kept_with_who_when_why_and_the_way_back_to_the_posts(
    sd: Any, ingest: Any, promoted: tuple[Any, Answer]
) -> None:
    gates = xcoms(promoted[0])["gates"]
    kept = json.loads(store.read_bytes(gates["decision"]))
    assert (kept["decision"], kept["by"], kept["why"]) == (
        "Approve",
        xcoms(promoted[0])["promote"]["approved_by"],
        "it sells",
    )
    assert kept["at"].endswith("+00:00")
    assert kept["root"] == f"boig_ingest/{ingest.run_id}"
    candidate = store.join(gates["store"], kept["candidate"])
    assert kept["manifest"] == manifest.read_manifest(candidate).digest()
    assert kept["gates"] == gates["gates"]
    signed = signing.verify(gates["decision"].rsplit("/", 1)[0])
    dataset = xcoms(ingest)["perceive"]["outputs"]["dataset"].removeprefix(gates["store"] + "/")
    assert {f"{kept['candidate']}/manifest.json", f"{dataset}/manifest.json"} <= set(signed)
    assert list(kept["triggered_by"]) == ["dag_test"]


def test_the_next_model_is_evaluated_beside_the_champion(second: Any, sd: Any) -> None:
    assert set(states(second).values()) == {"success"}
    inputs = [inputs_of(xcoms(run)["evaluate_sd"]) for run in (sd, second)]
    assert "champion" not in inputs[0]
    assert inputs[1]["champion"] == xcoms(sd)["ddpo"]["outputs"]["boigsd"]


def test_maintenance_lists_and_then_removes_what_nothing_refers_to(sd: Any, home: Path) -> None:
    root = home / "store"
    died = Job(
        stage=Stage.DDPO,
        recipe=load_recipe("tiny"),
        inputs={},
        store=str(root),
        root="boig_ingest/dead",
        task=str(root / "runs" / "boig_sd" / "dead" / "ddpo"),
        attempt=1,
    )
    told = Path(write_job(died))
    orphan = Path(died.output("models/boigsd")) / "unet.bin"
    own = root / "models" / "boigsd" / "downloaded" / "unet.bin"
    for file in (orphan, own):
        file.parent.mkdir(parents=True)
        file.write_bytes(b"half")
    for file in (orphan, own, told):
        os.utime(file, (0, 0))
    size = told.stat().st_size + 4
    listed = load("boig_maintenance").test()
    assert xcoms(listed)["clean"] == {"files": 2, "bytes": size, "removed": False, "foreign": 1}
    assert orphan.exists()
    load("boig_maintenance").test(run_conf={"apply": True})
    assert not orphan.exists()
    assert [file.read_bytes() for file in root.glob(".trash/*/models/boigsd/*/unet.bin")] == [
        b"half"
    ]
    assert own.exists(), "a person's own"
    assert manifest.verify(xcoms(sd)["ddpo"]["outputs"]["boigsd"])


def test_a_person_rejects(second: Any, home: Path) -> None:
    answer = Answer("Reject")
    with answer:
        run = load("boig_promote").test()
    assert states(run)["promote"] == "skipped"
    assert "promote" not in xcoms(run)
    assert "| judge over champion | 0.05 | >\u00a00 | yes |" in answer.body
    kept = json.loads(store.read_bytes(xcoms(run)["gates"]["decision"]))
    assert (kept["decision"], kept["champion"]) == ("Reject", champion(home).tags["uri"])
    assert f"{home}/store/{kept['candidate']}" == xcoms(second)["ddpo"]["outputs"]["boigsd"]


def test_a_model_that_was_evaluated_beside_another_champion_asks_nobody(
    second: Any, sd: Any, home: Path
) -> None:
    with Answer("Approve"):
        run = load("boig_promote").test()
    assert (
        f"{home}/store/{champion(home).tags['uri']}"
        == xcoms(second)["ddpo"]["outputs"]["boigsd"]
        == xcoms(run)["gates"]["candidate"]
    )
    old = {
        "boigsd": xcoms(sd)["ddpo"]["outputs"]["boigsd"],
        "report": xcoms(sd)["report"]["outputs"]["report"],
    }
    again = load("boig_promote").test(run_conf=old)
    assert states(again)["approval"] == "skipped"
    assert [gate["name"] for gate in xcoms(again)["gates"]["gates"] if not gate["passed"]] == [
        "judge over champion"
    ]


def test_a_rollback_says_who_and_why(second: Any, sd: Any, home: Path) -> None:
    run = load("boig_rollback").test(run_conf={"why": "fewer clicks"})
    assert states(run) == {"rollback": "success"}
    version = champion(home)
    assert f"{home}/store/{version.tags['uri']}" == xcoms(sd)["ddpo"]["outputs"]["boigsd"]
    assert version.tags["rollback_why"] == "fewer clicks"
    assert version.tags["rollback_by"] == run.triggering_user_name


def test_a_report_of_another_model_is_refused(
    second: Any, sd: Any, caplog: Any, capfd: Any
) -> None:
    mixed = {
        "boigsd": xcoms(second)["ddpo"]["outputs"]["boigsd"],
        "report": xcoms(sd)["report"]["outputs"]["report"],
    }
    run = load("boig_promote").test(run_conf=mixed)
    assert states(run)["plan"] == "failed"
    captured = capfd.readouterr()
    assert "give a model and its own report" in captured.out + captured.err + caplog.text


def test_a_failed_gate_asks_nobody(
    sd: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The policy asks for more than the candidate's own recipe."""
    (tmp_path / "policy.yaml").write_text("gates: {min_reward_gain: 0.5}")
    monkeypatch.setenv("BOIG_POLICY", str(tmp_path / "policy.yaml"))
    run = load("boig_promote").test()
    assert states(run) == {
        "plan": "success",
        "gates": "skipped",
        "approval": "skipped",
        "promote": "skipped",
    }
    assert xcoms(run)["gates"]["passed"] is False


def test_a_version_is_built_on_or_tried_again(ingest: Any, home: Path, ray_stub: Any) -> None:
    dataset = xcoms(ingest)["ingest"]["outputs"]["dataset"]
    for conf in (
        {"retry": dataset},
        {"previous": dataset, "posts": str(home / "posts" / "*.jsonl")},
    ):
        run = load("boig_ingest").test(run_conf=conf)
        assert set(states(run).values()) == {"success"}
        assert inputs_of(xcoms(run)["ingest"]) == conf


@pytest.mark.parametrize("name", ["boig_ingest", "boig_sd", "boig_promote"])
def test_a_dry_run_checks_everything_and_starts_nothing(
    sd: Any, home: Path, ray_stub: Any, caplog: Any, capfd: Any, name: str
) -> None:
    jobs = len(ray_stub.entrypoints)
    conf: dict[str, Any] = {"dry_run": True}
    if name != "boig_promote":
        conf["overrides"] = ["resources.gpus=1"]
    run = load(name).test(
        run_conf={**conf, "posts": str(home / "posts")} if name == "boig_ingest" else conf
    )
    result = states(run)
    assert (result.pop("plan"), set(result.values())) == ("success", {"skipped"})
    assert len(ray_stub.entrypoints) == jobs
    captured = capfd.readouterr()
    answers = captured.out + captured.err + caplog.text
    assert "dry run: all was checked, nothing is started" in answers
    if name == "boig_sd":
        assert "stage ddpo: 1 of 0.5 CPUs and 1 GPUs · " in answers
        assert (
            "stage ddpo would wait for room: 1 nodes with 2 CPUs and 0 GPUs do not hold" in answers
        )


def test_a_dry_run_says_what_a_stage_would_refuse(
    sd: Any, ray_stub: Any, caplog: Any, capfd: Any
) -> None:
    run = load("boig_sd").test(run_conf={"dry_run": True, "overrides": ["reward.min_auc=0.7"]})
    assert states(run)["plan"] == "failed"
    captured = capfd.readouterr()
    assert (
        "its AUC must lie above 0.7 (reward.min_auc), and is [0.6, 0.8]"
        in captured.out + captured.err + caplog.text
    )


def test_in_a_copied_store_the_chain_goes_on(
    second: Any, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, copy = str(home / "store"), str(home / "copy")
    copy_store(before, copy, print)
    assert check_store(copy, print).faults == []
    former = champion(home).tags["uri"]
    monkeypatch.setenv("BOIG_STORE", copy)
    (home / "store").rename(home / "gone")
    try:
        sd = load("boig_sd").test()
        assert set(states(sd).values()) == {"success"}
        inputs = inputs_of(xcoms(sd)["evaluate_sd"])
        assert inputs["champion"] == f"{copy}/{former}"
        assert all(uri.startswith(f"{copy}/") for uri in inputs.values())
        with Answer("Approve"):
            run = load("boig_promote").test()
        assert set(states(run).values()) == {"success"}
        assert champion(home).tags["store"] == copy
        assert champion(home).tags["uri"] != former
        assert load("boig_rollback").test(run_conf={"why": "worse"}).state == "success"
        assert champion(home).tags["uri"] == former
    finally:
        (home / "gone").rename(home / "store")
