"""Real Ray: what a training worker sets is what Prometheus would scrape from the agent of its
node."""

import time
import urllib.request
from typing import Final

import pytest
import ray

from boig_core.cluster.gauges import Gauges

PATIENCE_S: Final = 120.0


@pytest.fixture
def metrics_url(ray_cluster: None) -> str:
    [node] = ray.nodes()
    return f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"


@ray.remote
class Worker:
    def __init__(self) -> None:
        self.gauges = Gauges("ddpo", "run-a1")

    def set(self, values: dict[str, float]) -> None:
        self.gauges.set(values)


def scrape(url: str, *, until: str) -> list[str]:
    """The gauges of this test's run, once one is named ``until``; the agent exports by itself, a
    moment after they were set."""
    ended, gauges = time.monotonic() + PATIENCE_S, list[str]()
    while not any(line.startswith(f"ray_boig_{until}{{") for line in gauges):
        assert time.monotonic() < ended, f"no {until} in:\n{gauges}"
        time.sleep(0.2)
        try:
            with urllib.request.urlopen(url, timeout=300) as answer:
                lines = answer.read().decode().splitlines()
        except OSError:
            continue  # the agent is still starting
        gauges = [line for line in lines if line.startswith("ray_boig_") and 'run="run-a1"' in line]
    return gauges


def test_the_newest_row_is_exported_with_stage_and_run(metrics_url: str) -> None:
    worker = Worker.remote()
    ray.get(worker.set.remote({"reward": 0.5, "probe_reward": 0.25, "broken": float("nan")}))
    scrape(metrics_url, until="probe_reward")
    ray.get(worker.set.remote({"reward": 0.75, "epoch": 1}))
    lines = scrape(metrics_url, until="epoch")
    values = {line.partition("{")[0]: float(line.rpartition(" ")[2]) for line in lines}
    assert values == {"ray_boig_reward": 0.75, "ray_boig_probe_reward": 0.25, "ray_boig_epoch": 1.0}
    assert all('stage="ddpo"' in line for line in lines)
