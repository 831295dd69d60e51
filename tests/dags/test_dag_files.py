"""DAG files: parsed cheaply, documented, owned, retried, tagged, with typed and described
params."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from boig_core.errors import InputError

DAGS = Path(__file__).resolve().parents[2] / "dags"
FILES = sorted(DAGS.glob("boig_*.py"))
HEAVY = (
    "torch",
    "ray",
    "transformers",
    "diffusers",
    "deepspeed",
    "pandas",
    "boto3",
    "pyarrow",
    "mlflow",
)
SCRIPT = """
import importlib.util, json, sys
for path in sys.argv[2:]:
    spec = importlib.util.spec_from_file_location("dag_file", path)
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
    print(json.dumps([path, [name for name in sys.argv[1].split(",") if name in sys.modules]]))
"""


def test_parsing_imports_nothing_heavy() -> None:
    argv = [sys.executable, "-c", SCRIPT, ",".join(HEAVY), *map(str, FILES)]
    done = subprocess.run(argv, capture_output=True, text=True, cwd=DAGS.parent)
    assert done.returncode == 0, done.stderr
    assert [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")] == [
        [str(path), []] for path in FILES
    ]


@pytest.fixture(scope="module")
def dags() -> dict[str, Any]:
    import importlib

    return {path.stem: importlib.import_module(f"dags.{path.stem}").dag for path in FILES}


def test_there_are_the_dags_and_four_are_chained_by_assets(dags: dict[str, Any]) -> None:
    assert list(dags) == [
        "boig_experiments", "boig_ingest", "boig_llm", "boig_maintenance", "boig_promote", "boig_reconcile", "boig_rollback", "boig_sd",
    ]  # fmt: skip
    emits = {
        asset.name: name
        for name, dag in dags.items()
        for task in dag.tasks
        for asset in task.outlets
    }
    assert emits == {
        "boig/dataset": "boig_ingest",
        "boig/boigllm": "boig_llm",
        "boig/boigsd": "boig_sd",
    }
    chained = ("boig_llm", "boig_promote", "boig_sd")
    waits = {
        name: [asset.name for asset in dags[name].timetable.asset_condition.objects]
        for name in chained
    }
    assert waits == {
        "boig_llm": ["boig/dataset"],
        "boig_sd": ["boig/boigllm"],
        "boig_promote": ["boig/boigsd"],
    }


@pytest.mark.parametrize("name", [path.stem for path in FILES])
def test_dag_is_documented_owned_retried_and_tagged(dags: dict[str, Any], name: str) -> None:
    dag = dags[name]
    assert len(dag.doc_md) > 200
    assert dag.description
    assert {"boig"} < set(dag.tags)
    assert dag.max_active_runs == 1
    for task in dag.tasks:
        assert task.owner == "boig"
        assert task.retries >= 1
        assert task.on_failure_callback
    for key in dag.params:
        param = dag.params.get_param(key)
        assert param.description, key
        assert param.schema.get("title"), key
        assert param.schema.get("type"), key


def test_a_stage_that_was_marked_as_success_is_named_where_there_is_nothing_to_announce(
    dags: dict[str, Any],
) -> None:
    announce = dags["boig_sd"].get_task("announce").python_callable
    with pytest.raises(InputError, match="was marked as success, so it has no result to announce"):
        announce({"outputs": {}, "seconds": {}}, [None], None)


@pytest.mark.parametrize("name", [path.stem for path in FILES])
def test_the_sample_conf_of_a_dag_starts_it(dags: dict[str, Any], name: str) -> None:
    """What its page in Airflow shows at the end can be pasted into the form of a run."""
    dag = dags[name]
    if not dag.params:
        assert dag.doc_md.rstrip().endswith("It takes no params.")
        return
    _, _, sample = dag.doc_md.partition("### Sample conf")
    conf = json.loads(sample.partition("```json")[2].partition("```")[0])
    assert conf
    assert set(conf) <= set(dag.params)
    for key, value in conf.items():
        dag.params.get_param(key).resolve(value)


@pytest.mark.parametrize(
    "location",
    [
        "https://me:hush@host/posts.jsonl",
        "s3://key:hush@bucket/x",
        "https://host/x?a=b&X-Amz-Signature=hush",
    ],
)
def test_params_take_no_location_with_credentials_since_airflow_shows_them(
    dags: dict[str, Any], location: str
) -> None:
    from airflow.sdk.exceptions import ParamValidationError

    params = [(key, dag.params.get_param(key)) for dag in dags.values() for key in dag.params]
    texts = [
        (key, param)
        for key, param in params
        if "string" in param.schema["type"] and "enum" not in param.schema
    ]
    assert {"posts", "previous", "retry", "recipe", "dataset", "boigllm", "boigsd", "report"} <= {
        key for key, _ in texts
    }
    for key, param in texts:
        if key == "why":
            continue
        assert param.resolve("s3://bucket/at@home/x?.jsonl") == "s3://bucket/at@home/x?.jsonl"
        with pytest.raises(ParamValidationError):
            param.resolve(location)


def test_the_graph_shows_the_order_alone(dags: dict[str, Any]) -> None:
    edges = {
        name: {
            (task.task_id, after) for task in dags[name].tasks for after in task.downstream_task_ids
        }
        for name in dags
    }
    assert edges["boig_ingest"] == {
        ("plan", "turn"),
        ("turn", "ingest"),
        ("ingest", "perceive"),
        ("perceive", "announce"),
    }
    trained = {
        ("plan", "finetune_llm"),
        ("finetune_llm", "evaluate_llm"),
        ("finetune_llm", "calibrate"),
    }
    assert edges["boig_llm"] == {*trained, ("evaluate_llm", "announce"), ("calibrate", "announce")}
    aligned = {
        ("plan", "finetune_sd"),
        ("plan", "ddpo"),
        ("finetune_sd", "evaluate_sd"),
        ("ddpo", "evaluate_sd"),
    }
    assert edges["boig_sd"] == {
        *aligned,
        ("evaluate_sd", "timings"),
        ("timings", "report"),
        ("report", "announce"),
    }
    for dag in dags.values():
        assert all(
            task.task_id in dag.task_dict[after].upstream_task_ids
            for task in dag.tasks
            for after in task.downstream_task_ids
        )


def test_stages_run_once_each_in_the_cluster_pool(dags: dict[str, Any]) -> None:
    from boig_core.orchestration.stage.operator import POOL, RayJobOperator
    from boig_core.storage.job import Stage

    stages = [
        task for dag in dags.values() for task in dag.tasks if isinstance(task, RayJobOperator)
    ]
    chained = [task.stage for task in stages if task.dag_id != "boig_experiments"]
    assert sorted(chained) == sorted(
        stage.value for stage in Stage if stage not in {Stage.SCORE_REWARDS, Stage.COMPARE}
    )
    assert all(
        task.pool == POOL and task.deferrable and task.task_id == task.stage for task in stages
    )
    mapped = [task for task in dags["boig_experiments"].tasks if task.is_mapped]
    assert [(task.task_id, task.pool, task.retry_policy) for task in mapped] == [
        ("finetune_llm", POOL, stages[0].retry_policy),
        ("calibrate", POOL, stages[0].retry_policy),
    ]


def test_every_stage_has_buttons_for_its_job_and_its_pages_and_the_approval_for_the_report(
    dags: dict[str, Any],
) -> None:
    from airflow.serialization.serialized_objects import DagSerialization

    def buttons(dag: str, task: str) -> set[str]:
        result = DagSerialization.from_dict(DagSerialization.to_dict(dags[dag]))
        return {link.name for link in result.get_task(task).operator_extra_links}

    assert buttons("boig_ingest", "perceive") == {"Ray job", "MLflow run", "Data card", "Report"}
    assert buttons("boig_promote", "approval") == {"Report"}
