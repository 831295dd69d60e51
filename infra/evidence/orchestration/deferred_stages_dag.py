"""The DAGs that `deferred_stages` measures: many stages at once, and beside them a probe of the
triggerer's event loop."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, BaseOperator
from airflow.triggers.base import BaseTrigger, TriggerEvent

from boig_core.orchestration.stage.operator import RayJobOperator

SLEEP_S = 0.01
"""What the probe asks for; what it gets beyond that is the loop's lag."""


class LagProbe(BaseTrigger):
    """Sleeps again and again on the event loop that all triggers share, until the file ``stop`` is
    there.

    Its file ``lags.json`` then holds a pair for each sleep: when it began (seconds since 1970), and
    the lag in seconds; and for each collection of garbage in that process when it began, and its
    seconds: what part of the lag is Python's own.
    """

    def __init__(self, folder: str) -> None:
        super().__init__()
        self.folder = folder

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Class path and arguments."""
        return "deferred_stages_dag.LagProbe", {"folder": self.folder}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Measure until told to stop."""
        folder, lags, collections = Path(self.folder), [], list[tuple[float, float]]()

        def collecting(phase: str, _: dict[str, int]) -> None:
            if phase == "start":
                collections.append((time.time(), time.monotonic()))
            # A collection may have been under way when this was registered: its start is not known.
            elif collections:
                collections[-1] = (collections[-1][0], time.monotonic() - collections[-1][1])

        gc.callbacks.append(collecting)
        (folder / "probing").touch()
        while not (folder / "stop").exists():
            # The clock of the wall is for the place in time, which other processes share; it may
            # jump, so the monotonic one measures.
            began, before = time.time(), time.monotonic()
            await asyncio.sleep(SLEEP_S)
            lags.append((began, time.monotonic() - before - SLEEP_S))
        gc.callbacks.remove(collecting)
        (folder / "lags.json").write_text(json.dumps({"lags": lags, "collections": collections}))
        yield TriggerEvent({})


class LoopProbe(BaseOperator):
    """Defers to the probe; each run has a folder of its own."""

    def execute(self, context: Any) -> None:
        """Hand over to the triggerer."""
        folder = Path(os.environ["BOIG_FAULTS"]) / context["run_id"]
        folder.mkdir(exist_ok=True)
        self.defer(trigger=LagProbe(str(folder)), method_name="done")

    def done(self, context: Any, event: dict[str, Any]) -> None:
        """Nothing is left to do."""


with DAG("probe", schedule=None, is_paused_upon_creation=False):
    LoopProbe(task_id="probe", pool="default_pool")

STORE = os.environ["BOIG_STORE"]
with DAG("boig", schedule=None, is_paused_upon_creation=False, max_active_tasks=1000):
    for number in range(int(os.environ["BOIG_STAGES"])):
        RayJobOperator(
            task_id=f"stage-{number:03}",
            stage="ingest",
            plan={
                "store": STORE,
                "recipe": f"{STORE}/recipe.json",
                "root": "stages",
                "outputs": {},
                "seconds": {},
            },
            inputs={},
            pool="default_pool",
        )
