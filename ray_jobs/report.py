"""Stage ``report``: one JSON and one page of a whole run; in this process, no torch, no Ray.

Reads ``dataset``, ``description``, ``calibration`` and ``generation``, and the runs behind them:
their seconds and their training curves. ``runs`` (optional) is the URI of a JSON with the seconds
of each stage, which counts before the commits' own.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from boig_core.cluster.stage import run_stage
from boig_core.errors import CorruptError
from boig_core.evaluation.report.lineage import trace
from boig_core.evaluation.report.page import render
from boig_core.evaluation.report.report_json import REPORT_FILE, build_report
from boig_core.evaluation.report.verdict import findings, headline
from boig_core.observability.logs import get_logger
from boig_core.rewards.calibration import read_calibration
from boig_core.storage import manifest, store
from boig_core.storage.job import Stage
from boig_core.storage.stage import Outcome, Workspace

log = get_logger(__name__)
_EVIDENCE = ("dataset", "description", "calibration", "generation")


def work(space: Workspace) -> Outcome:
    """Gather, check, render, publish."""
    started = time.monotonic()
    recipe, job = space.recipe, space.job
    folders = {
        name: space.fetch(name, name)[0] for name in ("description", "calibration", "generation")
    }
    description, generation = (
        read_json(folders[name] / f"{name}.json") for name in ("description", "generation")
    )
    calibration = read_calibration(folders["calibration"]).model_dump(mode="json")
    steps = trace(job.input(name) for name in _EVIDENCE)
    seconds = {stage: step.seconds for stage, step in steps.items()} | read_runs(
        job.inputs.get("runs")
    )
    # Taken here, before the page is made: the number stands on it.
    seconds[Stage.REPORT.value] = round(time.monotonic() - started, 3)
    report = build_report(
        dataset=manifest.read_manifest(job.input("dataset"), kind="dataset").meta,
        description=description,
        calibration=calibration,
        generation=generation,
        seconds={stage: s for stage, s in seconds.items() if s is not None},
        recipe=recipe,
    )
    out = space.scratch / "report"
    out.mkdir()
    (out / REPORT_FILE).write_text(json.dumps(report, indent=1, allow_nan=False), encoding="utf-8")
    page = render(report, generation, folders["generation"], steps, recipe, recipe.data.name)
    (out / "report.html").write_text(page, encoding="utf-8")
    verdict = headline(findings(report, recipe.promotion))
    log.info("%s", verdict)
    return Outcome({"report": space.publish("reports", out, kind="report")}, {"verdict": verdict})


def read_json(path: Path) -> dict[str, Any]:
    """Content of a fetched JSON file.

    Raises:
        CorruptError: it is missing or no JSON object.
    """
    try:
        tree = json.loads(path.read_bytes())
    except (OSError, ValueError) as exc:
        raise CorruptError(
            path.name, "cannot be read", "run the stage that writes it again"
        ) from exc
    if not isinstance(tree, dict):
        raise CorruptError(path.name, "must be a JSON object", "run the stage that writes it again")
    return tree


def read_runs(uri: str | None) -> dict[str, float]:
    """Seconds by stage, where a file of them was given."""
    known = {stage.value for stage in Stage}
    tree = json.loads(store.read_bytes(uri)) if uri else {}
    return {
        stage: float(seconds)
        for stage, seconds in tree.items()
        if stage in known and seconds is not None
    }


if __name__ == "__main__":
    sys.exit(run_stage(work))
