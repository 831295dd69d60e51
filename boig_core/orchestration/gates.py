"""Gates: what a candidate must show before a person is asked. Pure functions of report.json and the recipe's limits.

Leaves out: reading the files and asking (see `promotion`). A number that is missing fails its gate: no evidence, no promotion.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from boig_core.config import Promotion

CANDIDATE = "boigsd"
BASE = "base"


@dataclass(frozen=True)
class Gate:
    """One gate.

    Attributes:
        name: what is asked.
        value: what was measured; None: absent.
        limit: what the value must exceed (or reach, for shares).
        passed: the verdict.
    """

    name: str
    value: float | None
    limit: float
    passed: bool


def evaluate_gates(report: Mapping[str, Any], promotion: Promotion) -> list[Gate]:
    """Evaluate every gate of a recipe.

    Args:
        report: content of report.json; ``paired`` holds differences on the same prompts and seeds, with intervals.
        promotion: the limits.
    """
    gates = [_above("reward gain, lower end", lower_end(report, "reward"), promotion.min_reward_gain)]
    if promotion.min_judge_gain is not None:
        gates.append(_above("judge gain, lower end", lower_end(report, "judge"), promotion.min_judge_gain))
    gates.append(_reaches("CLIP margin kept", share_of_base(report, "clip_margin"), promotion.min_clip_margin))
    gates.append(_reaches("diversity kept", share_of_base(report, "diversity"), promotion.min_diversity))
    return gates


def lower_end(report: Mapping[str, Any], measure: str) -> float | None:
    """Lower end of the 95 % interval of candidate minus base; None when it was not measured."""
    row = ((report.get("paired") or {}).get(f"{CANDIDATE}-{BASE}") or {}).get(measure) or {}
    return _finite(row.get("low"))


def share_of_base(report: Mapping[str, Any], measure: str) -> float | None:
    """The candidate's value as a share of the base's; None when either is missing or the base's is not positive."""
    rows = report.get("generation") or {}
    candidate, base = (_finite((rows.get(model) or {}).get(measure)) for model in (CANDIDATE, BASE))
    return candidate / base if candidate is not None and base is not None and base > 0 else None


def table(gates: list[Gate]) -> str:
    """The gates as a Markdown table, for the approval form."""
    rows = []
    for gate in gates:
        value = "absent" if gate.value is None else f"{gate.value:.4g}"
        rows.append(f"| {gate.name} | {value} | {gate.limit:.4g} | {'yes' if gate.passed else '**no**'} |")
    return "\n".join(["| gate | value | limit | passed |", "|---|---:|---:|---|", *rows])


def _above(name: str, value: float | None, limit: float) -> Gate:
    return Gate(name, value, limit, value is not None and value > limit)


def _reaches(name: str, value: float | None, limit: float) -> Gate:
    return Gate(name, value, limit, limit <= 0 or (value is not None and value >= limit))


def _finite(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None
