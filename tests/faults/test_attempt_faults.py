"""An attempt that is frozen just before its commit, and wakes when the next one has started,
publishes nothing: on a folder, moto and a real S3 server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from boig_core.config import load_recipe
from boig_core.errors import CorruptError
from boig_core.storage import commit, manifest, store
from boig_core.storage.job import Job, Stage, read_job, write_job
from infra.evidence.orchestration.airflow_on_postgres import until
from tests.faults.installation import HERE


@pytest.fixture(params=["folder", "s3_bucket", "real_s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty store."""
    return (
        str(tmp_path / "store")
        if request.param == "folder"
        else f"{request.getfixturevalue(request.param)}/frozen"
    )


class Stages:
    """Processes of the stand-in stage, attempt by attempt."""

    def __init__(self, root: str, signals: Path) -> None:
        self.root, self.signals = root, signals
        self.task = store.join(root, "runs", "boig_ingest", "run", "ingest")
        self.running: list[subprocess.Popen[bytes]] = []
        (signals / "go").mkdir()

    def start(self, attempt: int) -> subprocess.Popen[bytes]:
        """Start an attempt, and wait until nothing but the word and the commit is missing."""
        job = Job(
            stage=Stage.INGEST,
            recipe=load_recipe("tiny"),
            inputs={},
            store=self.root,
            root="r",
            task=self.task,
            attempt=attempt,
        )
        env = {**os.environ, "BOIG_FAULTS": str(self.signals)}
        process = subprocess.Popen(
            [sys.executable, str(HERE / "stand_in.py"), write_job(job)], env=env
        )
        self.running.append(process)
        until(f"attempt {attempt} is ready", lambda: attempt in self.ready())
        return process

    def ready(self) -> list[int]:
        marks = self.signals / "started.jsonl"
        return (
            [json.loads(line)["attempt"] for line in marks.read_text().splitlines()]
            if marks.exists()
            else []
        )

    def go(self) -> None:
        (self.signals / "go" / "run").touch()

    def output(self, attempt: int) -> str:
        """Where an attempt has put its output."""
        job = store.join(commit.attempt_uri(self.task, attempt), "job.json")
        return read_job(job).output("datasets/faults")


@pytest.fixture
def stages(root: str, tmp_path: Path) -> Iterator[Stages]:
    (tmp_path / "signals").mkdir()
    result = Stages(root, tmp_path / "signals")
    yield result
    for process in result.running:
        process.kill()
        process.wait()


def test_a_frozen_attempt_that_wakes_after_its_successor_started(stages: Stages) -> None:
    first = stages.start(1)
    first.send_signal(signal.SIGSTOP)
    until("it is frozen", lambda: psutil.Process(first.pid).status() == psutil.STATUS_STOPPED)
    old, new = (commit.attempt_uri(stages.task, number) for number in (1, 2))
    assert commit.fence(old) is None
    second = stages.start(2)
    stages.go()
    first.send_signal(signal.SIGCONT)
    assert first.wait(120) == 1
    assert second.wait(120) == 0
    assert (commit.fate(old), commit.fate(new)) == ("fenced", "committed")
    failure = commit.read_failure(old)
    assert failure is not None
    assert failure.type == "FencedError"
    assert store.exists(store.join(stages.output(1), manifest.MANIFEST)), (
        "all but the commit had been done"
    )
    with pytest.raises(CorruptError, match="fenced"):
        manifest.read_manifest(stages.output(1))
    manifest.verify(stages.output(2))
    assert store.read_bytes(store.join(stages.output(2), "attempt.txt")) == b"2"
