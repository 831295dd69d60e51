"""What jobs run instead of Python: a stage that needs a second and no models, and the real stages
where a test needs those.

The stand-in publishes one file, says so, waits for a word, and then is committed. The real
``finetune_sd`` waits for it, too, at each checkpoint, in the process that trains. Those of
`boig_ingest` are run by `day_by_day`.

``BOIG_FAULTS`` is the folder where the word and the marks are: ``started.jsonl`` gets a line for
each start or checkpoint, and a file of the run's name in ``go`` is the word.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from boig_core.storage.job import Job
from boig_core.storage.stage import Outcome, Workspace, run_stage


def work(space: Workspace) -> Outcome:
    """The stage that takes a second."""
    created = space.scratch / "made"
    created.mkdir()
    (created / "attempt.txt").write_text(str(space.job.attempt))
    outcome = Outcome(
        {"dataset": space.publish("datasets/faults", created, kind="dataset")},
        {"attempt": space.job.attempt},
    )
    say_and_wait(space.job)
    return outcome


def say_and_wait(job: Job) -> None:
    """Leave a mark, then wait for the word."""
    signals = Path(os.environ["BOIG_FAULTS"])
    mark = {"task": job.task, "attempt": job.attempt, "pid": os.getpid()}
    with (signals / "started.jsonl").open("a") as file:
        file.write(json.dumps(mark) + "\n")
    go = signals / "go" / job.task.rsplit("/", 2)[-2]
    while not go.exists():
        time.sleep(0.05)


def train_in_steps(space: Workspace) -> Outcome:
    """The real stage, held at its checkpoints."""
    from ray_jobs import finetune_sd

    real = finetune_sd.train

    def train(config: dict[str, Any]) -> Any:
        from boig_core.training.checkpoint import Checkpoints

        save = Checkpoints.save

        def save_and_wait(points: Checkpoints, *args: Any) -> str:
            uri = save(points, *args)
            points.wait()
            say_and_wait(config["job"])
            return uri

        Checkpoints.save = save_and_wait  # type: ignore
        return real(config)

    finetune_sd.train = train
    return finetune_sd.work(space)


def main(module: str, uri: str) -> int:
    """Run the job's stage; the exit code."""
    if module and "/runs/boig_" in uri:
        from tests.faults import day_by_day

        return day_by_day.main(uri)
    return run_stage(train_in_steps if module == "ray_jobs.finetune_sd" else work, [uri])


if __name__ == "__main__":
    # `-m ray_jobs.STAGE URI`, when it stands in for Python.
    _, module, uri = sys.argv[1:] if len(sys.argv) == 4 else ("", "", sys.argv[-1])
    sys.exit(main(module, uri))
