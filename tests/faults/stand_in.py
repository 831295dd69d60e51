"""A stage that needs a second and no models: it publishes one file, says so, waits for a word, and then is committed.

``BOIG_FAULTS`` is the folder where the word and the marks are: ``started.jsonl`` gets a line for each start, and a file of the run's name
in ``go`` is the word.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from boig_core.storage.job import Outcome, Workspace, run_stage


def work(space: Workspace) -> Outcome:
    made = space.scratch / "made"
    made.mkdir()
    (made / "attempt.txt").write_text(str(space.job.attempt))
    outcome = Outcome({"dataset": space.publish("datasets/faults", made, kind="dataset")}, {"attempt": space.job.attempt})
    signals = Path(os.environ["BOIG_FAULTS"])
    mark = {"task": space.job.task, "attempt": space.job.attempt, "pid": os.getpid()}
    with (signals / "started.jsonl").open("a") as file:
        file.write(json.dumps(mark) + "\n")
    go = signals / "go" / space.job.task.rsplit("/", 2)[-2]
    while not go.exists():
        time.sleep(0.05)
    return outcome


if __name__ == "__main__":
    sys.exit(run_stage(work, sys.argv[-1:]))  # after `-m ray_jobs.STAGE`, when it stands in for Python
