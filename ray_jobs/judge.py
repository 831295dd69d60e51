"""The held-out judge that a recipe names. Of all stages only ``evaluate_sd`` may open one: nothing
that trains or chooses may read it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from boig_core.evaluation.measure.judges import Judge
from boig_core.llm.predictor import load_predictor
from boig_core.rewards.scorer import Perceives, look
from boig_core.storage.stage import Workspace
from boig_core.vocabulary import Sample


class AdworldJudge:
    """The ad world's oracle under one law, reading company, month and text from the sample."""

    def __init__(self, law: str) -> None:
        from boig_core.adworld.law import Law
        from boig_core.adworld.oracle import Oracle

        self.name = f"adworld:{law}"
        self._oracle = Oracle(Law.load(law))

    def judge(
        self, images: Sequence[NDArray[np.uint8]] | NDArray[np.uint8], samples: Sequence[Sample]
    ) -> NDArray[np.float64]:
        """Expected log-likes above the account's level."""
        from boig_core.adworld.export import season_of

        seasons = [season_of(datetime.fromisoformat(sample.timestamp).month) for sample in samples]
        return self._oracle.judge(
            list(images),
            [sample.company for sample in samples],
            seasons,
            [sample.text for sample in samples],
        )


class PredictorJudge:
    """An engagement predictor that learnt from the split ``judge``, which nothing else learns from;
    it sees what perception sees.

    Args:
        folder: of the published judge.
        perceiver: measures images.
    """

    name = "engagement predictor of the split judge"

    def __init__(self, folder: Path, perceiver: Perceives) -> None:
        self._predictor, self._perceiver = load_predictor(folder), perceiver

    def judge(
        self, images: Sequence[NDArray[np.uint8]] | NDArray[np.uint8], samples: Sequence[Sample]
    ) -> NDArray[np.float64]:
        """Expected KPI within the account, 0 to 100."""
        return self._predictor.predict(samples, look(self._perceiver, images, samples))


def open_judge(space: Workspace, perceiver: Perceives) -> Judge | None:
    """The judge that a job's recipe names, or None.

    Raises:
        InputError: a law that does not exist; the job lacks the input ``judge`` that a predictor
            is, or it is none.
    """
    name = space.recipe.evaluation.judge
    if name is None:
        return None
    if name == "predictor":
        return PredictorJudge(space.fetch("judge", "judge")[0], perceiver)
    return AdworldJudge(name.removeprefix("adworld:"))
