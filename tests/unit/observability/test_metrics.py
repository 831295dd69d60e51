"""Metric rows: a process that goes on where a lost one was keeps its rows, but for steps that are made again."""

import json

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
    assert [(row["step"], row["loss"]) for row in rows] == [(0, 0), (1, 1), (2, 12), (3, 13), (4, 14)]
