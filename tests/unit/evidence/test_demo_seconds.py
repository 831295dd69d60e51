"""`infra/evidence/demo/demo_seconds.py`: each second of a demo has one cause."""

from __future__ import annotations

import json
import os
from pathlib import Path

from boig_core.config import load_recipe
from boig_core.storage import commit, store
from boig_core.storage.job import Job, Stage, write_job
from infra.evidence.demo import demo_seconds


def stage(
    root: str,
    run: str,
    name: Stage,
    written: float,
    ended: float,
    seconds: float,
    rows: list[float] | None = None,
) -> None:
    task = f"{root}/runs/{run}/{name}"
    job = Job(
        stage=name,
        recipe=load_recipe("tiny"),
        inputs={},
        store=root,
        root=run,
        task=task,
        attempt=1,
    )
    write_job(job)
    if rows:
        curve = "".join(
            json.dumps({"step": step, "time": at}) + "\n" for step, at in enumerate(rows)
        )
        store.write_bytes(store.join(job.attempt_uri, "metrics.jsonl"), curve.encode())
    commit.commit(job.attempt_uri, {}, {"seconds": seconds})
    for file, at in (("job.json", written), (commit.COMMIT, ended)):
        os.utime(Path(job.attempt_uri, file), (at, at))


def test_a_stage_is_cut_at_its_job_its_start_its_curve_and_its_commit(
    tmp_path: Path,
) -> None:
    root = str(tmp_path)
    stage(root, "boig_ingest/r", Stage.INGEST, 1000.0, 1030.0, 20.0)
    stage(root, "boig_llm/r", Stage.FINETUNE_LLM, 1035.0, 1100.0, 60.0, [1055.0, 1070.0, 1096.0])
    ingest, finetune = demo_seconds.measure(root, ["boig_ingest/r", "boig_llm/r"])
    assert ingest == demo_seconds.StageSeconds("ingest", None, 10.0, None, 20.0, None)
    assert finetune == demo_seconds.StageSeconds("finetune_llm", 5.0, 5.0, 15.0, 41.0, 4.0)
    lines = demo_seconds.table([ingest, finetune]).splitlines()
    assert [line.split()[-1] for line in lines[1:]] == ["30.0", "70.0", "100.0"]
    assert max(map(len, lines)) <= 80
