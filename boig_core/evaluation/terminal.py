"""A report or a comparison as tables in a terminal: the numbers of its page, for `boig report` and the end of a demo; a calibration as log
lines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from boig_core.config import Promotion
from boig_core.evaluation import comparison as comparisons
from boig_core.evaluation.verdict import findings, headline
from boig_core.rewards.calibration import Calibration, passes

_MARKS: Final = {"good": "[green]✓[/]", "bad": "[red]✗[/]", "unknown": "[dim]·[/]"}
_VALIDITY: Final = {
    "AUC high / low": "auc_high_vs_low", "Pearson": "pearson", "Spearman": "spearman", "with length": "length_correlation", "n": "n",
}  # fmt: skip
_MEASURES: Final = ("reward", "judge", "clip", "clip_margin", "kid", "fid", "diversity", "diversity_across", "novelty", "named", "n")


def print_report(report: Mapping[str, Any], console: Console, promotion: Promotion | None = None) -> None:
    """Print verdict, generators, reward validity and description metrics.

    Args:
        report: content of ``report.json``, checked.
        console: where to.
        promotion: limits that the verdict is held against; none: the defaults.
    """
    found = findings(report, promotion or Promotion())
    console.print(f"\n[bold]{headline(found)}[/]")
    for one in found:
        console.print(f"  {_MARKS[one.state]} {one.title}: [bold]{one.value}[/] [dim]{one.detail}[/]")
    generators = _table("Generators", ("model", *_MEASURES))
    for model, row in report["generation"].items():
        generators.add_row(model, *(["–"] * len(_MEASURES) if row is None else [_show(row.get(name)) for name in _MEASURES]))
    console.print(generators)
    validity = _table("Reward on real test images", ("reward", *_VALIDITY, "gate"))
    for name, row in report["reward_validity"].items():
        validity.add_row(name, *(_show(row[key]) for key in _VALIDITY.values()), "passes" if row["passes"] else "blocked")
    console.print(validity)
    described = _table("Descriptions: colors IOU", ("model", "high", "low", "all"))
    for model, row in report["description"].items():
        described.add_row(model, *([_show(row["colors_iou"][key]) for key in ("high", "low", "all")] if row else ["–"] * 3))
    console.print(described)
    spent = sum(seconds for seconds in report["timings"].values() if seconds)
    console.print(f"[dim]– was not measured: {len(report['absent'])} reasons under absent in report.json · stages took {spent:.0f} s[/]")


def print_comparison(comparison: Mapping[str, Any], console: Console) -> None:
    """Print the verdict, what failed, and each variant with its differences, those from the reference for all its seeds together."""
    console.print(f"\n[bold]{comparisons.headline(comparison)}[/]")
    for name, reason in comparison["failed"].items():
        console.print(f"  [red]✗[/] {name}: {reason}", highlight=False)
    reference, measures = comparison["reference"], comparisons.MEASURES
    against = _table(f"Minus {reference} (same prompts and noise, 95 % intervals over prompts)", ("variant", "seeds", *measures))
    for name, row in comparison["groups"].items():
        if row["over_reference"] is not None:
            against.add_row(name, str(len(row["variants"])), *(_span(row["over_reference"][measure]) for measure in measures))
    console.print(against)
    each = _table("Minus the base model", ("variant", "seed", *measures, "GPU-hours", "seconds", "monitors"))
    for name, row in comparison["variants"].items():
        cost, tripped = row["cost"], "not known" if row["monitors"] is None else ", ".join(row["monitors"]) or "none"
        gains = [_span(row["over_base"][measure]) for measure in measures]
        each.add_row(name, _show(row["seed"]), *gains, _show(cost["gpu_hours"]), f"{cost['seconds']:.0f}", tripped)
    console.print(each)


def validity_lines(calibration: Calibration, min_auc: float | None) -> Iterator[str]:
    """Lines of one table, a formulation a line: AUCs with their 95 % intervals on both splits, the rest on the test split, the verdict."""
    yield f"{'reward':<24}{'AUC, validation':>22}{'AUC, test':>22}{'Pearson':>9}{'Spearman':>10}{'length':>8}  gate"
    for name, row in calibration.splits["test"].items():
        aucs = ""
        for measured in (calibration.splits["validation"][name], row):
            span = measured["auc_interval"]
            aucs += f"{_show(measured['auc_high_vs_low']) + (f' [{span[0]:.3f}, {span[1]:.3f}]' if span else ''):>22}"
        numbers = f"{_show(row['pearson']):>9}{_show(row['spearman']):>10}{_show(row['length_correlation']):>8}"
        marks = {"chosen": name == calibration.reward, "recommended": name == calibration.recommended}
        verdict = ["passes" if passes(row, min_auc) else "blocked", *(mark for mark, on in marks.items() if on)]
        yield f"{name:<24}{aucs}{numbers}  {', '.join(verdict)}"


def _table(title: str, columns: tuple[str, ...]) -> Table:
    table = Table(title=title, title_justify="left", header_style="bold", box=None, pad_edge=False)
    for index, name in enumerate(columns):
        table.add_column(name, justify="left" if index == 0 else "right")
    return table


def _span(row: Mapping[str, Any] | None) -> str:
    return "–" if row is None else f"{row['mean']:+.3f} ({row['low']:+.3f}, {row['high']:+.3f})"


def _show(value: float | int | None) -> str:
    if value is None:
        return "–"
    return str(value) if isinstance(value, int) else f"{value:.3f}"
