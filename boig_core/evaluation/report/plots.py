"""Three small charts as inline SVG that take their colors from the page's CSS, so that they follow
light and dark.

Lines over steps, differences with their intervals, and what each decile of a reward holds. Leaves
out: choosing what to draw (see `page`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, Final

_WIDTH: Final = 520
_HEIGHT: Final = 220
_LEFT, _TOP, _BOTTOM = 52, 12, 28
_LETTER: Final = 6.6
"""Width of a letter of a label."""


@dataclass(frozen=True)
class Series:
    """One series: its label, and finite x and y."""

    label: str
    xs: Sequence[float]
    ys: Sequence[float]


def line_chart(lines: Sequence[Series]) -> str:
    """Lines on common axes, each labeled at its end; a faint line shows the values, a strong one
    their running mean."""
    every_y = [y for line in lines for y in line.ys]
    xs = _ticks(
        min(line.xs[0] for line in lines), max(line.xs[-1] for line in lines), 5, whole=True
    )
    ys = _ticks(min(every_y), max(every_y), 4)
    x0, x1 = min(line.xs[0] for line in lines), max(line.xs[-1] for line in lines)
    smooth = [_running_mean(line.ys) for line in lines]
    labels = [f"{line.label} {values[-1]:.3g}" for line, values in zip(lines, smooth, strict=True)]
    right = 16 + _LETTER * max(len(label) for label in labels)
    y0, y1 = min(ys[0], min(every_y)), max(ys[-1], max(every_y))

    def px(x: float) -> float:
        return _LEFT + (x - x0) / ((x1 - x0) or 1.0) * (_WIDTH - _LEFT - right)

    def py(y: float) -> float:
        return _HEIGHT - _BOTTOM - (y - y0) / ((y1 - y0) or 1) * (_HEIGHT - _TOP - _BOTTOM)

    parts = [
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(", ".join(line.label for line in lines))}">'
    ]
    for y in ys:
        parts.append(
            f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - right:.1f}" y1="{py(y):.1f}" y2="{py(y):.1f}"/>'
        )
        parts.append(
            f'<text class="tick" x="{_LEFT - 8}" y="{py(y) + 4:.1f}" text-anchor="end">{y:g}</text>'
        )
    for x in xs:
        parts.append(
            f'<text class="tick" x="{px(x):.1f}" y="{_HEIGHT - 8}" text-anchor="middle">{x:g}</text>'
        )
    ends: list[float] = []
    for index, line in enumerate(lines):
        for values, kind in ((line.ys, "raw"), (smooth[index], "mean")):
            path = " ".join(
                f"{px(x):.1f},{py(y):.1f}" for x, y in zip(line.xs, values, strict=True)
            )
            parts.append(f'<polyline class="s{index} {kind}" points="{path}"/>')
        end = py(smooth[index][-1])
        while any(abs(end - other) < 14 for other in ends):
            end -= 14  # upwards: losses end at the bottom
        ends.append(end)
        parts.append(
            f'<text class="label s{index}" x="{px(line.xs[-1]) + 8:.1f}" y="{end + 4:.1f}">{escape(labels[index])}</text>'
        )
    return "".join([*parts, "</svg>"])


def whiskers(rows: Sequence[tuple[str, Mapping[str, Any]]], digits: int = 2) -> str:
    """Differences (mean, low, high) as dots with intervals around a line at zero; empty when there
    is nothing to draw."""
    if not rows:
        return ""
    step, label = 34, max(130, 7 * max(len(name) for name, _ in rows))
    # 0 is always in sight: whether an interval crosses it is what the chart is for.
    reach = [0.0, *(row[end] for _, row in rows for end in ("low", "high"))]
    x0, x1 = min(reach), max(reach)
    margin = 0.06 * ((x1 - x0) or 1)
    spans = [
        f"{row['mean']:+.{digits}f} ({row['low']:+.{digits}f}, {row['high']:+.{digits}f})"
        for _, row in rows
    ]
    # Seven units a letter, roughly: text cannot be measured before it is drawn.
    room = 7 * max(len(span) for span in spans)  # of the numbers on the right

    def px(x: float) -> float:
        return float(
            label + 10 + (x - x0 + margin) / (x1 - x0 + 2 * margin) * (_WIDTH - label - 10 - room)
        )

    height = step * len(rows) + 8
    parts = [
        f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="differences from the base with 95 % intervals">'
    ]
    parts.append(f'<line class="zero" x1="{px(0):.1f}" x2="{px(0):.1f}" y1="2" y2="{height - 4}"/>')
    for index, ((name, row), span) in enumerate(zip(rows, spans, strict=True)):
        y = step * index + step / 2 + 2
        clear = "clear" if row["low"] > 0 or row["high"] < 0 else "open"
        parts.append(
            f'<text class="label" x="{label - 4}" y="{y + 4}" text-anchor="end">{escape(name)}</text>'
        )
        parts.append(
            f'<line class="whisker" x1="{px(row["low"]):.1f}" x2="{px(row["high"]):.1f}" y1="{y}" y2="{y}"/>'
        )
        parts.append(f'<circle class="dot {clear}" cx="{px(row["mean"]):.1f}" cy="{y}" r="5"/>')
        parts.append(
            f'<text class="tick" x="{_WIDTH - 4}" y="{y + 4}" text-anchor="end">{span}</text>'
        )
    return "".join([*parts, "</svg>"])


def reliability(deciles: Sequence[Mapping[str, Any]]) -> str:
    """What the deciles of a reward hold: bars for the share of HIGH images, dots for the mean
    normalized KPI, and the images' counts.

    Args:
        deciles: rows of `evaluation.measure.validity.Decile`, at least one. The dashed lines are
            the means over all of them.
    """
    total = sum(row["n"] for row in deciles)
    # At least 0.05, so that deciles without any HIGH image do not divide by zero.
    top = max(0.05, *(row["share_high"] for row in deciles)) * 1.05
    panels = (
        ("share_high", 26, 102, 0.0, top, "share of HIGH"),
        ("kpi_normalized", 132, 208, 0.0, 100.0, "mean KPI"),
    )
    step = (_WIDTH - _LEFT - 16) / 10

    def px(decile: int) -> float:
        return float(_LEFT + (decile - 0.5) * step)

    parts = [
        f'<svg viewBox="0 0 {_WIDTH} 252" role="img" aria-label="share of HIGH images and mean KPI by decile of the reward">'
    ]
    for key, upper, lower, y0, y1, title in panels:

        def py(
            y: float, upper: int = upper, lower: int = lower, y0: float = y0, y1: float = y1
        ) -> float:
            return lower - (y - y0) / (y1 - y0) * (lower - upper)

        for y in _ticks(y0, y1, 2):
            parts.append(
                f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - 16}" y1="{py(y):.1f}" y2="{py(y):.1f}"/>'
            )
            parts.append(
                f'<text class="tick" x="{_LEFT - 8}" y="{py(y) + 4:.1f}" text-anchor="end">{y:g}</text>'
            )
        for row in deciles:
            x, y, half = px(row["decile"]), py(row[key]), 0.36 * step
            bar = f'<rect class="share" x="{x - half:.1f}" y="{y:.1f}" width="{2 * half:.1f}" height="{lower - y:.1f}"/>'
            parts.append(
                bar
                if key == "share_high"
                else f'<circle class="dot clear" cx="{x:.1f}" cy="{y:.1f}" r="4.5"/>'
            )
        mean = py(sum(row["n"] * row[key] for row in deciles) / total)
        parts.append(
            f'<line class="zero" x1="{_LEFT}" x2="{_WIDTH - 16}" y1="{mean:.1f}" y2="{mean:.1f}"/>'
        )
        parts.append(f'<text class="label" x="{_LEFT}" y="{upper - 8}">{title}</text>')
    for y, key in ((227, "decile"), (245, "n")):
        parts.append(f'<text class="tick" x="{_LEFT - 8}" y="{y}" text-anchor="end">{key}</text>')
        parts += [
            f'<text class="tick" x="{px(row["decile"]):.1f}" y="{y}" text-anchor="middle">{escape(str(row[key]))}</text>'
            for row in deciles
        ]
    return "".join([*parts, "</svg>"])


def _running_mean(values: Sequence[float]) -> list[float]:
    # About a twelfth of the curve in each mean, whatever its length.
    reach = max(1, len(values) // 25)
    windows = [values[max(0, i - reach) : i + reach + 1] for i in range(len(values))]
    return [sum(window) / len(window) for window in windows]


def _ticks(low: float, high: float, about: int, whole: bool = False) -> list[float]:
    """Round numbers within [low, high], about so many."""
    rough = ((high - low) or 1.0) / about
    power = 10.0 ** math.floor(math.log10(rough))
    # A little tolerance: rounding must not skip the step that fits exactly.
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= rough * 0.999)
    if whole:
        step = max(1.0, round(step))
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)] or [low]
