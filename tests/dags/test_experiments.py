"""`boig_experiments` whole: variants side by side, what they share paid once, one that fails, and
jobs of mapped tasks that are stopped."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from boig_core.storage import runs, store
from boig_core.storage.job import read_job

pytestmark = pytest.mark.usefixtures("airflow_db")

VARIANTS = [
    {"name": "plain", "overrides": []},
    {"name": "kl", "overrides": ["ddpo.kl=0.1"]},
    {"name": "kl-again", "overrides": ["ddpo.kl=0.1", "seed=5"]},
    {"name": "dsg", "overrides": ["reward.weights={dsg: 1}"]},
    {"name": "longer", "overrides": ["llm.steps=77"]},
    {"name": "longer-dsg", "overrides": ["llm.steps=77", "reward.weights={dsg: 1}"]},
]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, ray_stub: Any) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("boig")
    (folder / "posts.jsonl").write_text("{}\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BOIG_STORE", str(folder / "store"))
        patch.setenv("RAY_API_ADDRESS", ray_stub.address)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        yield folder


def load(name: str) -> Any:
    import importlib

    return importlib.reload(importlib.import_module(f"dags.{name}")).dag


@pytest.fixture(scope="module")
def models(home: Path) -> None:
    """A dataset and a BoigLLM."""
    load("boig_ingest").test(run_conf={"posts": str(home / "posts.jsonl")})
    load("boig_llm").test()


def experiment(ray_stub: Any, refuse: str = "", variants: Any = VARIANTS) -> Any:
    ray_stub.refuse |= {refuse}
    try:
        return load("boig_experiments").test(run_conf={"variants": variants})
    finally:
        ray_stub.refuse.clear()


@pytest.fixture(scope="module")
def whole(models: None, ray_stub: Any) -> Any:
    return experiment(ray_stub)


@pytest.fixture(scope="module")
def broken(whole: Any, ray_stub: Any) -> Any:
    """The same again; the first variant's alignment fails."""
    return experiment(ray_stub, "ddpo/0")


def states(run: Any) -> dict[str, Any]:
    result = {(ti.task_id, ti.map_index): str(ti.state) for ti in run.get_task_instances()}
    return {
        f"{task}/{index}" if index >= 0 else task: state for (task, index), state in result.items()
    }


def xcom(run: Any, task: str, key: str = "return_value", index: int = -1) -> Any:
    from airflow.models.xcom import XComModel
    from airflow.utils.session import create_session

    with create_session() as session:
        row = (
            session.query(XComModel)
            .filter_by(dag_id=run.dag_id, run_id=run.run_id, task_id=task, key=key, map_index=index)
            .one()
        )
        return XComModel.deserialize_value(row)


def job(attempt: str) -> dict[str, Any]:
    return read_job(f"{attempt}/job.json").model_dump(mode="json")


def test_every_variant_is_aligned_by_its_own_recipe_and_evaluated_by_the_shared_one(
    whole: Any, home: Path
) -> None:
    assert set(states(whole).values()) == {"success"}
    plan = xcom(whole, "plan")
    shared = json.loads(store.read_bytes(plan["recipe"]))
    for index, variant in enumerate(VARIANTS):
        aligned, evaluated = (
            xcom(whole, "ddpo", index=index),
            xcom(whole, "evaluate_sd", index=index),
        )
        assert (
            aligned["attempt"]
            == f"{home}/store/runs/boig_experiments/{runs_folder(whole)}/ddpo/{index}/attempt-1"
        )
        recipe = job(aligned["attempt"])["recipe"]
        assert recipe["ddpo"]["kl"] == (
            0.1 if variant["name"].startswith("kl") else shared["ddpo"]["kl"]
        )
        assert recipe["seed"] == (5 if variant["name"] == "kl-again" else shared["seed"])
        judged = job(evaluated["attempt"])
        assert judged["recipe"] == shared
        assert judged["inputs"]["boigsd"] == aligned["outputs"]["boigsd"]
        assert judged["inputs"]["judge"] == plan["outputs"]["judge"]
        assert "judge" not in job(aligned["attempt"])["inputs"]
        assert judged["inputs"]["boigllm"] == plan["outputs"]["boigllm"]


def runs_folder(run: Any) -> str:
    from boig_core.orchestration.stage.attempts import run_folder

    return run_folder(run.run_id)


def test_what_variants_share_is_made_once_and_only_where_it_differs(whole: Any, home: Path) -> None:
    ran = [
        state.task
        for state in runs.run_state(f"{home}/store", f"boig_experiments/{runs_folder(whole)}")
    ]
    each = [
        f"{stage}/{index}" for stage in ("ddpo", "evaluate_sd") for index in range(len(VARIANTS))
    ]
    assert sorted(ran) == sorted(
        [
            *each,
            "finetune_sd",
            "finetune_llm/0",
            *(f"calibrate/{index}" for index in range(3)),
            "compare",
        ]
    )
    values, llm = xcom(whole, "plan")["outputs"], xcom(whole, "finetune_llm", index=0)["outputs"]
    used = {
        v["name"]: job(xcom(whole, "ddpo", index=i)["attempt"])["inputs"]
        for i, v in enumerate(VARIANTS)
    }
    assert {name: inputs["boigllm"] for name, inputs in used.items()} == {
        **dict.fromkeys(("plain", "kl", "kl-again", "dsg"), values["boigllm"]),
        **dict.fromkeys(("longer", "longer-dsg"), llm["boigllm"]),
    }
    assert used["longer"]["predictor"] == llm["predictor"]
    assert len({inputs["calibration"] for inputs in used.values()}) == 4
    assert used["plain"]["calibration"] == used["kl-again"]["calibration"] == values["calibration"]
    measured = {
        job(xcom(whole, "calibrate", index=i)["attempt"])["inputs"]["boigllm"] for i in range(3)
    }
    assert measured == {values["boigllm"], llm["boigllm"]}


def test_the_comparison_gets_every_evaluation_by_name_in_the_order_given(whole: Any) -> None:
    compared = job(xcom(whole, "compare")["attempt"])["inputs"]
    messages = json.loads(store.read_bytes(compared.pop("experiment")))
    assert messages == {"variants": [variant["name"] for variant in VARIANTS], "failed": {}}
    assert compared == {
        v["name"]: xcom(whole, "evaluate_sd", index=i)["outputs"]["generation"]
        for i, v in enumerate(VARIANTS)
    }
    report = xcom(whole, "verdict")
    assert report == xcom(whole, "compare")["outputs"]["report"]
    assert xcom(whole, "compare", "_link_ReportLink").endswith(
        f"/boig/evaluations/comparison/{report.rsplit('/', 1)[1]}/report.html"
    )


def test_mapped_jobs_have_ids_metadata_and_links_of_their_own(whole: Any, ray_stub: Any) -> None:
    mine = {
        name: values
        for name, values in ray_stub.metadata.items()
        if values["run"] == whole.run_id and values["task"] == "ddpo"
    }
    assert sorted(values["map"] for values in mine.values()) == [
        str(index) for index in range(len(VARIANTS))
    ]
    for name, values in mine.items():
        assert f"ddpo-{values['map']}" in name
        assert xcom(whole, "ddpo", "_link_RayJobLink", int(values["map"])).endswith(name)
    names = {
        ti.map_index: ti.rendered_map_index
        for ti in whole.get_task_instances()
        if ti.task_id == "ddpo"
    }
    assert names == {index: variant["name"] for index, variant in enumerate(VARIANTS)}


def test_one_that_fails_takes_no_other_down_is_named_with_its_reason_and_fails_the_run(
    broken: Any, capfd: Any
) -> None:
    result = states(broken)
    assert (result["ddpo/0"], result["evaluate_sd/0"]) == ("failed", "upstream_failed")
    assert {result[f"evaluate_sd/{index}"] for index in range(1, len(VARIANTS))} == {"success"}
    assert (result["compare"], result["verdict"], str(broken.state)) == (
        "success",
        "failed",
        "failed",
    )
    compared = job(xcom(broken, "compare")["attempt"])["inputs"]
    messages = json.loads(store.read_bytes(compared.pop("experiment")))
    assert messages["failed"] == {"plain": "ddpo: InputError: posts: are refused; give better ones"}
    assert set(compared) == {variant["name"] for variant in VARIANTS[1:]}


def test_a_second_experiment_finds_what_the_first_has_made(
    broken: Any, whole: Any, home: Path
) -> None:
    ran = {
        state.task
        for state in runs.run_state(f"{home}/store", f"boig_experiments/{runs_folder(broken)}")
    }
    assert not {task for task in ran if task.startswith(("finetune", "calibrate"))}
    for stage, index in (("finetune_sd", -1), ("finetune_llm", 0), ("calibrate", 2)):
        assert xcom(broken, stage, index=index) == xcom(whole, stage, index=index)


def test_a_boigllm_that_fails_skips_the_variants_that_need_it(
    whole: Any, ray_stub: Any, home: Path
) -> None:
    variants = [
        {"name": "plain", "overrides": []},
        {"name": "wider", "overrides": ["llm.steps=78"]},
    ]
    run = experiment(ray_stub, "finetune_llm/0", variants)
    result = states(run)
    assert (result["ddpo/0"], result["evaluate_sd/0"], result["compare"]) == (
        "success",
        "success",
        "success",
    )
    assert (
        result["finetune_llm/0"],
        result["calibrate/0"],
        result["ddpo/1"],
        result["evaluate_sd/1"],
    ) == ("failed", *["skipped"] * 3)
    failed = xcom(run, "collect", "failed")
    assert failed == {"wider": "finetune_llm: InputError: posts: are refused; give better ones"}


def test_reconcile_stops_the_job_of_the_one_index_whose_task_is_over(
    whole: Any, ray_stub: Any
) -> None:
    from airflow.models.taskinstance import TaskInstance
    from airflow.utils.session import create_session

    jobs = {}
    for name, values in ray_stub.metadata.items():
        if values["run"] == whole.run_id and values["task"] == "ddpo":
            jobs[int(values["map"])] = name
            ray_stub.states[name] = "RUNNING"
    with create_session() as session:
        for task in session.query(TaskInstance).filter_by(
            dag_id=whole.dag_id, run_id=whole.run_id, task_id="ddpo"
        ):
            task.state = "failed" if task.map_index == 1 else "deferred"
    load("boig_reconcile").test()
    assert {index for index, name in jobs.items() if ray_stub.states[name] == "STOPPED"} == {1}


@pytest.mark.parametrize(
    ("second", "reason"),
    [
        (
            {"name": "kl", "overrides": ["evaluation.prompts=3"]},
            "variant kl: evaluation: must be as in the recipe",
        ),
        ({"name": "kl", "overrides": []}, "variants plain and kl: are the same"),
        ({"name": "plain", "overrides": ["seed=2"]}, "variant 'plain': is named twice"),
        ({"name": "kl", "overrides": ["ddpo.kll=3"]}, "did you mean kl?"),
    ],
)
def test_wrong_variants_fail_in_the_first_task(
    models: None, ray_stub: Any, caplog: Any, capfd: Any, second: Any, reason: str
) -> None:
    jobs = len(ray_stub.entrypoints)
    run = experiment(ray_stub, variants=[VARIANTS[0], second])
    assert (states(run)["plan"], str(run.state)) == ("failed", "failed")
    assert len(ray_stub.entrypoints) == jobs
    captured = capfd.readouterr()
    assert reason in captured.out + captured.err + caplog.text


@pytest.mark.parametrize("name", ["experiment", "Plain", "a/b", "", "-x", "x" * 40])
def test_a_name_that_is_no_safe_part_of_a_path_is_refused_by_the_form(name: str) -> None:
    from airflow.sdk.exceptions import ParamValidationError

    param = load("boig_experiments").params.get_param("variants")
    assert param.resolve(VARIANTS) == VARIANTS
    with pytest.raises(ParamValidationError):
        param.resolve([VARIANTS[0], {"name": name, "overrides": ["seed=2"]}])
