"""A report, a comparison or description metrics as tables in a terminal: the numbers of their
pages, for `boig report` and the end of a demo; a calibration as log lines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from rich.console import Console
from rich.text import Text

from boig_core.config import Promotion
from boig_core.evaluation.compare import comparison as comparisons
from boig_core.evaluation.report.verdict import findings, headline
from boig_core.observability.tables import NOT_MEASURED, broken, print_table, say
from boig_core.rewards.calibration import Calibration, passes

_MARKS: Final = {"good": ("✓", "green"), "bad": ("✗", "red"), "unknown": ("·", "dim")}
_VALIDITY: Final = {
    "AUC": "auc_high_vs_low", "Pearson": "pearson", "Spearman": "spearman", "with length": "length_correlation", "images": "n",
}  # fmt: skip
MEASURES: Final[Mapping[str, str]] = {
    "reward": "reward",
    "judge": "judge",
    "clip_margin": "CLIP margin",
    "diversity": "diversity",
    "clip": "CLIP",
    "kid": "KID",
    "fid": "FID",
    "aesthetic": "aesthetic",
    "diversity_across": "diversity across",
    "novelty": "novelty",
    "named": "named",
    "n": "images",
}
"""Measures of a generator by what a table calls them; those that decide come first."""
CLOSING: Final = ("reward", "judge", "clip_margin", "diversity")
_BUCKETS: Final = ("high", "medium", "low", "all")


def print_report(
    report: Mapping[str, Any], console: Console, promotion: Promotion | None = None
) -> None:
    """Print verdict, generators, reward validity and description metrics.

    Args:
        report: content of ``report.json``, checked.
        console: where to.
        promotion: limits that the verdict is held against; None: the defaults.
    """
    answers = findings(report, promotion or Promotion())
    console.print()
    say(console, headline(answers), style="bold")
    for answer in answers:
        mark, style = _MARKS[answer.state]
        # "98 % of the base's" reads on; everything else is set off by a comma.
        joint = "" if not answer.detail else " " if answer.detail.startswith("of ") else ", "
        print_marked(console, mark, style, f"{answer.title}: {answer.value}{joint}{answer.detail}")
    print_generators(report, console)
    validity = {
        name: [
            *(_show(row[key]) for key in _VALIDITY.values()),
            "passes" if row["passes"] else "blocked",
        ]
        for name, row in report["reward_validity"].items()
    }
    print_table(
        console,
        "Reward on real test images: does it tell high from low?",
        ("reward", *_VALIDITY, "gate"),
        validity,
    )
    described = {
        model: [None] * 5 if row is None else _by_bucket(row["colors_iou"])
        for model, row in report["description"].items()
    }
    reasons = {model: report["absent"].get(f"description.{model}", "") for model in described}
    print_table(
        console, "Descriptions: colors IOU", ("model", *_BUCKETS, "95 % of all"), described, reasons
    )
    spent = sum(seconds for seconds in report["timings"].values() if seconds)
    console.print(f"\nStages took {spent:.0f} s in all.", highlight=False)


def print_marked(console: Console, mark: str, style: str, text: str) -> None:
    """A line that begins with a mark; what does not fit goes on below, indented."""
    first, *rest = broken(text, console.width - 4)
    console.print(Text.assemble("  ", (mark, style), " ", first), soft_wrap=True)
    for line in rest:
        console.print(Text(f"    {line}"), soft_wrap=True)


def print_generators(
    report: Mapping[str, Any], console: Console, measures: Sequence[str] = tuple(MEASURES)
) -> None:
    """Print what each generator's images measure."""
    absent = report["absent"]
    rows = {
        model: [None] * len(measures)
        if row is None
        else [_show(row.get(name)) for name in measures]
        for model, row in report["generation"].items()
    }
    reasons = {model: absent.get(f"generation.{model}", "") for model in rows}
    reasons |= {MEASURES[name]: absent.get(f"generation.base.{name}", "") for name in measures}
    print_table(
        console, "Generators", ("model", *(MEASURES[name] for name in measures)), rows, reasons
    )


def print_descriptions(rows: Mapping[str, Mapping[str, Any]], console: Console) -> None:
    """Print every description metric of one model, by bucket, and its intervals."""
    buckets = [bucket for bucket in _BUCKETS if any(bucket in row for row in rows.values())]
    means = {
        metric: [*(_show(row.get(b)) for b in buckets), str(row["undefined"])]
        for metric, row in rows.items()
    }
    print_table(console, "Description metrics", ("metric", *buckets, "undefined"), means)
    if any(row.get("interval") for row in rows.values()):
        spans = {
            metric: [_ends(row["interval"].get(b)) for b in buckets] for metric, row in rows.items()
        }
        print_table(console, "95 % intervals", ("metric", *buckets), spans)


def print_comparison(comparison: Mapping[str, Any], console: Console) -> None:
    """Print the verdict, what failed, and each variant with its differences, those from the
    reference for all its seeds together."""
    console.print()
    say(console, comparisons.headline(comparison), style="bold")
    for name, reason in comparison["failed"].items():
        print_marked(console, "✗", "red", f"{name}: {reason}")
    reference, labels = (
        comparison["reference"],
        {name: MEASURES[name] for name in comparisons.MEASURES},
    )
    against = {
        name: [
            str(len(row["variants"])),
            *(_span(row["over_reference"][measure]) for measure in labels),
        ]
        for name, row in comparison["groups"].items()
        if row["over_reference"] is not None
    }
    # Reasons by measure alone: in one column of a table they are the same for every variant.
    endings = {path.rsplit(".", 1)[-1]: why for path, why in comparison["absent"].items()}
    reasons = {label: endings.get(name, "") for name, label in labels.items()}
    if against:
        title = f"Minus {reference} (same prompts and noise, 95 % intervals over prompts)"
        print_table(console, title, ("variant", "seeds", *labels.values()), against, reasons)
    gains = {
        name: [_show(row["seed"]), *(_span(row["over_base"][measure]) for measure in labels)]
        for name, row in comparison["variants"].items()
    }
    print_table(
        console,
        "Minus the base model",
        ("variant", "seed", *labels.values()),
        gains,
        reasons | {"seed": endings.get("seed", "")},
    )
    spent = {
        name: [
            _show(row["cost"]["gpu_hours"]),
            f"{row['cost']['seconds']:.0f}",
            _tripped(row["monitors"]),
        ]
        for name, row in comparison["variants"].items()
    }
    unknown = {
        "GPU-hours": "not every run says what it held",
        "monitors tripped": endings.get("monitors", ""),
    }
    print_table(
        console,
        "What each took",
        ("variant", "GPU-hours", "seconds", "monitors tripped"),
        spent,
        unknown,
    )


def validity_lines(calibration: Calibration, min_auc: float | None) -> Iterator[str]:
    """Lines of two tables, a formulation a line: AUCs with their 95 % intervals on both splits; the
    rest on the test split, the verdict."""
    tested = calibration.splits["test"]
    wide = max(len("reward"), *map(len, tested))
    yield f"{'reward':<{wide}}{'AUC, validation':>22}{'AUC, test':>22}"
    splits = {name: (calibration.splits["validation"][name], row) for name, row in tested.items()}
    known = {
        name: rows
        for name, rows in splits.items()
        if any(row["auc_high_vs_low"] is not None for row in rows)
    }
    for name, rows in known.items():
        yield f"{name:<{wide}}" + "".join(f"{_auc(of_split):>22}" for of_split in rows)
    # Named in one line: a row of dashes would take a line of the log for each.
    if lacking := [name for name in tested if name not in known]:
        yield f"no AUC: {', '.join(lacking)}"
    yield f"{'reward':<{wide}}{'Pearson':>9}{'Spearman':>10}{'length':>8}  gate"
    for name, row in tested.items():
        numbers = f"{_cell(row['pearson']):>9}{_cell(row['spearman']):>10}{_cell(row['length_correlation']):>8}"
        marks = {
            "chosen": name == calibration.reward,
            "recommended": name == calibration.recommended,
        }
        verdict = [
            "passes" if passes(row, min_auc) else "blocked",
            *(mark for mark, on in marks.items() if on),
        ]
        yield f"{name:<{wide}}{numbers}  {', '.join(verdict)}"


def _by_bucket(row: Mapping[str, Any]) -> list[str | None]:
    return [
        *(_show(row.get(bucket)) for bucket in _BUCKETS),
        _ends((row.get("interval") or {}).get("all")),
    ]


def _auc(measured: Mapping[str, Any]) -> str:
    span = measured["auc_interval"]
    return _cell(measured["auc_high_vs_low"]) + (f" [{span[0]:.3f}, {span[1]:.3f}]" if span else "")


def _tripped(monitors: Mapping[str, str] | None) -> str | None:
    return None if monitors is None else ", ".join(monitors) or "none"


def _ends(span: Sequence[float] | None) -> str | None:
    return None if span is None else f"{span[0]:.3f}–{span[1]:.3f}"


def _span(row: Mapping[str, Any] | None) -> str | None:
    return None if row is None else f"{row['mean']:+.3f} ({row['low']:+.3f}, {row['high']:+.3f})"


def _cell(value: float | int | None) -> str:
    return _show(value) or NOT_MEASURED


def _show(value: float | int | None) -> str | None:
    if value is None:
        return None
    return str(value) if isinstance(value, int) else f"{value:.3f}"
