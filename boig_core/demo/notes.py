"""What a view says of a stage beside its state: how far it is while it runs, what came out when it
is done.

Progress is the newest line of it in the attempt's kept log, which is read with a cursor: a look
costs one listing and one request. Leaves out: layout (see `view`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from boig_core.observability.progress import goes_on, newest_lines
from boig_core.storage import commit, runs

_SPENT: Final = {"attempt", "seconds", "gpu_hours", "cost"}
"""What every commit says of what it has used; no result."""


class StageNotes:
    """Notes of one task of a run.

    Args:
        task: URI of its folder in the store.
        stage: its name.
    """

    def __init__(self, task: str, stage: str) -> None:
        self._task, self._stage = task, stage
        self._attempt, self._cursor = "", ""
        self._lines: dict[str, str] = {}

    def progress(self) -> list[str]:
        """The newest line of everything that is under way; else the newest of all; none before the
        first."""
        numbers = commit.attempts(self._task)
        if not numbers:
            return []
        attempt = commit.attempt_uri(self._task, numbers[-1])
        if attempt != self._attempt:
            self._attempt, self._cursor, self._lines = attempt, "", {}
        for name, text in runs.read_log(attempt, self._cursor):
            self._cursor = name
            for subject, line in newest_lines(text).items():
                # Taken out first, so that the newest line is the last one.
                self._lines.pop(subject, None)
                self._lines[subject] = line
        under_way = [line for line in self._lines.values() if goes_on(line)]
        return under_way or list(self._lines.values())[-1:]

    def result(self) -> list[str]:
        """What came out, from the newest attempt's commit."""
        numbers = commit.attempts(self._task)
        done = commit.read_commit(commit.attempt_uri(self._task, numbers[-1])) if numbers else None
        line = closing_line(self._stage, (done or {}).get("metrics") or {})
        return [line] if line else []


def closing_line(stage: str, metrics: Mapping[str, Any]) -> str:
    """The numbers that matter of a finished stage; empty where it has none."""
    try:
        return _CLOSING.get(stage, _numbers)(metrics)
    except (
        KeyError,
        TypeError,
        ValueError,
    ):  # metrics of another version: the demo goes on without the line
        return _numbers(metrics)


def _numbers(metrics: Mapping[str, Any], most: int = 4) -> str:
    plain = {
        k: v for k, v in metrics.items() if isinstance(v, (int, float)) and not isinstance(v, bool)
    }
    shown = [f"{name} {value:.4g}" for name, value in plain.items() if name not in _SPENT]
    return " · ".join(shown[:most])


def _ingested(metrics: Mapping[str, Any]) -> str:
    rejected = f" · {metrics['rejected']} rejected" if metrics["rejected"] else ""
    return f"{metrics['samples']} samples of {metrics['posts']} posts{rejected}"


def _perceived(metrics: Mapping[str, Any]) -> str:
    known = metrics["images"] - metrics["described"]
    return f"{metrics['images']} images described" + (f" · {known} known before" if known else "")


def _trained_llm(metrics: Mapping[str, Any]) -> str:
    models = {
        name: row
        for name, row in metrics.items()
        if isinstance(row, Mapping) and "best_val_loss" in row
    }
    return "validation loss " + " · ".join(
        f"{name} {row['best_val_loss']:.3f}" for name, row in models.items()
    )


def _described(metrics: Mapping[str, Any]) -> str:
    gain = metrics["colors_iou"]["boigllm-no_kpi"]["high"]["mean"]
    return f"colors IOU {gain:+.3f} over no_kpi · {metrics['parse_rate']['boigllm']:.0%} parsed"


def _calibrated(metrics: Mapping[str, Any]) -> str:
    auc, span = metrics["auc_test"], metrics["auc_test_interval"]
    interval = f" ({span[0]:.2f} to {span[1]:.2f})" if span else ""
    verdict = "passes" if metrics["passes"] else "blocked"
    return f"{metrics['reward']}: {verdict} · AUC {auc:.2f}{interval}"


def _trained_sd(metrics: Mapping[str, Any]) -> str:
    return f"loss {metrics['loss']:.4g} after {metrics['steps']} steps"


def _aligned(metrics: Mapping[str, Any]) -> str:
    first, last, epochs = metrics["reward_first"], metrics["reward_last"], metrics["epochs"]
    tripped = f" · tripped: {', '.join(metrics['monitors'])}" if metrics.get("monitors") else ""
    return f"reward {first:.3f} to {last:.3f} in {epochs} epochs{tripped}"


def _evaluated(metrics: Mapping[str, Any]) -> str:
    measured = {
        name: (metrics.get(f"boigsd_{name}"), metrics.get(f"base_{name}"))
        for name in ("reward", "judge")
    }
    return " · ".join(
        f"{name} {ours:.3f} (base {base:.3f})"
        for name, (ours, base) in measured.items()
        if ours is not None and base is not None
    )


def _reported(metrics: Mapping[str, Any]) -> str:
    return "its verdict stands below" if metrics.get("verdict") else ""


_CLOSING: Final[Mapping[str, Callable[[Mapping[str, Any]], str]]] = {
    "ingest": _ingested,
    "perceive": _perceived,
    "finetune_llm": _trained_llm,
    "evaluate_llm": _described,
    "calibrate": _calibrated,
    "finetune_sd": _trained_sd,
    "ddpo": _aligned,
    "evaluate_sd": _evaluated,
    "report": _reported,
}
