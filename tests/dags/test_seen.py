"""What a real DAG run says to others: OpenLineage events with datasets, by the provider's file
transport, and counts by StatsD."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from boig_core.orchestration.signals.lineage import place_of

pytestmark = pytest.mark.usefixtures("airflow_db")
SCRIPT = """
import json, sys
from dags.boig_ingest import dag
for task in dag.tasks:
    if hasattr(task, "poll_s"):
        task.poll_s = 0.05
dag.test(run_conf=json.loads(sys.argv[1]))
"""


@dataclass(frozen=True)
class Seen:
    """Of a run of ``boig_ingest`` whose last stage was refused."""

    home: Path
    events: list[dict[str, Any]]
    counts: list[str]

    def last(self, stage: str) -> dict[str, Any]:
        return [event for event in self.events if event["job"]["name"] == f"boig_ingest.{stage}"][
            -1
        ]


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory, ray_stub: Any) -> Seen:
    """The run has a process of its own: the provider reads its settings when Airflow loads its
    plugins."""
    home = tmp_path_factory.mktemp("seen")
    (home / "posts").mkdir()
    (home / "posts" / "posts.jsonl").write_text("{}\n")
    log = home / "events.jsonl"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as statsd:
        statsd.bind(("127.0.0.1", 0))
        statsd.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**20)
        env = {
            **os.environ,
            "BOIG_STORE": str(home / "store"),
            "RAY_API_ADDRESS": ray_stub.address,
            "AIRFLOW__OPENLINEAGE__TRANSPORT": json.dumps(
                {"type": "file", "log_file_path": str(log), "append": True}
            ),
            "AIRFLOW__OPENLINEAGE__NAMESPACE": "boig-tests",
            "AIRFLOW__OPENLINEAGE__EXECUTION_TIMEOUT": "120",
            "AIRFLOW__METRICS__STATSD_ON": "True",
            "AIRFLOW__METRICS__STATSD_PORT": str(statsd.getsockname()[1]),
            "AIRFLOW__METRICS__STATSD_INFLUXDB_ENABLED": "True",
            "AIRFLOW__METRICS__LEGACY_NAMES_ON": "False",
        }
        argv = [sys.executable, "-c", SCRIPT, json.dumps({"posts": str(home / "posts")})]
        ray_stub.refuse.add("perceive")
        try:
            done = subprocess.run(
                argv, env=env, capture_output=True, text=True, cwd=Path(__file__).parents[2]
            )
        finally:
            ray_stub.refuse.clear()
        assert done.returncode == 0, done.stderr
        counts = []
        statsd.setblocking(False)
        with suppress(BlockingIOError):
            while True:
                counts.append(statsd.recv(2**16).decode())
    return Seen(home, [json.loads(line) for line in log.read_text().splitlines()], counts)


def test_each_stage_says_what_it_has_read_and_made(seen: Seen) -> None:
    ingest = seen.last("ingest")
    assert (ingest["eventType"], ingest["job"]["namespace"]) == ("COMPLETE", "boig-tests")
    [posts], [created] = ingest["inputs"], ingest["outputs"]
    assert (posts["namespace"], posts["name"]) == ("file", str(seen.home / "posts"))
    assert created["name"].startswith(f"{seen.home}/store/datasets/adworld/")
    sizes = [
        file["size"]
        for file in json.loads(Path(created["name"], "manifest.json").read_text())["files"]
    ]
    statistics = created["outputFacets"]["outputStatistics"]
    assert [statistics[name] for name in ("rowCount", "size", "fileCount")] == [
        3,
        sum(sizes),
        len(sizes),
    ]


def test_a_stage_that_failed_says_what_it_has_read(seen: Seen) -> None:
    failed, [created] = seen.last("perceive"), seen.last("ingest")["outputs"]
    assert failed["eventType"] == "FAIL"
    [read] = failed["inputs"]
    assert (read["namespace"], read["name"]) == (created["namespace"], created["name"])
    assert (
        read["facets"]["version"]["datasetVersion"]
        == created["facets"]["version"]["datasetVersion"]
    )
    assert read["inputFacets"]["inputStatistics"]["rowCount"] == 3
    assert failed["outputs"] == []
    assert "are refused" in json.dumps(failed["run"]["facets"]["errorMessage"])


def test_jobs_seconds_and_failures_are_counted(seen: Seen) -> None:
    boig = [line for line in seen.counts if line.startswith("airflow.boig.")]
    assert boig.count("airflow.boig.jobs,stage=ingest,how=started:1|c") == 1
    assert boig.count("airflow.boig.jobs,stage=perceive,how=started:1|c") == 1
    assert (
        boig.count("airflow.boig.failures,task=perceive,kind=user,type=InputError,last=true:1|c")
        == 1
    )
    [seconds] = [
        line for line in boig if line.startswith("airflow.boig.stage_seconds,stage=ingest:")
    ]
    assert seconds.endswith("|ms")
    assert len(boig) == 4


def test_places_are_named_as_openlineage_names_them() -> None:
    assert place_of("s3://bucket/models/boigsd/v1") == {
        "namespace": "s3://bucket",
        "name": "models/boigsd/v1",
    }
    assert place_of("/data/posts/*.jsonl") == {"namespace": "file", "name": "/data/posts/*.jsonl"}
    assert place_of("https://cdn.example/acme/posts.jsonl") == {
        "namespace": "https://cdn.example",
        "name": "acme/posts.jsonl",
    }
