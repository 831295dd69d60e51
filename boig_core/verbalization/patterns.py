"""Which pattern of behavior fine-tuning a sample meets in a pass over the data, and how far off its
approximate KPIs are.

Both are functions of (seed, sample, pass) alone: a resumed training goes on with the same ones, and
BoigLLM and its no-KPI twin meet the same. Of further KPIs each pass tells a part, drawn anew, so
that a model can be asked by any set of them, and by the main one alone, as rewards do; answers hold
all. The twin's prompts lack the line of the KPIs, so for it ``aim_predict`` is ``predict``, and
``aim_describe`` asks it to describe the image and to say what it reached. Leaves out: the wording
(see `templates`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final, get_args

from boig_core.config import Pattern, Recipe
from boig_core.verbalization.templates import (
    KpiCondition,
    Prompt,
    Wording,
    build_answer,
    build_prompt,
    condition_of,
)
from boig_core.vocabulary import Sample

PATTERNS: Final[tuple[Pattern, ...]] = get_args(Pattern)
_APPROXIMATE: Final = ("aim_describe", "aim_predict")


@dataclass(frozen=True)
class Mix:
    """The mix of patterns of one training.

    Attributes:
        wording: how it asks.
        weights: of the patterns.
        noise: largest relative error of an approximate KPI; errors are drawn evenly (the authors
            name a size, 20 %, and no distribution).
        seed: of patterns and errors.
        with_kpi: whether prompts state KPIs; without, the twin.
    """

    wording: Wording
    weights: Mapping[Pattern, float]
    noise: float
    seed: int
    with_kpi: bool

    @classmethod
    def of(cls, recipe: Recipe, *, with_kpi: bool) -> Mix:
        """The mix that a recipe asks for."""
        return cls(
            Wording.of(recipe), recipe.llm.patterns, recipe.llm.kpi_noise, recipe.seed, with_kpi
        )

    def pattern(self, sample: Sample, turn: int) -> Pattern:
        """The pattern that a sample meets in pass ``turn``."""
        # Whatever the order of a recipe's lines.
        chosen = [pattern for pattern in PATTERNS if self.weights.get(pattern, 0) > 0]
        left = self._chance(sample, turn, "pattern") * sum(
            self.weights[pattern] for pattern in chosen
        )
        for pattern in chosen:
            left -= self.weights[pattern]
            if left < 0:
                return pattern
        # Rounding may leave a little beyond the last weight.
        return chosen[-1]

    def varies(self, pattern: Pattern) -> bool:
        """Whether a sample's prompt differs between passes that meet it in the same pattern."""
        # The twin's prompts tell no KPI, nor do those of `predict`, so nothing in them can change.
        return self.with_kpi and (
            pattern in _APPROXIMATE or (pattern == "describe" and bool(self.wording.more))
        )

    def worded(self, sample: Sample, turn: int) -> tuple[Prompt, str]:
        """Prompt and answer of a sample in pass ``turn``."""
        pattern = self.pattern(sample, turn)
        kpi = None
        if self.with_kpi and pattern != "predict":
            every = condition_of(sample, self.wording)
            exact = replace(
                every,
                more=tuple(
                    kpi for kpi in every.more if self._chance(sample, turn, f"tell {kpi[0]}") < 0.5
                ),
            )
            kpi = self.approximate(exact, sample, turn) if pattern in _APPROXIMATE else exact
        return build_prompt(sample, kpi, self.wording, pattern), build_answer(
            sample, self.wording, pattern
        )

    def approximate(self, exact: KpiCondition, sample: Sample, turn: int) -> KpiCondition:
        """The KPIs, each off by at most ``noise`` of its value, without the labels, which would
        tell the exact bucket."""
        more = tuple(
            (name, self._off(kpi.value, sample, turn, f"more {name}")) for name, kpi in exact.more
        )
        return KpiCondition(self._off(exact.value, sample, turn, "kpi").value, None, more)

    def _off(self, value: float, sample: Sample, turn: int, what: str) -> KpiCondition:
        return KpiCondition(
            value * (1 + self.noise * (2 * self._chance(sample, turn, what) - 1)), None
        )

    def _chance(self, sample: Sample, turn: int, what: str) -> float:
        """Even in [0, 1): a hash instead of a generator, because it is a function of names."""
        # Parted by a byte that no name holds, so that no two draws hash the same text.
        drawn = hashlib.blake2b(
            f"{self.seed}\0{turn}\0{what}\0{sample.id}".encode(), digest_size=8
        ).digest()
        # 53 bits are what a float holds exactly, so that the largest draw stays below 1.
        return (int.from_bytes(drawn) >> 11) / 2**53
