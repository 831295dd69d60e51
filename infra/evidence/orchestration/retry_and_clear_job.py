"""What Ray's jobs run in the place of Python for `retry_and_clear`: the real stages, which end at
their first checkpoint where the attempt's number says so.

The first attempt is killed with all its words unsaid, as by a lost machine, so Airflow tries again.
Those of `FAILS` fail with a user error, after which nothing is tried again.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any, Final

from boig_core.cluster.stage import run_stage
from boig_core.errors import InputError
from boig_core.storage.job import Job

KILLED: Final = 1
FAILS: Final = (3, 4)
TRAINS: Final = {"finetune_llm": "train_model", "finetune_sd": "train", "ddpo": "train"}
"""What the workers of each stage run."""


def ending(train: Callable[[dict[str, Any]], Any], driver: int) -> Callable[[dict[str, Any]], Any]:
    """The training of a worker, ended at its first checkpoint if its attempt is to end there.

    Args:
        train: the real one.
        driver: id of the stage's own process, on the same machine.
    """

    def train_and_end(config: dict[str, Any]) -> Any:
        from boig_core.training.checkpoint import Checkpoints

        job = config["job"]
        attempt = (job if isinstance(job, Job) else Job.model_validate_json(job)).attempt
        save = Checkpoints.save

        def save_and_end(points: Checkpoints, *args: Any) -> str:
            uri = save(points, *args)
            points.wait()
            if attempt == KILLED:
                os.kill(driver, signal.SIGKILL)
                time.sleep(600)  # Ray ends this process with its job
            if attempt in FAILS:
                raise InputError(f"attempt {attempt}", "was to fail here", "clear the task")
            return uri

        Checkpoints.save = save_and_end  # type: ignore[assignment,method-assign]
        return train(config)

    return train_and_end


def main(module: str, uri: str) -> int:
    """Run the job's stage; the exit code."""
    stage: Any = importlib.import_module(module)
    name = TRAINS[module.rsplit(".", 1)[-1]]
    setattr(stage, name, ending(getattr(stage, name), os.getpid()))
    return run_stage(stage.work, [uri])


if __name__ == "__main__":
    # `-m ray_jobs.STAGE URI`, as it stands in for Python.
    sys.exit(main(*sys.argv[2:4]))
