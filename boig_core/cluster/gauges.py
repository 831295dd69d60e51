"""A run's newest numbers for Prometheus: gauges that Ray's agent on each node exports beside Ray's
own, where Prometheus scrapes it.

Leaves out: history, which ``metrics.jsonl`` and MLflow keep, and the dashboards. A series ends with
the process that set it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from ray.util.metrics import Gauge


class Gauges:
    """Gauges ``ray_boig_NAME{stage, run}``, one per name; a name that a row lacks keeps its last
    value. Ray must be connected.

    Args:
        stage: that the numbers are of.
        run: version of its outputs: tells attempts apart.
    """

    def __init__(self, stage: str, run: str) -> None:
        self._tags = {"stage": stage, "run": run}
        self._gauges: dict[str, Gauge] = {}

    def set(self, values: Mapping[str, float]) -> None:
        """Take over a row; what is not finite is left out."""
        for name, value in values.items():
            if math.isfinite(value):
                if name not in self._gauges:
                    self._gauges[name] = Gauge(
                        f"boig_{name}", f"Newest {name} of a stage.", ("stage", "run")
                    )
                self._gauges[name].set(value, self._tags)
