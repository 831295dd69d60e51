"""Stage ``compare``: variants of an alignment side by side, one JSON and one page; in this process,
no torch, no Ray.

Each input is the ``generation`` of one variant, under the variant's name; the first is what the
others are held against. ``experiment`` (optional) is the URI of a JSON with the variants' order and
why those that are missing failed. What trained a variant, and what that used, is found by the
lineage of its model. Publishes ``report``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any, Final

from boig_core.cluster.stage import run_stage
from boig_core.errors import CorruptError, InputError
from boig_core.evaluation.compare.comparison import COMPARISON_FILE, Variant, compare, headline
from boig_core.evaluation.measure.image_rows import GENERATION_FILE, read_images
from boig_core.evaluation.report.comparison_page import VariantImages, render_comparison
from boig_core.evaluation.report.lineage import LineageStep, trace
from boig_core.observability.logs import get_logger
from boig_core.storage import commit, runs, store
from boig_core.storage.job import Job, Stage
from boig_core.storage.stage import Outcome, Workspace

log = get_logger(__name__)
EXPERIMENT: Final = "experiment"
_OWN: Final = (Stage.FINETUNE_LLM, Stage.CALIBRATE, Stage.DDPO, Stage.EVALUATE_SD)
"""Stages that a variant is charged for, where they ran for it."""


def work(space: Workspace) -> Outcome:
    """Read the evaluations, compare, render, publish."""
    experiment = read_experiment(space.job)
    # A variant that failed has no evaluation; `failed` says why.
    names = [name for name in experiment["variants"] if name in space.job.inputs]
    if not names:
        raise InputError(
            "inputs",
            "name no evaluation",
            "give each variant's generation under its name: --input plain=URI",
        )
    opened = {name: open_variant(space, name) for name in names}
    variants = [variant for variant, _ in opened.values()]
    settings = space.recipe.evaluation
    comparison = compare(
        variants, experiment["failed"], resamples=settings.bootstrap, seed=space.recipe.seed
    )
    out = space.scratch / "comparison"
    out.mkdir()
    (out / COMPARISON_FILE).write_text(
        json.dumps(comparison, indent=1, allow_nan=False), encoding="utf-8"
    )
    page = render_comparison(
        comparison, [shown for _, shown in opened.values()], space.recipe.data.name
    )
    (out / "report.html").write_text(page, encoding="utf-8")
    verdict = headline(comparison)
    log.info("%s", verdict)
    return Outcome(
        {"report": space.publish("evaluations/comparison", out, kind="comparison")},
        {"verdict": verdict},
    )


def read_experiment(job: Job) -> dict[str, Any]:
    """``variants``, the names in their order, and ``failed``, reasons by name."""
    if EXPERIMENT in job.inputs:
        return dict(json.loads(store.read_bytes(job.input(EXPERIMENT))))
    return {"variants": list(job.inputs), "failed": {}}


def open_variant(space: Workspace, name: str) -> tuple[Variant, VariantImages]:
    """A variant's evaluation, what its model was trained by, and where its pictures lie."""
    folder, published = space.fetch(name, "generation")
    try:
        generation = json.loads((folder / GENERATION_FILE).read_bytes())
        settings = dict(generation["settings"])
    except (OSError, ValueError, KeyError) as exc:
        raise CorruptError(
            GENERATION_FILE, f"cannot be read ({exc})", "run evaluate_sd again"
        ) from exc
    # By way of the model alone: the evaluation has read the high-KPI baseline and perhaps a
    # champion, too, whose trainings are not this variant's.
    evaluated = trace([space.job.input(name)]).get(Stage.EVALUATE_SD)
    trained = trace([evaluated.job.input("boigsd")]) if evaluated else {}
    ddpo = trained.get(Stage.DDPO)
    steps = {**trained, **({Stage.EVALUATE_SD.value: evaluated} if evaluated else {})}
    variant = Variant(
        name=name,
        settings=settings,
        inputs=published.lineage.inputs,
        boigsd=read_images(folder, "boigsd"),
        base=read_images(folder, "base"),
        recipe=ddpo.job.recipe if ddpo else None,
        monitors=monitors_of(ddpo) if ddpo else None,
        cost=spent(steps),
    )
    return variant, VariantImages(name, folder, generation)


def monitors_of(ddpo: LineageStep) -> Mapping[str, str] | None:
    """Monitors that tripped in a training, by its commit."""
    done = commit.read_commit(ddpo.job.attempt_uri) or {}
    monitors: Mapping[str, str] | None = done.get("metrics", {}).get("monitors")
    return monitors


def spent(steps: Mapping[str, LineageStep]) -> dict[str, Any]:
    """What the stages of a variant have used, failed attempts too; those that other runs had made
    before do not count."""
    jobs = [steps[stage].job for stage in _OWN if stage in steps]
    # The runs that trained and evaluated this variant. Its BoigLLM may come from another run, where
    # it was paid for.
    own = {_run(job) for job in jobs if job.stage in {Stage.DDPO, Stage.EVALUATE_SD}}
    states = []
    for job in jobs:
        run = _run(job)
        task = job.task.removeprefix(store.join(job.store, "runs", run)).strip("/")
        states += [
            state for state in runs.run_state(job.store, run) if run in own and state.task == task
        ]
    return runs.summarize(" and ".join(sorted(own)), states)


def _run(job: Job) -> str:
    """``DAG/RUN`` of a job."""
    return "/".join(job.task.removeprefix(store.join(job.store, "runs")).strip("/").split("/")[:2])


if __name__ == "__main__":
    sys.exit(run_stage(work))
