"""What evaluation samples: the prompts, the noise, and the rows of the report with the model and
the prompts that each takes.

Prompts are texts of test posts, evenly out of the KPI buckets: whoever asks for an image does not
know how the post will do. Leaves out: sampling (`boig_core.cluster.evaluation`) and measuring
(`generation`). Shape letters: N = P x K images, P prompts, K images per prompt.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal

import numpy as np

from boig_core.config import Evaluation, Recipe, Rewrite
from boig_core.errors import InputError
from boig_core.observability.logs import get_logger
from boig_core.vocabulary import BUCKETS, Sample

log = get_logger(__name__)

STREAM: Final = 7_301
"""Keeps the draws of evaluation apart from those of the rollouts."""
CHAMPION: Final = "champion"
"""Row of the model that is served now, where there is one: what a candidate must beat."""


@dataclass(frozen=True)
class EvaluationRow:
    """How one row of the report is sampled.

    Attributes:
        model: which model.
        rewrite: how its prompts are rewritten; None: not at all.
        guided: with the deployment's guidance; else without any.
    """

    model: Literal["base", "high_kpi", "boigsd", "champion"]
    rewrite: Rewrite | None = None
    guided: bool = True

    def guidance(self, settings: Evaluation) -> float:
        """Classifier-free guidance; 1 is none."""
        return settings.guidance if self.guided else 1.0

    def forwards(self, settings: Evaluation) -> int:
        """Forward passes of the UNet for one image."""
        return settings.sampling_steps * (2 if self.guidance(settings) > 1 else 1)


ROWS: Final[Mapping[str, EvaluationRow]] = {
    "base": EvaluationRow("base"),
    "high_kpi": EvaluationRow("high_kpi"),
    "boigsd": EvaluationRow("boigsd"),
    CHAMPION: EvaluationRow("champion"),
    "prompt_rewrite": EvaluationRow("base", "retrieval"),
    "boigsd_prompt_rewrite": EvaluationRow("boigsd", "retrieval"),
    "description_rewrite": EvaluationRow("base", "boigllm"),
    "boigsd_description_rewrite": EvaluationRow("boigsd", "boigllm"),
    "base_unguided": EvaluationRow("base", guided=False),
    "boigsd_unguided": EvaluationRow("boigsd", guided=False),
}
"""Every row that is sampled; those of best-of-N pick from the images of others."""


@dataclass(frozen=True)
class Plan:
    """The images that each row makes.

    Attributes:
        samples: P samples whose texts are the prompts.
        images_per_prompt: K.
        seeds: of the starting noise of each of the N images, the same for all rows.
        rewritten: P prompts for each way of rewriting that is asked for; their images are measured
            as the samples' own.
    """

    samples: tuple[Sample, ...]
    images_per_prompt: int
    seeds: tuple[int, ...]
    rewritten: Mapping[Rewrite, tuple[str, ...]] = field(default_factory=dict)

    @property
    def owners(self) -> list[Sample]:
        """Sample of each image (N)."""
        return [sample for sample in self.samples for _ in range(self.images_per_prompt)]

    def rows(self, settings: Evaluation, *, champion: bool = False) -> dict[str, EvaluationRow]:
        """Those of `ROWS` that are sampled; the champion's where there is one."""
        return {
            name: row
            for name, row in ROWS.items()
            if reason(row, settings) is None and (champion or name != CHAMPION)
        }

    def prompts(self, row: EvaluationRow) -> list[str]:
        """Prompt of each image (N) of a row."""
        texts = (
            [sample.text for sample in self.samples]
            if row.rewrite is None
            else self.rewritten[row.rewrite]
        )
        return [text for text in texts for _ in range(self.images_per_prompt)]


def reason(row: EvaluationRow, settings: Evaluation) -> str | None:
    """Why a row is not sampled; None: it is."""
    if row.rewrite is not None and row.rewrite not in settings.rewrite:
        return f"evaluation.rewrite does not name {row.rewrite}"
    if not row.guided and not settings.unguided:
        return "evaluation.unguided is false"
    if not row.guided and settings.guidance == 1:
        return "evaluation.guidance is 1, so every row is without guidance"
    return None


def without_boigsd(name: str) -> str:
    """The row that differs from one of BoigSD's in the model alone: what BoigSD adds to."""
    # Found by what rows are, not by their names: a new row of BoigSD cannot be paired with a wrong
    # one.
    same = replace(ROWS[name], model="base")
    return next(other for other, row in ROWS.items() if row == same)


def make_plan(samples: Sequence[Sample], recipe: Recipe) -> Plan:
    """Choose prompts: distinct texts of test samples, buckets in turn, drawn by the recipe's seed.

    Raises:
        InputError: fewer than two of them.
    """
    test = (
        sample
        # By id, so that the draw does not depend on the order in which a dataset is read.
        for sample in sorted(samples, key=lambda s: s.id)
        if sample.split == "test" and sample.bucket is not None
    )
    texts: dict[str, Sample] = {}
    for sample in test:
        # Distinct texts: the same prompt twice would count as two clusters.
        texts.setdefault(sample.text, sample)
    distinct, settings = list(texts.values()), recipe.evaluation
    if len(distinct) < 2:
        raise InputError(
            f"{len(distinct)} distinct prompts of test samples",
            "must be at least 2",
            "ingest more posts",
        )
    if len(distinct) < settings.prompts:
        log.warning(
            "the test split has %d distinct prompts, fewer than evaluation.prompts = %d",
            len(distinct),
            settings.prompts,
        )
    shuffled = [
        distinct[index]
        for index in np.random.default_rng([recipe.seed, STREAM]).permutation(len(distinct))
    ]
    # In turns, so that buckets share alike whatever number is asked for; a bucket that runs out
    # leaves its turns to the others.
    turns = itertools.zip_longest(
        *([sample for sample in shuffled if sample.bucket == bucket] for bucket in BUCKETS)
    )
    drawn = [sample for turn in turns for sample in turn if sample is not None][: settings.prompts]
    chosen = tuple(sorted(drawn, key=lambda sample: sample.id))
    # Seeds depend on the place in the plan alone: every row starts from the same noise, and pairs
    # image by image.
    seeds = np.random.SeedSequence([recipe.seed, STREAM, 1]).generate_state(
        len(chosen) * settings.images_per_prompt
    )
    return Plan(chosen, settings.images_per_prompt, tuple(int(seed) for seed in seeds))
