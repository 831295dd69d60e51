"""OpenLineage events of a real DAG run, through the provider's listener and its file transport: stages with their datasets."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from boig_core.orchestration.lineage import place_of

pytestmark = pytest.mark.usefixtures("airflow_db")
SCRIPT = """
import json, sys
from dags.boig_ingest import dag
for task in dag.tasks:
    if hasattr(task, "poll_s"):
        task.poll_s = 0.05
run = dag.test(run_conf=json.loads(sys.argv[1]))
print("states", json.dumps({ti.task_id: str(ti.state) for ti in run.get_task_instances()}))
"""


def events_of_ingest(folder: Path, ray: str) -> tuple[str, list[dict[str, Any]]]:
    """States and events of a run in a process of its own: the provider reads its settings when Airflow loads its plugins."""
    (folder / "posts").mkdir()
    (folder / "posts" / "posts.jsonl").write_text("{}\n")
    log = folder / "events.jsonl"
    env = {
        **os.environ,
        "BOIG_STORE": str(folder / "store"),
        "BOIG_ROOTS": str(folder / "posts"),
        "RAY_API_ADDRESS": ray,
        "AIRFLOW__OPENLINEAGE__TRANSPORT": json.dumps({"type": "file", "log_file_path": str(log), "append": True}),
        "AIRFLOW__OPENLINEAGE__NAMESPACE": "boig-tests",
        "AIRFLOW__OPENLINEAGE__EXECUTION_TIMEOUT": "120",
    }
    conf = json.dumps({"posts": str(folder / "posts")})
    done = subprocess.run([sys.executable, "-c", SCRIPT, conf], env=env, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
    states = next(line for line in done.stdout.splitlines() if line.startswith("states "))
    return states, [json.loads(line) for line in log.read_text().splitlines()]


def last(events: list[dict[str, Any]], stage: str) -> dict[str, Any]:
    return [event for event in events if event["job"]["name"] == f"boig_ingest.{stage}"][-1]


def test_each_stage_says_what_it_has_read_and_made(tmp_path: Path, ray_stub: Any) -> None:
    states, events = events_of_ingest(tmp_path, ray_stub.address)
    assert "failed" not in states
    ingest, perceive = last(events, "ingest"), last(events, "perceive")
    assert (ingest["eventType"], ingest["job"]["namespace"]) == ("COMPLETE", "boig-tests")
    [posts] = ingest["inputs"]
    assert (posts["namespace"], posts["name"]) == ("file", str(tmp_path / "posts"))
    [made] = ingest["outputs"]
    assert made["name"].startswith(f"{tmp_path}/store/datasets/adworld/")
    manifest = json.loads(Path(made["name"], "manifest.json").read_text())
    sizes = [file["size"] for file in manifest["files"]]
    statistics = made["outputFacets"]["outputStatistics"]
    assert {name: statistics[name] for name in ("rowCount", "size", "fileCount")} == {
        "rowCount": 3,
        "size": sum(sizes),
        "fileCount": len(sizes),
    }
    [read] = perceive["inputs"]
    assert (read["namespace"], read["name"]) == (made["namespace"], made["name"])
    assert read["facets"]["version"] == made["facets"]["version"]
    assert read["inputFacets"]["inputStatistics"]["rowCount"] == 3


def test_a_stage_that_failed_says_what_it_has_read(tmp_path: Path, ray_stub: Any) -> None:
    ray_stub.refuse.add("perceive")
    try:
        _, events = events_of_ingest(tmp_path, ray_stub.address)
    finally:
        ray_stub.refuse.clear()
    failed = last(events, "perceive")
    assert failed["eventType"] == "FAIL"
    assert [item["name"] for item in failed["inputs"]] == [item["name"] for item in last(events, "ingest")["outputs"]]
    assert failed["outputs"] == []
    assert "are refused" in json.dumps(failed["run"]["facets"]["errorMessage"])


def test_places_are_named_as_openlineage_names_them() -> None:
    assert place_of("s3://bucket/models/boigsd/v1") == {"namespace": "s3://bucket", "name": "models/boigsd/v1"}
    assert place_of("/data/posts/*.jsonl") == {"namespace": "file", "name": "/data/posts/*.jsonl"}
    assert place_of("https://cdn.example/acme/posts.jsonl") == {"namespace": "https://cdn.example", "name": "acme/posts.jsonl"}
