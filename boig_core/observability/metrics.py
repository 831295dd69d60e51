"""Metrics of a run: one JSON line per step, kept in the store beside the attempt and mirrored to
MLflow when it is configured.

Leaves out: what to measure, and the store itself: the caller passes a function that replaces the
file's content.
"""

from __future__ import annotations

import json
import math
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any, Final

from boig_core.observability.logs import get_logger, hide_secrets

log = get_logger(__name__)

_AT_ONCE: Final = 1000
"""Most values that MLflow takes in one request."""


def experiment(stage: str) -> str:
    """MLflow experiment that a stage logs to."""
    return f"boig/{stage}"


class MetricLog:
    """Collects metric rows; writes them through ``put`` and to MLflow at most every ``every_s``
    seconds, and on `close`.

    Args:
        put: replaces the whole ``metrics.jsonl``; called with its bytes.
        experiment: MLflow experiment, used when ``MLFLOW_TRACKING_URI`` is set.
        run: name of the MLflow run.
        params: small values logged once.
        every_s: least seconds between two writes.
        earlier: what a process that was lost has written of the same run; its rows stay, up to the
            step at which this one goes on.
    """

    def __init__(
        self,
        put: Callable[[bytes], None],
        *,
        experiment: str,
        run: str,
        params: dict[str, Any] | None = None,
        every_s: float = 10.0,
        earlier: bytes = b"",
    ) -> None:
        self._put = put
        self._every_s = every_s
        self._rows: list[dict[str, Any]] = [json.loads(line) for line in earlier.splitlines()]
        self._goes_on = bool(self._rows)
        self._written = time.monotonic()
        self._mlflow = _start_mlflow(experiment, run, params or {})
        self._untracked: list[dict[str, Any]] = []
        self._one = threading.Lock()

    def log(self, step: int, **values: float) -> None:
        """Record one row. Values that are not finite are kept as null: a gap in a curve, never a
        made-up number."""
        self.log_row(step, values)

    def log_row(self, step: int, values: Mapping[str, float]) -> None:
        """As `log`; threads may share it."""
        with self._one:
            self._log(step, values)

    def _log(self, step: int, values: Mapping[str, float]) -> None:
        # The lost process may have come further than the checkpoint that this one goes on from; the
        # first row says where that is, and the steps from there on are made again.
        if self._goes_on:
            self._rows = [earlier for earlier in self._rows if earlier["step"] < step]
            self._goes_on = False
        row = {
            key: (float(value) if math.isfinite(value) else None) for key, value in values.items()
        }
        self._rows.append({"step": step, "time": round(time.time(), 3), **row})
        if self._mlflow is not None:
            self._untracked.append(self._rows[-1])
        if time.monotonic() - self._written > self._every_s:
            self._write()

    @property
    def rows(self) -> list[dict[str, Any]]:
        """All rows so far."""
        return list(self._rows)

    def close(self) -> None:
        """Write what is left and end the MLflow run."""
        self._write()
        if self._mlflow is not None:
            client, run_id = self._mlflow
            try:
                client.set_terminated(run_id)
            except Exception as exc:
                log.warning("MLflow is away: %s", exc)

    def _write(self) -> None:
        # Whole each time, since an object of a store cannot be appended to.
        self._put("".join(json.dumps(row) + "\n" for row in self._rows).encode())
        self._track()
        self._written = time.monotonic()

    def _track(self) -> None:
        """Send what is new to MLflow: a request for each value would take a small model a quarter
        of its time."""
        if self._mlflow is None or not self._untracked:
            return
        client, run_id = self._mlflow
        rows, self._untracked = self._untracked, []
        try:
            values = _mlflow_values(rows)
            while at_once := list(islice(values, _AT_ONCE)):
                client.log_batch(run_id, metrics=at_once)
        except Exception as exc:  # tracking must never stop a training
            log.warning("MLflow is away, tracking is off for the rest of this run: %s", exc)
            self._mlflow = None


def _mlflow_values(rows: list[dict[str, Any]]) -> Iterator[Any]:
    from mlflow.entities import Metric

    for row in rows:
        at_ms = round(row["time"] * 1000)
        for key, value in row.items():
            if key not in {"step", "time"} and value is not None:
                yield Metric(key, value, at_ms, row["step"])


def _start_mlflow(experiment: str, run: str, params: dict[str, Any]) -> tuple[Any, str] | None:
    if not os.environ.get("MLFLOW_TRACKING_URI"):
        return None
    try:
        from mlflow import MlflowClient

        client = MlflowClient()
        known = client.get_experiment_by_name(experiment)
        experiment_id = known.experiment_id if known else client.create_experiment(experiment)
        run_id = client.create_run(experiment_id, run_name=run).info.run_id
        for key, value in params.items():
            client.log_param(run_id, key, hide_secrets(str(value)))
        return client, run_id
    except Exception as exc:
        # Tracking is an extra: a training goes on without it.
        log.warning("MLflow is not used: %s", exc)
        return None
