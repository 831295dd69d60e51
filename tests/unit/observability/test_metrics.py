"""Metric rows: a process that goes on where a lost one was keeps its rows, but for steps that are
made again; MLflow gets all of them."""

import json
import math
from typing import Any

import pytest

from boig_core.observability import metrics
from boig_core.observability.metrics import MetricLog


def test_rows_of_a_lost_process_stay_up_to_where_the_next_goes_on() -> None:
    written: list[bytes] = []
    first = MetricLog(written.append, experiment="e", run="r", every_s=0.0)
    for step in range(4):
        first.log(step, loss=float(step))
    second = MetricLog(written.append, experiment="e", run="r", earlier=written[-1])
    for step in (2, 3, 4):
        second.log(step, loss=10.0 + step)
    second.close()
    rows = [json.loads(line) for line in written[-1].splitlines()]
    assert [(row["step"], row["loss"]) for row in rows] == [
        (0, 0),
        (1, 1),
        (2, 12),
        (3, 13),
        (4, 14),
    ]


class Tracked:
    """Stands in for MLflow's client."""

    def __init__(self, away: bool = False) -> None:
        self.requests: list[list[Any]] = []
        self.away = away
        self.ended = False

    def log_batch(self, run_id: str, metrics: list[Any]) -> None:
        if self.away:
            raise ConnectionError("away")
        self.requests.append(metrics)

    def set_terminated(self, run_id: str) -> None:
        self.ended = True


def test_mlflow_has_every_value_at_its_step_and_few_requests(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    client = Tracked()
    monkeypatch.setattr(metrics, "_start_mlflow", lambda *_: (client, "id"))
    curve = MetricLog(lambda data: None, experiment="e", run="r", every_s=3600.0)
    for step in range(600):
        curve.log(step, loss=step / 2, gap=math.nan if step else 1.0, lr=0.1)
    assert client.requests == []
    curve.close()
    # MLflow takes no more than a thousand.
    assert [len(values) for values in client.requests] == [
        1000,
        201,
    ]
    values = [(v.key, v.step, v.value, v.timestamp) for request in client.requests for v in request]
    assert [v[1:3] for v in values if v[0] == "loss"] == [(step, step / 2) for step in range(600)]
    assert [v[3] for v in values if v[0] == "lr"] == [
        round(row["time"] * 1000) for row in curve.rows
    ]
    assert [v[1] for v in values if v[0] == "gap"] == [0]
    assert client.ended


def test_an_mlflow_that_goes_away_stops_no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "_start_mlflow", lambda *_: (Tracked(away=True), "id"))
    written: list[bytes] = []
    curve = MetricLog(written.append, experiment="e", run="r", every_s=0.0)
    for step in range(3):
        curve.log(step, loss=1.0)
    curve.close()
    assert len(written[-1].splitlines()) == 3
