"""``report.html``: one page that a team lead understands in a minute; everything inline, nothing is
fetched.

Numbers come from ``report.json`` alone; images and curves are shown beside them. Leaves out:
deciding anything (see `verdict`).
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from boig_core.config import Recipe
from boig_core.errors import CorruptError
from boig_core.evaluation.report.lineage import LineageStep
from boig_core.evaluation.report.paper_figures import PUBLISHED
from boig_core.evaluation.report.plots import Series, line_chart, reliability, whiskers
from boig_core.evaluation.report.verdict import findings, headline

if TYPE_CHECKING:
    from jinja2 import Environment

_SHOWN: Final = 6
"""Prompts whose images are shown at once; the others are folded away."""
_MOST: Final = 24
"""Prompts whose images are in the page at all."""
_ACCOUNTS: Final = 40
"""Accounts whose numbers are in the page; ``report.json`` has them all."""
MODEL_NAMES: Final = {
    "base": "Base",
    "high_kpi": "High-KPI fine-tune",
    "boigsd": "BoigSD",
    "champion": "Champion",
    "best_of_n": "Base, best of N",
    "boigsd_best_of_n": "BoigSD, best of N",
    "prompt_rewrite": "Base, retrieved words",
    "boigsd_prompt_rewrite": "BoigSD, retrieved words",
    "description_rewrite": "Base, BoigLLM's words",
    "boigsd_description_rewrite": "BoigSD, BoigLLM's words",
    "base_unguided": "Base, no guidance",
    "boigsd_unguided": "BoigSD, no guidance",
    "boigllm": "BoigLLM",
    "no_kpi": "Without KPI",
    "retrieval": "Retrieval",
    "few_shot": "Few-shot LLM",
    "most_frequent": "Most frequent",
}
_TITLES: Final = {
    "colors_iou": "Colors IOU ↑",
    "colors_cosine": "Colors cosine ↑",
    "colors_rgb_distance": "Colors RGB distance ↓",
    "colors_coverage_rmse": "Colors RMSE ↓",
    "tones_coverage_rmse": "Tones RMSE ↓",
    "objects_iou": "Objects IOU ↑",
    "objects_cosine": "Objects cosine ↑",
    "objects_area_rmse": "Objects area RMSE ↓",
    "objects_position_error": "Objects position error ↓",
}
_GROUPS: Final = (
    ("Prompts as they are, every image kept", ("base", "high_kpi", "champion", "boigsd")),
    (
        "Several images sampled, the one with the highest reward kept",
        ("best_of_n", "boigsd_best_of_n"),
    ),
    (
        "Words of a similar high-KPI post after the prompt",
        ("prompt_rewrite", "boigsd_prompt_rewrite"),
    ),
    (
        "BoigLLM's description of a high-KPI image after the prompt",
        ("description_rewrite", "boigsd_description_rewrite"),
    ),
    ("Without guidance: half of the UNet passes", ("base_unguided", "boigsd_unguided")),
)
_ADDED: Final = (
    ("boigsd-base", "the base"),
    ("boigsd-high_kpi", "high-KPI fine-tuning"),
    ("boigsd-champion", "the champion"),
    ("boigsd-best_of_n", "the base's best of N: as many images sampled, and all of BoigSD's kept"),
    ("boigsd_best_of_n-best_of_n", "the base's best of N, with BoigSD's best of N"),
    ("boigsd_prompt_rewrite-prompt_rewrite", "retrieved words"),
    ("boigsd_description_rewrite-description_rewrite", "BoigLLM's words"),
    ("boigsd_unguided-base_unguided", "the base, both without guidance"),
)
"""Pairs that say what BoigSD adds, and to what."""
_COMPARED: Final = ("colors_iou", "objects_iou", "tones_coverage_rmse")
"""Metrics whose differences from BoigLLM's are drawn."""
# Stage, title, unit of y, metrics to draw: those of these names that were logged.
_CURVES: Final = (
    ("ddpo", "BoigSD: reward while it is aligned", "reward, by epoch", ("reward",)),
    (
        "finetune_llm",
        "BoigLLM: training loss",
        "nats per token, by step",
        ("loss", "boigllm_loss", "no_kpi_loss", "loss_boigllm", "loss_no_kpi"),
    ),
    ("finetune_sd", "High-KPI fine-tune: training loss", "weighted error, by step", ("loss",)),
)


@dataclass(frozen=True)
class Curve:
    """A chart of one stage: its title, what the axes are, and the SVG."""

    title: str
    axes: str
    svg: str


def render(
    report: Mapping[str, Any],
    generation: Mapping[str, Any],
    grids: Path,
    steps: Mapping[str, LineageStep],
    recipe: Recipe,
    dataset: str,
) -> str:
    """The page.

    Args:
        report: content of ``report.json``.
        generation: content of ``generation.json``: prompts and the order of the grids' rows.
        grids: folder that the grids' paths are relative to.
        steps: runs behind the report, by stage.
        recipe: of the run.
        dataset: its name.
    """
    answers = findings(report, recipe.promotion)
    templates = environment()
    # Names depend on the recipe, which says how many examples or images stand behind a row.
    templates.filters["model"] = lambda name: _model_name(name, recipe)
    return templates.get_template("report.html.j2").render(
        report=report,
        recipe=recipe,
        dataset=dataset,
        findings=answers,
        headline=headline(answers),
        state="good" if all(answer.state != "bad" for answer in answers[:4]) else "bad",
        prompts=[
            {**prompt, "image": _data_uri(grid_file(grids, prompt["grid"]))}
            for prompt in spread(generation["prompts"], _MOST)
        ],
        shown=_SHOWN,
        rows=generation["grid_rows"],
        settings=generation["settings"],
        cut=generation.get("cut", {}),
        floors=generation["floors"],
        groups=_groups(report),
        added=[
            (_numbered(name, recipe), report["paired"][pair])
            for pair, name in _ADDED
            if pair in report["paired"]
        ],
        by_accounts=_largest(report["by"]["account"], "prompts"),
        gains=[
            (measure, whiskers(_gains(report, measure)))
            for measure in ("reward", "judge", "clip_margin")
        ],
        comparisons=_comparisons(report, recipe),
        reliability=_reliability(report),
        accounts=_largest(report["reward_validity"][report["reward"]["name"]]["accounts"], "n"),
        curves=_curves(steps),
        titles=_TITLES,
        models=[name for name, row in report["description"].items() if row is not None],
        published=PUBLISHED,
        steps=steps,
        # Bars are shares of the slowest stage; one second stands in where no time is known.
        slowest=max([seconds for seconds in report["timings"].values() if seconds] or [1.0]),
    )


def _largest(
    accounts: Mapping[str, Mapping[str, Any]], size: str
) -> list[tuple[str, Mapping[str, Any]]]:
    """The accounts that a page has room for, with their rows."""
    return sorted(accounts.items(), key=lambda part: -part[1][size])[:_ACCOUNTS]


def environment() -> Environment:
    """Templates of the pages; what they do not know is an error."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    templates = Environment(
        loader=PackageLoader("boig_core.evaluation.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    templates.filters |= {"number": _number, "percent": lambda x: f"{x:.0%}"}
    return templates


def _groups(report: Mapping[str, Any]) -> list[tuple[str, dict[str, Mapping[str, Any]]]]:
    """Rows of the generators that were measured, by what they have in common."""
    rows = report["generation"]
    groups = [
        (title, {model: rows[model] for model in models if rows.get(model)})
        for title, models in _GROUPS
    ]
    return [(title, lines) for title, lines in groups if lines]


def _gains(report: Mapping[str, Any], measure: str) -> list[tuple[str, Mapping[str, Any]]]:
    """Differences from the base, by the model's name; those without guidance have a base of their
    own."""
    pairs = [
        (model.removesuffix("-base"), rows.get(measure))
        for model, rows in report["paired"].items()
        if model.endswith("-base")
    ]
    return [
        (MODEL_NAMES.get(model, model), row)
        for model, row in pairs
        if row and not model.endswith("_unguided")
    ]


def _comparisons(report: Mapping[str, Any], recipe: Recipe) -> list[tuple[str, str]]:
    """Charts of BoigLLM minus each other describer, on high and on low posts."""
    charts = []
    for metric in _COMPARED:
        rows = []
        for pair, differences in report["paired"].items():
            candidate, _, base = pair.partition("-")
            if candidate == "boigllm":
                spans = differences.get(metric) or {}
                rows += [
                    (f"{_model_name(base, recipe)}, {bucket}", spans[bucket])
                    for bucket in ("high", "low")
                    if bucket in spans
                ]
        if rows:
            charts.append((f"{_TITLES[metric][:-2]}: BoigLLM minus …", whiskers(rows, digits=3)))
    return charts


def _model_name(name: str, recipe: Recipe) -> str:
    """Name that the page shows: with the number of examples where one was shown any, and of images
    of which the best is kept."""
    asked, settings = re.fullmatch(r"few_shot(?:_(\d+))?", name), recipe.evaluation.few_shot
    if asked and settings:
        return f"Few-shot, {asked[1] or max(settings.shots)} examples"
    return _numbered(MODEL_NAMES.get(name, name), recipe)


def _numbered(words: str, recipe: Recipe) -> str:
    return words.replace("best of N", f"best of {recipe.evaluation.best_of_n or 'N'}")


def _reliability(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Name and chart of each formulation: the one that is optimized, the recommended one, the
    others."""
    # A recommendation may be missing, or be the same as the reward: then it is shown once.
    first = [name for name in (report["reward"]["name"], report["reward"]["recommended"]) if name]
    names = dict.fromkeys([*first, *report["reward_validity"]])
    return [(name, reliability(report["reward_validity"][name]["reliability"])) for name in names]


def _curves(steps: Mapping[str, LineageStep]) -> list[Curve]:
    charts = []
    for stage, title, axes, names in _CURVES:
        rows = steps[stage].metrics() if stage in steps else []
        lines = []
        for name in names:
            points = sorted((row["step"], row[name]) for row in rows if row.get(name) is not None)
            # A line needs two points, and a metric may have been logged once.
            if len(points) > 1:
                lines.append(Series(name, [x for x, _ in points], [y for _, y in points]))
        if lines:
            charts.append(Curve(title, axes, line_chart(lines)))
    return charts


def spread(items: Sequence[Any], most: int) -> list[Any]:
    """At most so many of the items, evenly over all."""
    return (
        [items[i * len(items) // most] for i in range(most)] if len(items) > most else list(items)
    )


def grid_file(folder: Path, path: str) -> Path:
    """A grid of images of an evaluation.

    Args:
        folder: the fetched evaluation.
        path: as its ``generation.json`` has it.

    Raises:
        CorruptError: the path leads out of the folder.
    """
    file = (folder / path).resolve()
    # Another file of this machine would end in a page that people send around.
    if not file.is_relative_to(folder.resolve()):
        raise CorruptError(f"grid {path!r}", "lies outside its evaluation", "run evaluate_sd again")
    return file


def _data_uri(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()


def _number(value: Any, digits: int = 3) -> str:
    if value is None:
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:.{digits}f}"
