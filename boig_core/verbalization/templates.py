"""Prompts of behaviour fine-tuning, pattern 1: the exact KPI goes in, colors and tones and objects come out (PAPER section 3).

One short wording for all models: a fine-tuned model needs no list of the palette, and a small one cannot spare the tokens. The KPI
stands in the last line, so that prompts which differ in the KPI alone share everything before it. The no-KPI twin's prompt is the same
without that line. Leaves out: the other three patterns and the answer (see `answer`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from boig_core.vocabulary import Bucket, Sample

ANSWER_FOLLOWS = "answer: "


@dataclass(frozen=True)
class KpiCondition:
    """The KPI that a prompt asks for: its raw ``value`` and the ``label`` of its bucket."""

    value: float
    label: Bucket


def condition_of(sample: Sample) -> KpiCondition:
    """The KPI that a sample reached; a sample without a bucket has no label and cannot be asked about."""
    if sample.bucket is None:
        raise ValueError(f"sample {sample.id} has no KPI bucket")
    return KpiCondition(sample.kpi, sample.bucket)


def build_prompt(sample: Sample, kpi: KpiCondition | None) -> str:
    """The prompt about a post, up to where the answer begins.

    Args:
        sample: whose company, date, text, keywords and resolution are told; its own KPI and description are not.
        kpi: what to aim at; none: the no-KPI twin's prompt.
    """
    lines = [
        f"{_line(sample.company)} {sample.timestamp[:10]}",
        _line(sample.text),
        f"{_line(', '.join(sample.keywords))} {sample.width}x{sample.height}".strip(),
    ]
    if kpi is not None:
        lines.append(f"kpi: {print_kpi(kpi.value)} {kpi.label}")
    return "\n".join(lines) + "\n" + ANSWER_FOLLOWS


def print_kpi(value: float) -> str:
    """A KPI in as few characters as tell it: counts whole, rates to three digits."""
    return f"{value:.0f}" if value >= 100 or value == round(value) else f"{value:.3g}"


def _line(text: str) -> str:
    """Text on one line: a post must not be able to write lines of the prompt."""
    return re.sub(r"\s+", " ", text).strip()
