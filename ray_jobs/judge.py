"""The held-out judge that a recipe names. Of all stages only ``evaluate_sd`` may open one: nothing that trains or chooses may read it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from boig_core.errors import RecipeError
from boig_core.evaluation.judges import Judge
from boig_core.vocabulary import Sample


class AdworldJudge:
    """The ad world's oracle under one law, reading company and month from the sample."""

    def __init__(self, law: str) -> None:
        from boig_core.adworld.law import Law
        from boig_core.adworld.oracle import Oracle

        self.name = f"adworld:{law}"
        self._oracle = Oracle(Law.load(law))

    def judge(self, images: Sequence[NDArray[np.uint8]] | NDArray[np.uint8], samples: Sequence[Sample]) -> NDArray[np.float64]:
        """Expected log-likes above the account's level."""
        from boig_core.adworld.export import season_of

        seasons = [season_of(datetime.fromisoformat(sample.timestamp).month) for sample in samples]
        return self._oracle.judge(list(images), [sample.company for sample in samples], seasons)


def open_judge(name: str | None) -> Judge | None:
    """The judge that a recipe names, or None.

    Raises:
        RecipeError: a judge that does not exist.
    """
    if name is None:
        return None
    kind, _, rest = name.partition(":")
    if kind != "adworld" or not rest:
        raise RecipeError(f"evaluation.judge = {name!r}", "must be adworld:LAW", "name a law, its path, or leave it out")
    return AdworldJudge(rest)
