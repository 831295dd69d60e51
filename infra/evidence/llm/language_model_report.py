"""Numbers and tables of `language_model`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from boig_core.vocabulary import Description, Sample
from infra.evidence.published import PublishedTable


@dataclass(frozen=True)
class Outcome:
    """What was done on one dataset.

    Attributes:
        title: that readers see.
        samples: of all splits.
        description: URI of the answers of trained models and baselines.
        training: metrics by model.
        prompted: descriptions by way of prompting and sample id.
        settings: what differs from the tiny recipe.
    """

    title: str
    samples: Sequence[Sample]
    description: str
    training: Mapping[str, Any]
    prompted: Mapping[str, Mapping[str, Description | None]]
    settings: Sequence[str]


def measured(home: Path, outcomes: Mapping[str, Outcome]) -> dict[str, Any]:
    """All numbers."""
    return {name: dict(outcome.training) for name, outcome in outcomes.items()}


def lines(result: Mapping[str, Any]) -> list[str]:
    """What is printed."""
    return [f"{name}: {numbers}" for name, numbers in result.items()]


def published_table(result: Mapping[str, Any]) -> PublishedTable | None:
    """What is published."""
    return None
